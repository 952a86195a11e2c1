"""Planning of studies: the power of a comparison, from variance components of earlier measurements.

The difference of two arms on image i with seed s is mu + image_i + seed_s + rest_si, where the parts are independent. The mean
over I images and S seeds has the variance V = image^2 / I + seed^2 / S + rest^2 / (I S).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from scipy.special import nctdtr, stdtrit

from harness.core.data import Doubles
from harness.core.errors import HarnessError
from harness.statistics.inference import ALPHA, degrees_of_freedom


@dataclass(frozen=True)
class VarianceComponents:
    """Standard deviations of a difference between images, between seeds, and of the rest, all in points."""

    image: float
    seed: float
    rest: float

    def error(self, images: int, seeds: int) -> float:
        """Return the standard error of the mean difference.

        >>> VarianceComponents(30.0, 0.0, 40.0).error(images=100, seeds=4)
        3.605551275463989
        """
        return sqrt(self.image**2 / images + self.seed**2 / seeds + self.rest**2 / (images * seeds))


def variance_components(differences: Sequence[Doubles]) -> VarianceComponents:
    """Return the components of differences (s, i) of s seeds on i images, pooled over tables.

    They are the moment estimates of a two-way analysis of variance without replication (Searle, Casella and McCulloch 1992,
    Variance Components, chapter 4); negative ones are 0. Raises HarnessError for no table, and for one with a single seed or
    image.
    """
    if not differences or any(min(table.shape) < 2 for table in differences):
        raise HarnessError("variance components need differences with two or more seeds and images")
    pooled = np.zeros(3)
    for table in differences:
        seeds, images = table.shape
        by_image, by_seed = table.mean(axis=0), table.mean(axis=1)
        rest = table - by_image - by_seed[:, None] + table.mean()
        noise = float(np.square(rest).sum()) / ((seeds - 1) * (images - 1))
        between_images = float(np.var(by_image, ddof=1)) - noise / seeds
        between_seeds = float(np.var(by_seed, ddof=1)) - noise / images
        pooled += (between_images, between_seeds, noise)
    image, seed, noise = np.maximum(pooled / len(differences), 0)
    return VarianceComponents(sqrt(image), sqrt(seed), sqrt(noise))


def power(difference: float, components: VarianceComponents, images: int, seeds: int, tests: int = 1) -> float:
    """Return the probability that a true difference in points is significant with s seeds on i images.

    tests: of the family; the level of each is that of Holm's first step, ALPHA / tests, so that the power is a lower bound. With
    one seed the power is about these towers and ignores the seeds' variance.

    >>> components = VarianceComponents(image=25.0, seed=0.3, rest=30.0)
    >>> [round(power(2.0, components, 1000, seeds), 2) for seeds in (2, 3, 5)]
    [0.34, 0.49, 0.58]
    """
    if seeds == 1:
        components = VarianceComponents(components.image, 0.0, components.rest)
    error = components.error(images, seeds)
    if error == 0:
        return 1.0 if difference else ALPHA
    by_images = (components.image**2 + components.rest**2 / seeds) / images
    net = components.seed**2 / seeds
    gross = net + components.rest**2 / (images * seeds)
    free = degrees_of_freedom(by_images, images, [(net, gross, seeds - 1)]) if seeds > 1 else inf
    free = min(free, 1e6)
    critical = stdtrit(free, 1 - ALPHA / (2 * tests))
    shift = abs(difference) / error
    return float(1 - nctdtr(free, shift, critical) + nctdtr(free, shift, -critical))


def seeds_for_power(
    difference: float, components: VarianceComponents, images: int, tests: int = 1, wanted: float = 0.8, most: int = 50
) -> int | None:
    """Return the least number of seeds, from two to `most`, with the wanted power; None if `most` do not suffice."""
    return next((seeds for seeds in range(2, most + 1) if power(difference, components, images, seeds, tests) >= wanted), None)
