"""Token or patch states of many items, packed into one matrix without padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.core.data import Floats, Ints


@dataclass(frozen=True)
class PackedStates:
    """The states of n items: item i has `lengths[i]` rows, in order.

    rows: (sum(lengths), d), float16 or float32, not normalised, possibly a memory map. lengths: (n,), at least 1 each.
    """

    rows: npt.NDArray[Any]
    lengths: Ints

    @classmethod
    def single(cls, embeddings: Floats) -> PackedStates:
        """Return items with one state each, (n, d). Their late interaction is the cosine."""
        return cls(embeddings, np.ones(len(embeddings), np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> Ints:
        """(n,), the first row of each item."""
        starts: Ints = np.cumsum(self.lengths) - self.lengths
        return starts

    def take(self, items: Ints) -> PackedStates:
        """Return some items, in the given order, in memory."""
        if not len(items):
            return PackedStates(self.rows[:0], self.lengths[:0])
        lengths = self.lengths[items]
        if (np.diff(items) == 1).all():  # consecutive items are read as one slice
            first, last = items[0], items[-1]
            return PackedStates(np.asarray(self.rows[self.starts[first] : self.starts[last] + self.lengths[last]]), lengths)
        ends = self.starts + self.lengths
        return PackedStates(np.concatenate([self.rows[self.starts[item] : ends[item]] for item in items.tolist()]), lengths)
