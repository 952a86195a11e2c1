"""Confidence intervals of hit rates with few hits or misses, and of differences where few images differ.

The bootstrap cannot see what no sampled image shows: its interval of 0 hits is [0, 0], and with few hits it is too short. Below
`FEW` images with a hit (or with a miss), Wilson's interval (1927, J. American Statistical Association 22) takes its place, with
the number of queries that the correlation of an image's captions leaves (Korn and Graubard 1998, Survey Methodology 24).
docs/statistics.md has the measured coverage of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt

FEW = 20


@dataclass(frozen=True)
class HitCounts:
    """Images with a hit, images with a miss, all images, and queries."""

    hit: int
    missed: int
    images: int
    queries: int

    @property
    def rare(self) -> int:
        """The images that show the rarer outcome."""
        return min(self.hit, self.missed)


def effective_queries(rate: float, variance: float, counts: HitCounts) -> float:
    """Return the number of independent queries with the variance of a rate in [0, 1].

    Few images estimate the variance poorly, so that it is shrunk towards fully correlated captions, as if one of the images with
    the rarer outcome were such an image. Without such an image, each image counts as one query.

    >>> effective_queries(0.0, 0.0, HitCounts(0, 100, 100, 500))
    100.0
    >>> round(effective_queries(0.1, 0.0009, HitCounts(10, 100, 100, 100)))
    100
    """
    if not counts.rare or not 0 < rate < 1:
        return float(counts.images)
    seen = max(variance / (rate * (1 - rate)), 1 / counts.queries)
    return 1 / (seen + (1 / counts.images - seen) / counts.rare)


def wilson_interval(rate: float, queries: float, quantile: float) -> tuple[float, float]:
    """Return Wilson's score interval of a rate in [0, 1]. quantile: of the standard normal or of t, such as 1.96.

    >>> [round(end, 3) for end in wilson_interval(0.0, 100, 1.96)], [round(end, 3) for end in wilson_interval(0.5, 10, 1.96)]
    ([0.0, 0.037], [0.237, 0.763])
    """
    square = quantile**2 / queries
    centre = (rate + square / 2) / (1 + square)
    radius = sqrt(square * (rate * (1 - rate) + square / 4)) / (1 + square)
    return max(0.0, centre - radius), min(1.0, centre + radius)


def difference_interval(ahead: float, behind: float, images: float, quantile: float) -> tuple[float, float]:
    """Return the interval of ahead - behind, in [-1, 1], from Wilson's intervals of both parts.

    ahead, behind: the mean gain over the images on which one tower is ahead, and the mean loss over those on which it is behind,
    as shares of all images. The distances of both ends add in squares (Newcombe 1998, Statistics in Medicine 17; Zou and Donner
    2008, Statistics in Medicine 27). Two towers that hit the same images have an interval around 0, not [0, 0].

    >>> [round(end, 3) for end in difference_interval(0.0, 0.0, 100, 1.96)]
    [-0.037, 0.037]
    """
    (low, high), (least, most) = (wilson_interval(part, images, quantile) for part in (ahead, behind))
    difference = ahead - behind
    down, up = hypot(ahead - low, most - behind), hypot(high - ahead, behind - least)
    return max(-1.0, difference - down), min(1.0, difference + up)
