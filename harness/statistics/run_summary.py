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
    """One tower in one direction: each column of the table in percent with its interval, and the median rank."""

    label: str
    intervals: tuple[Interval, ...]
    median_rank: float
    images: int
    captions: int


@dataclass(frozen=True)
class TowerContrast:
    """The headline of one tower minus that of another, over the same queries."""

    label: str
    difference: Difference


@dataclass(frozen=True)
class TowerGap:
    """(tower - floor) / (English on the same captions - floor), by the headline: 0 is no distillation, 1 is English."""

    label: str
    share: Interval


@dataclass(frozen=True)
class Summary:
    """What one direction of a table shows. columns: hit rates, then measures. headline: the one that contrasts and gaps are of.

    chance: of each column, in percent; None where it is not known. upper_bound: the hit rate that the candidates of grounding
    allow, in percent.
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
    """Figures of one direction. The first distilled tower is what the others are compared with.

    The floor is the first row of the English tower and its ceiling the one over the same images with as many captions.
    """
    plain = [tower for tower in towers if tower.record.scorer == PLAIN]
    distilled = [tower for tower in plain if tower.record.text_tower != ENGLISH_TOWER]
    english = [tower for tower in plain if tower.record.text_tower == ENGLISH_TOWER]
    chance, columns = towers[0].record.chance, tuple(towers[0].values(direction))
    pairs = [(tower, distilled[0]) for tower in distilled[1:]]
    # A scorer stands right behind the plain one of the same tower.
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
    """One tower's figures."""
    values = np.column_stack(list(tower.values(direction).values()))
    intervals = bootstrap_means(values, tower.clusters(direction), resamples=resamples)
    record = tower.record
    return TowerRow(tower.label, tuple(intervals), record.scores[f"{direction}_median_rank"], record.images, record.captions)


def tower_contrast(tower: Measurement, base: Measurement, direction: str, resamples: int) -> TowerContrast:
    """One tower against another."""
    ours, theirs = tower.headline(direction), base.headline(direction)
    difference = paired_difference(ours, theirs, tower.clusters(direction), resamples=resamples)
    return TowerContrast(f"{tower.label} − {base.label}", difference)


def tower_gap(tower: Measurement, floor: Measurement, ceiling: Measurement, direction: str, resamples: int) -> TowerGap:
    """One tower between no distillation and English."""
    student, low, high = (each.headline(direction) for each in (tower, floor, ceiling))
    return TowerGap(tower.label, gap_recovered(student, low, high, tower.clusters(direction), resamples=resamples))
