"""Scores of the towers of one run: intervals, differences between towers, and the gap to English that each recovers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.records.schema import ENGLISH_TOWER
from harness.retrieval.scorers import PLAIN
from harness.statistics.inference import Difference, Interval, bootstrap_means, gap_recovered, paired_difference
from harness.statistics.measurement import Measurement


@dataclass(frozen=True)
class TowerRow:
    """Scores of one tower in one direction: each column in percent with its confidence interval, and the median rank.

    hubness: of the candidates, None if the record does not have it.
    """

    label: str
    intervals: tuple[Interval, ...]
    median_rank: float
    images: int
    captions: int
    hubness: float | None = None


@dataclass(frozen=True)
class TowerContrast:
    """The headline measure of one tower minus that of another, over the same queries."""

    label: str
    difference: Difference


@dataclass(frozen=True)
class TowerGap:
    """The recovered gap to English by the headline measure.

    (tower - floor) / (English on the same captions - floor): 0 without distillation, 1 for English.
    """

    label: str
    share: Interval


@dataclass(frozen=True)
class Summary:
    """The scores of one direction.

    columns: hit rates, then measures. headline: the column of contrasts and gaps. chance: of each column, in percent; None if
    unknown. upper_bound: the hit rate that the region proposals of grounding allow, in percent.
    """

    direction: str
    columns: tuple[str, ...]
    headline: str
    chance: tuple[float | None, ...]
    upper_bound: float | None
    rows: tuple[TowerRow, ...]
    contrasts: tuple[TowerContrast, ...]
    gaps: tuple[TowerGap, ...]


def summarise(towers: Sequence[Measurement], direction: str, resamples: int) -> Summary:
    """Return the summary of one direction. Other distilled towers are compared with the first one.

    The floor is the first row of the English tower. The ceiling is its row over the same images with as many captions.
    """
    plain = [tower for tower in towers if tower.record.scorer == PLAIN]
    distilled = [tower for tower in plain if tower.record.text_tower != ENGLISH_TOWER]
    english = [tower for tower in plain if tower.record.text_tower == ENGLISH_TOWER]
    chance, columns = towers[0].record.chance, tuple(towers[0].values(direction))
    pairs = [(tower, distilled[0]) for tower in distilled[1:]]
    # A row with a scorer follows the plain row of the same tower.
    pairs += [(tower, before) for before, tower in pairwise(towers) if tower.record.scorer != PLAIN]
    contrasts = tuple(tower_contrast(tower, base, direction, resamples) for tower, base in pairs)
    floor = english[0]
    ceilings = [tower for tower in english[1:] if np.array_equal(tower.owner, floor.owner)]
    gaps = tuple(tower_gap(tower, floor, ceilings[0], direction, resamples) for tower in distilled) if ceilings else ()
    return Summary(
        direction=direction,
        columns=columns,
        headline=towers[0].record.headline,
        chance=tuple(chance.get(f"{direction}_r{name[2:]}" if name.startswith("R@") else name) for name in columns),
        upper_bound=towers[0].record.scores.get("upper_bound"),
        rows=tuple(tower_row(tower, direction, resamples) for tower in towers),
        contrasts=contrasts,
        gaps=gaps,
    )


def tower_row(tower: Measurement, direction: str, resamples: int) -> TowerRow:
    """Return the scores of one tower."""
    hits, clusters = tower.hits(direction), tower.clusters(direction)
    intervals = bootstrap_means(hits, clusters, hit=100, resamples=resamples)
    measures = [values for name, values in tower.values(direction).items() if not name.startswith("R@")]
    if measures:
        intervals += bootstrap_means(np.column_stack(measures), clusters, resamples=resamples)
    record = tower.record
    return TowerRow(
        tower.label,
        tuple(intervals),
        record.scores[f"{direction}_median_rank"],
        record.images,
        record.captions,
        record.hubness.get(direction),
    )


def tower_contrast(tower: Measurement, base: Measurement, direction: str, resamples: int) -> TowerContrast:
    """Return the difference between a tower and a base tower."""
    ours, theirs = tower.headline(direction), base.headline(direction)
    hit = 100.0 if tower.record.headline.startswith("R@") else None
    difference = paired_difference(ours, theirs, tower.clusters(direction), hit=hit, resamples=resamples)
    return TowerContrast(f"{tower.label} − {base.label}", difference)


def tower_gap(tower: Measurement, floor: Measurement, ceiling: Measurement, direction: str, resamples: int) -> TowerGap:
    """Return the share of the gap between floor and ceiling that a tower recovers."""
    student, low, high = (each.headline(direction) for each in (tower, floor, ceiling))
    return TowerGap(tower.label, gap_recovered(student, low, high, tower.clusters(direction), resamples=resamples))
