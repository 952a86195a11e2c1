"""Scores by groups of captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.data import Ints, Retrieval
from harness.core.errors import HarnessError
from harness.core.suggestions import nearest
from harness.statistics.inference import Interval, bootstrap_means
from harness.statistics.measurement import Measurement

CaptionFacet = Sequence[tuple[str, ...]]
ALL_CAPTIONS = "all"


@dataclass(frozen=True)
class FacetGroup:
    """The captions that share one value of a facet.

    intervals: R@1, R@5 and R@10 in percent, text to image.
    """

    value: str
    captions: int
    intervals: tuple[Interval, ...]


def facet_of(retrieval: Retrieval, name: str) -> CaptionFacet:
    """Return a facet of the captions. Raises HarnessError with the known facets if there is none of this name."""
    if name not in retrieval.facets:
        raise HarnessError(f"these {retrieval.lang} captions have no facet {name!r}: {nearest(name, retrieval.facets)}")
    return retrieval.facets[name]


def break_down(tower: Measurement, facet: CaptionFacet, resamples: int) -> tuple[FacetGroup, ...]:
    """Return the scores of one tower for each value of a facet, then for all captions.

    A caption counts under each of its values. If each caption has one value, such as its length, the groups are a partition.
    """
    hits, clusters = tower.hits("t2i"), tower.clusters("t2i")
    groups = []
    for value, captions in captions_by_value(facet).items():
        intervals = bootstrap_means(hits[captions], clusters[captions], hit=100, resamples=resamples)
        groups.append(FacetGroup(value, len(captions), tuple(intervals)))
    return (*groups, FacetGroup(ALL_CAPTIONS, len(hits), tuple(bootstrap_means(hits, clusters, hit=100, resamples=resamples))))


def captions_by_value(facet: CaptionFacet) -> dict[str, Ints]:
    """Return the captions that have each value, as ascending indices. Values are in the order of `facet_values`.

    >>> {value: captions.tolist() for value, captions in captions_by_value([("people",), ("scene", "people"), ()]).items()}
    {'people': [0, 1], 'scene': [1]}
    """
    captions: dict[str, list[int]] = {value: [] for value in facet_values(facet)}
    for place, values in enumerate(facet):
        for value in dict.fromkeys(values):
            captions[value].append(place)
    return {value: np.array(places, dtype=np.int64) for value, places in captions.items()}


def facet_values(facet: CaptionFacet) -> list[str]:
    """Return the values of a facet: numbers in ascending order, then words in alphabetical order.

    >>> facet_values([("8-12",), ("scene", "people"), ("13-20",)])
    ['8-12', '13-20', 'people', 'scene']
    """

    def order(value: str) -> tuple[float, str]:
        number = re.match("[0-9]+", value)
        return (int(number[0]) if number else np.inf, value)

    return sorted({value for of in facet for value in of}, key=order)
