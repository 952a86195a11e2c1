"""A distilled text tower, read back from its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.core.data import Floats, Ints, TokenStates

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from harness.distill.model.tower import Encoded, TextTower

TEXTS_A_STEP = 64


class DistilledTower:
    """The text encoder in a folder that distillation wrote. It speaks the one language it was distilled for."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self.device = device

    def fingerprint(self) -> str:
        """Digest of weights, shape and tokenizer, as they lie on disk."""
        from harness.distill.checkpoint import TOWER_FILES

        digest = hashlib.sha256()
        for name in TOWER_FILES:
            digest.update(hashlib.sha256((self.folder / name).read_bytes()).digest())
        return digest.hexdigest()

    @cached_property
    def loaded(self) -> tuple[TextTower, Tokenizer]:
        """The tower on its device, and its tokenizer."""
        from harness.distill.checkpoint import load_tower
        from harness.runtime.device import resolve_device

        tower, tokenizer = load_tower(self.folder)
        return tower.to(resolve_device(self.device)), tokenizer

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:  # noqa: ARG002 (one language)
        """Sentence embeddings (n, d), not normalised, in the given order."""
        out = np.zeros((len(texts), self.loaded[0].config.joint_dim), dtype=np.float32)
        for rows, encoded in self._batches(texts):
            out[rows] = encoded.pooled.cpu().numpy()
        return out

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:  # noqa: ARG002
        """Token states, `<start>` and `<end>` among them, and sentence embeddings, in the given order."""
        pooled = np.zeros((len(texts), self.loaded[0].config.joint_dim), dtype=np.float32)
        states: list[Floats] = [pooled] * len(texts)
        for rows, encoded in self._batches(texts):
            pooled[rows] = encoded.pooled.cpu().numpy()
            real, packed = encoded.mask.cpu().numpy(), encoded.states.cpu().numpy()
            for place, row in enumerate(rows.tolist()):
                states[row] = packed[place][real[place]]
        return TokenStates(np.concatenate([pooled[:0], *states]), np.array([len(of) for of in states], np.int64), pooled)

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[Ints, Encoded]]:
        """Run the texts through the tower, those of like length together; the places of each batch among them."""
        import torch

        from harness.distill.data.subwords import tokenize

        tower, tokenizer = self.loaded
        ids = tokenize(tokenizer, texts, tower.config.max_length)
        order = np.argsort([len(row) for row in ids], kind="stable")
        for start in range(0, len(ids), TEXTS_A_STEP):
            rows = order[start : start + TEXTS_A_STEP]
            with torch.inference_mode():
                encoded = tower.encode([ids[row] for row in rows])
            yield rows, encoded
