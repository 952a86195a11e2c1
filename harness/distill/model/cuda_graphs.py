"""CUDA graphs of a tower's forward and backward pass, recorded once for each shape of batch and replayed.

A GPU runs the hundreds of small steps of a small student faster than Python can launch them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.distill.model.tower import Encoded, TextTower, Tokens, pad_token_ids

# Lengths are padded to a multiple of this, so that few shapes are recorded.
LENGTH_MULTIPLE = 8
# With more padded tokens the GPU takes longer than the launches. A graph keeps the memory of its batch.
MOST_TOKENS = 1 << 14
# For texts as short as captions, cuDNN's attention takes twice the time.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

Forward = Callable[[Tensor, Tensor], Tensor]


@dataclass
class GraphedTower:
    """A tower on a GPU with its training texts: `TextTower.forward` and its gradient as CUDA graphs.

    Each batch overwrites the outputs and gradients of the last batch of the same shape, which must be used before.
    half: whether matrix products are in bfloat16.
    """

    tower: TextTower
    texts: Tokens
    half: bool
    graphs: dict[tuple[int, int], Forward] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        device = self.tower.position_embedding.device
        self.sizes = np.array([len(text) for text in self.texts])
        self.ids, self.lengths = pad_token_ids(self.texts).to(device), torch.from_numpy(self.sizes).to(device)

    def encode(self, rows: Sequence[int]) -> Encoded:
        """Encode the texts of these rows, as `TextTower.encode`."""
        longest = int(self.sizes[rows].max())
        padded_length = min(-(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, self.ids.shape[1])
        at = torch.tensor(rows, device=self.ids.device)
        ids, lengths = self.ids[:, :padded_length][at], self.lengths[at]
        states = self.forward(ids, lengths)[:, :longest]
        return self.tower.encoded(states, lengths)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return token states (B, L, d) of right-padded ids (B, L)."""
        if ids.numel() > MOST_TOKENS:
            with torch.autocast("cuda", torch.bfloat16, enabled=self.half):
                states: Tensor = self.tower(ids, lengths)
            return states
        count, length = ids.shape
        if (count, length) not in self.graphs:
            self.graphs[count, length] = self.record(ids, lengths)
        return self.graphs[count, length](ids, lengths)

    def record(self, ids: Tensor, lengths: Tensor) -> Forward:
        """Record the graphs for ids of this shape."""
        # Weights that autocast has cached for one recording would be freed before its replay.
        with torch.autocast("cuda", torch.bfloat16, enabled=self.half, cache_enabled=False), sdpa_kernel(ATTENTION):
            # A recorded module always replays its graph, so each shape has a module of its own around the tower.
            module = TowerModule(self.tower)
            torch.cuda.make_graphed_callables(module, (ids.clone(), lengths.clone()), allow_unused_input=True)
        return module


class TowerModule(nn.Module):
    """A module that calls a tower."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the tower's output."""
        out: Tensor = self.tower(ids, lengths)
        return out
