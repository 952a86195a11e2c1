"""Token or patch states of many items in one matrix, without padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.core.data import Floats, Ints


@dataclass(frozen=True)
class PackedStates:
    """n items as bags of states, packed: item i owns `lengths[i]` rows, in order.

    rows: (sum(lengths), d), float16 or float32, of any length; may be a memory map. lengths: (n,), at least 1 each.
    """

    rows: npt.NDArray[Any]
    lengths: Ints

    @classmethod
    def single(cls, embeddings: Floats) -> PackedStates:
        """Items of one state each, (n, d): their late interaction is the cosine."""
        return cls(embeddings, np.ones(len(embeddings), np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> Ints:
        """(n,), where each item's rows start."""
        starts: Ints = np.cumsum(self.lengths) - self.lengths
        return starts

    def take(self, items: Ints) -> PackedStates:
        """Some items, in the given order, read into memory."""
        if not len(items):
            return PackedStates(self.rows[:0], self.lengths[:0])
        lengths = self.lengths[items]
        if (np.diff(items) == 1).all():  # one stretch of a file, in one piece
            first, last = items[0], items[-1]
            return PackedStates(np.asarray(self.rows[self.starts[first] : self.starts[last] + self.lengths[last]]), lengths)
        ends = self.starts + self.lengths
        return PackedStates(np.concatenate([self.rows[self.starts[item] : ends[item]] for item in items.tolist()]), lengths)
