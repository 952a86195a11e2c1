"""Ranks of one record as hit rates and measures of its queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.core.data import Ints, Ranks, Sought
from harness.records.files import load_measures, load_ranks, load_record
from harness.records.schema import Record
from harness.retrieval.ranking import MISSED

Hits = npt.NDArray[np.float64]


HIT_CUTOFFS = (1, 5, 10)


Direction = Literal["t2i", "i2t"]


DIRECTIONS: tuple[Direction, ...] = ("t2i", "i2t")


# By kind of candidate, then by direction.
DIRECTION_TITLES: dict[Sought, dict[str, str]] = {
    "images": {"t2i": "text → image", "i2t": "image → text"},
    "regions": {"t2i": "phrase → region"},
    "texts": {"t2i": "query → English text"},
}


@dataclass(frozen=True)
class Measurement:
    """A record with its ranks.

    owner: (captions,), index of each caption's image in the gallery. measures: by name, (captions,), further measures of each
    text query in percent; empty for image galleries.
    """

    label: str
    record: Record
    ranks: Ranks
    owner: Ints
    measures: Mapping[str, Hits] = field(default_factory=dict)

    @classmethod
    def read(cls, label: str, folder: Path) -> Measurement:
        """Read the folder of a record."""
        ranks, owner = load_ranks(folder)
        return cls(label, load_record(folder), ranks, owner, load_measures(folder))

    def hits(self, direction: str) -> Hits:
        """Return (queries, 3): 100 if a correct candidate is among the first 1, 5 or 10, else 0."""
        ranks = self.ranks.t2i if direction == "t2i" else self.ranks.i2t
        return np.where(ranks[:, None] <= np.array(HIT_CUTOFFS), 100.0, 0.0)

    def values(self, direction: str) -> dict[str, Hits]:
        """Return hit rates and measures by name, (queries,) each, in percent."""
        hits = self.hits(direction)
        return {f"R@{k}": hits[:, place] for place, k in enumerate(HIT_CUTOFFS)} | (
            dict(self.measures) if direction == "t2i" else {}
        )

    def outcomes(self, direction: str) -> dict[str, Hits]:
        """Return all measures that towers can be compared by: `values`, and the reciprocal rank in percent, `MRR`."""
        ranks = self.ranks.t2i if direction == "t2i" else self.ranks.i2t
        return self.values(direction) | {"MRR": np.where(ranks == MISSED, 0.0, 100.0 / ranks)}

    def headline(self, direction: str) -> Hits:
        """Return the task's primary measure, (queries,), by which towers are compared."""
        return self.values(direction)[self.record.headline]

    def clusters(self, direction: str) -> Ints:
        """Return the image of each query, (queries,). Captions of one image are not independent."""
        return self.owner if direction == "t2i" else np.arange(len(self.ranks.i2t))
