"""From records to the figures of a table: scores with intervals, differences between towers, the gap to English."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.api import Ints
from harness.plan import ENGLISH
from harness.ranking import Ranks
from harness.record import Record, load_ranks, load_record
from harness.statistics import Difference, Interval, bootstrap_means, gap_recovered, paired_difference

KS = (1, 5, 10)
DIRECTIONS = ("t2i", "i2t")
Hits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A record with its ranks. owner: (captions,), the image of each caption, as an index into the gallery."""

    label: str
    record: Record
    ranks: Ranks
    owner: Ints

    @classmethod
    def read(cls, label: str, folder: Path) -> Measured:
        """Read a record's folder."""
        ranks, owner = load_ranks(folder)
        return cls(label, load_record(folder), ranks, owner)

    def hits(self, direction: str) -> Hits:
        """(queries, 3): 100 where the right one is among the first 1, 5, 10, else 0."""
        ranks = self.ranks.t2i if direction == "t2i" else self.ranks.i2t
        return np.where(ranks[:, None] <= np.array(KS), 100.0, 0.0)

    def clusters(self, direction: str) -> Ints:
        """(queries,): the image that each query belongs to; captions of one image are not independent."""
        return self.owner if direction == "t2i" else np.arange(len(self.ranks.i2t))


@dataclass(frozen=True)
class Row:
    """One tower in one direction: R@1, R@5 and R@10 in percent with intervals, and the median rank."""

    label: str
    intervals: tuple[Interval, ...]
    median_rank: float
    images: int
    captions: int


@dataclass(frozen=True)
class Contrast:
    """R@1 of one tower minus that of another, over the same queries."""

    label: str
    difference: Difference


@dataclass(frozen=True)
class Gap:
    """(tower - floor) / (English on the same captions - floor), by R@1: 0 is no distillation, 1 is English."""

    label: str
    share: Interval


@dataclass(frozen=True)
class Summary:
    """What one direction of a table shows."""

    direction: str
    chance: tuple[float, ...]
    rows: tuple[Row, ...]
    contrasts: tuple[Contrast, ...]
    gaps: tuple[Gap, ...]


def summarise(towers: Sequence[Measured], direction: str, resamples: int) -> Summary:
    """Figures of one direction. The first distilled tower is what the others are compared with.

    The floor is the first row of the English tower and its ceiling the one over the same images with as many captions.
    """
    distilled = [tower for tower in towers if tower.record.text_tower != ENGLISH]
    english = [tower for tower in towers if tower.record.text_tower == ENGLISH]
    chance = towers[0].record.chance
    contrasts = tuple(contrast(tower, distilled[0], direction, resamples) for tower in distilled[1:])
    floor = english[0]
    ceilings = [tower for tower in english[1:] if np.array_equal(tower.owner, floor.owner)]
    gaps = tuple(gap(tower, floor, ceilings[0], direction, resamples) for tower in distilled) if ceilings else ()
    return Summary(
        direction=direction,
        chance=tuple(chance[f"{direction}_r{k}"] for k in KS),
        rows=tuple(row(tower, direction, resamples) for tower in towers),
        contrasts=contrasts,
        gaps=gaps,
    )


def row(tower: Measured, direction: str, resamples: int) -> Row:
    """One tower's figures."""
    intervals = bootstrap_means(tower.hits(direction), tower.clusters(direction), resamples=resamples)
    record = tower.record
    return Row(tower.label, tuple(intervals), record.scores[f"{direction}_median_rank"], record.images, record.captions)


def contrast(tower: Measured, base: Measured, direction: str, resamples: int) -> Contrast:
    """One tower against another."""
    ours, theirs = tower.hits(direction)[:, 0], base.hits(direction)[:, 0]
    difference = paired_difference(ours, theirs, tower.clusters(direction), resamples=resamples)
    return Contrast(f"{tower.label} − {base.label}", difference)


def gap(tower: Measured, floor: Measured, ceiling: Measured, direction: str, resamples: int) -> Gap:
    """One tower between no distillation and English."""
    student, low, high = (each.hits(direction)[:, 0] for each in (tower, floor, ceiling))
    return Gap(tower.label, gap_recovered(student, low, high, tower.clusters(direction), resamples=resamples))
