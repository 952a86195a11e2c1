"""A distilled text tower, read back from its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.api import Floats

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from harness.distill.tower import TextTower

TEXTS_A_BATCH = 64


class DistilledTower:
    """The text encoder in a folder that distillation wrote. It speaks the one language it was distilled for."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self.device = device

    def fingerprint(self) -> str:
        """Digest of weights, shape and tokenizer, as they lie on disk."""
        from harness.distill.checkpoint import FILES

        digest = hashlib.sha256()
        for name in FILES:
            digest.update(hashlib.sha256((self.folder / name).read_bytes()).digest())
        return digest.hexdigest()

    @cached_property
    def loaded(self) -> tuple[TextTower, Tokenizer]:
        """The tower on its device, and its tokenizer."""
        from harness.device import resolve_device
        from harness.distill.checkpoint import load_tower

        tower, tokenizer = load_tower(self.folder)
        return tower.to(resolve_device(self.device)), tokenizer

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:  # noqa: ARG002 (one language)
        """Sentence embeddings (n, d), not normalised, in the given order."""
        import torch

        from harness.distill.bitext import tokenize

        tower, tokenizer = self.loaded
        rows = tokenize(tokenizer, texts, tower.config.max_length)
        order = np.argsort([len(row) for row in rows], kind="stable")
        out = np.zeros((len(rows), tower.config.joint_dim), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(rows), TEXTS_A_BATCH):
                batch = order[start : start + TEXTS_A_BATCH]
                out[batch] = tower.encode([rows[row] for row in batch]).pooled.cpu().numpy()
        return out
