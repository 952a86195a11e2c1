"""Training only the token embeddings that the training's texts use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import nn

from harness.distill.model.tower import TextTower, Tokens


@contextmanager
def compact_vocabulary(tower: TextTower, texts: Tokens) -> Iterator[Tokens]:
    """Give a tower the token embeddings that n texts use, and no others. Yields the texts in ids of these.

    At the end the tower has all its embeddings again: those of the texts as trained, others unchanged to the bit. In between
    neither the optimiser nor a checkpoint contains the others. Training on 1,000 sentences therefore costs the same with
    250,000 subwords as with the few thousand that occur.

    >>> from harness.distill.model.tower import TowerConfig
    >>> config = TowerConfig(vocab_size=9, width=8, layers=0, heads=2, mlp_width=16, joint_dim=4, max_length=6)
    >>> tower = TextTower(config)
    >>> with compact_vocabulary(tower, [[7, 3, 7], [8]]) as texts:
    ...     texts, tower.token_embedding.weight.shape
    ([[1, 0, 1], [2]], torch.Size([3, 8]))
    >>> tower.token_embedding.weight.shape
    torch.Size([9, 8])
    """
    lengths = [len(text) for text in texts]
    used, compact = np.unique(np.fromiter(chain.from_iterable(texts), np.int64, sum(lengths)), return_inverse=True)
    every, rows = tower.token_embedding, torch.from_numpy(used).to(tower.token_embedding.weight.device)
    tower.token_embedding = nn.Embedding.from_pretrained(every.weight.detach()[rows], freeze=False)  # type: ignore[no-untyped-call]
    try:
        yield [part.tolist() for part in np.split(compact, np.cumsum(lengths)[:-1])]
    finally:
        with torch.no_grad():
            every.weight[rows] = tower.token_embedding.weight
        tower.token_embedding = every
