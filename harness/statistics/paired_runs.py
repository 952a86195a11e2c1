"""Ranks of paired records, and the English records that bound their gap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.core.builtins import TASKS
from harness.core.data import Ints
from harness.core.errors import HarnessError
from harness.core.plugins import without_code
from harness.records.schema import ENGLISH_TOWER, Record
from harness.statistics.matching import RecordPair, StoredRecord
from harness.statistics.measurement import Measurement


@dataclass(frozen=True)
class PairedRuns:
    """The ranks of a pair of records.

    a, b: measurements of both sides, one for each seed. ends: floor and ceiling of each side's gap to English; None if unknown.
    """

    pair: RecordPair
    a: tuple[Measurement, ...]
    b: tuple[Measurement, ...]
    ends: tuple[tuple[Measurement, Measurement] | None, ...]

    @classmethod
    def of(
        cls, pair: RecordPair, pool: Sequence[StoredRecord], read: Callable[[str, Path], Measurement] = Measurement.read
    ) -> PairedRuns:
        """Read the ranks of a pair. Raises HarnessError if the two sides list different queries."""
        sides = [tuple(read(entry.record.text_tower, entry.folder) for entry in side) for side in (pair.a, pair.b)]
        for entry, tower in zip((*pair.a, *pair.b), (*sides[0], *sides[1]), strict=True):
            if not np.array_equal(tower.owner, sides[0][0].owner) or len(tower.ranks.i2t) != len(sides[0][0].ranks.i2t):
                raise HarnessError(
                    f"{entry.folder} and {pair.a[0].folder} have equal digests but different queries; measure one of them again"
                )
        ends = tuple(gap_references(side[0], sides[0][0].owner, pool) for side in (pair.a, pair.b))
        return cls(pair, sides[0], sides[1], ends)

    @property
    def record(self) -> Record:
        """The first record. All records share its language and captions."""
        return self.pair.a[0].record

    def tier(self) -> str:
        """Return the resource tier of the language. Raises HarnessError if the task does not have the language."""
        languages = TASKS.load(without_code(self.record.task, self.record.cell))().languages()
        if self.record.lang not in languages:
            raise HarnessError(f"--by tier: the task {self.record.task} has no language {self.record.lang!r}; use another --by")
        tier = languages[self.record.lang].tier
        return "unknown" if tier is None else str(tier)

    def clusters(self, direction: str) -> Ints:
        """Return the image of each query, (queries,)."""
        return self.a[0].clusters(direction)


def gap_references(entry: StoredRecord, owner: Ints, pool: Sequence[StoredRecord]) -> tuple[Measurement, Measurement] | None:
    """Return the English tower on the captions of a distilled tower and on its English captions, or None if unknown."""
    record = entry.record
    if record.text_tower == ENGLISH_TOWER:
        return None
    shared = ("sample", "task", "task_version", "split", "images_digest", "encoder_fingerprint", "scorer", "regions")
    english = [
        other
        for other in pool
        if other.record.text_tower == ENGLISH_TOWER
        and all(getattr(other.record, name) == getattr(record, name) for name in shared)
    ]
    floors = [other for other in english if other.record.texts_digest == record.texts_digest]
    ceilings = [other for other in english if other.record.source == f"{record.source} (English side)"]
    if not floors or not ceilings:
        return None
    ends = (Measurement.read("floor", floors[0].folder), Measurement.read("ceiling", ceilings[0].folder))
    return ends if all(np.array_equal(end.owner, owner) for end in ends) else None


@dataclass(frozen=True)
class Subset:
    """Some queries of a pair. rows: (queries,), the selection."""

    laid: PairedRuns
    rows: npt.NDArray[np.bool_]
