"""A tower's work on its batches, recorded once for each shape and played back whole.

A GPU does the hundreds of small steps of a small student quicker than Python can ask for them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.distill.model.tower import Encoded, TextTower, Tokens, pad_token_ids

# Lengths are filled up to a multiple of this, so that few shapes are recorded.
LENGTH_MULTIPLE = 8
# Padded tokens beyond which a GPU is busy for longer than it takes to ask; a recording keeps the memory of its batch.
MOST_TOKENS = 1 << 14
# For texts as short as captions cuDNN's attention takes twice the time.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

Forward = Callable[[Tensor, Tensor], Tensor]


@dataclass
class GraphedTower:
    """A tower on a GPU, and the texts that it is trained on: `TextTower.forward` and its gradient as CUDA graphs.

    Each batch overwrites what the last of the same shape gave, its gradient included: that must be done with before.
    half: whether products are taken in bfloat16.
    """

    tower: TextTower
    texts: Tokens
    half: bool
    plays: dict[tuple[int, int], Forward] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        device = self.tower.position_embedding.device
        self.sizes = np.array([len(text) for text in self.texts])
        self.ids, self.lengths = pad_token_ids(self.texts).to(device), torch.from_numpy(self.sizes).to(device)

    def encode(self, rows: Sequence[int]) -> Encoded:
        """The texts of these rows, as `TextTower.encode` has them."""
        longest = int(self.sizes[rows].max())
        filled = min(-(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, self.ids.shape[1])
        at = torch.tensor(rows, device=self.ids.device)
        ids, lengths = self.ids[:, :filled][at], self.lengths[at]
        states = self.forward(ids, lengths)[:, :longest]
        return self.tower.encoded(states, lengths)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Token states (B, L, d) of right-padded ids (B, L)."""
        if ids.numel() > MOST_TOKENS:
            with torch.autocast("cuda", torch.bfloat16, enabled=self.half):
                states: Tensor = self.tower(ids, lengths)
            return states
        count, length = ids.shape
        if (count, length) not in self.plays:
            self.plays[count, length] = self.record(ids, lengths)
        return self.plays[count, length](ids, lengths)

    def record(self, ids: Tensor, lengths: Tensor) -> Forward:
        """The work on ids of this shape."""
        # Weights cast for one recording would be gone when it is played.
        with torch.autocast("cuda", torch.bfloat16, enabled=self.half, cache_enabled=False), sdpa_kernel(ATTENTION):
            # A module that is recorded plays for itself from then on, so each shape has one of its own around the tower.
            around = TowerModule(self.tower)
            torch.cuda.make_graphed_callables(around, (ids.clone(), lengths.clone()), allow_unused_input=True)
        return around


class TowerModule(nn.Module):
    """A tower's forward, as a module."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """As the tower's."""
        out: Tensor = self.tower(ids, lengths)
        return out
