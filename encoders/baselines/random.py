"""The chance-level baseline: random embeddings, equal for equal inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.core.data import Floats
from harness.core.digests import digest_strings
from harness.core.errors import HarnessError

if TYPE_CHECKING:
    from PIL import Image

_WIDTH = 256


class Random:
    """`random` or `random:SEED`: a normal vector seeded by a hash of the input. It needs no files."""

    def __init__(self, argument: str, device: str) -> None:  # noqa: ARG002
        if argument and not argument.isdecimal():
            raise HarnessError(f"random:{argument}: the seed must be a whole number, as in random:1")
        self.seed = int(argument or 0)
        self.name = f"random:{self.seed}" if argument else "random"

    def fingerprint(self) -> str:
        """Return a digest of the seed."""
        return digest_strings(["random encoder 1", str(self.seed), str(_WIDTH)])

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed images as (n, 256). Equal pixels give equal rows."""
        return self._draw(f"{image.mode} {image.size}".encode() + image.tobytes() for image in images)

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:  # noqa: ARG002
        """Embed texts as (n, 256). Equal texts give equal rows in every language."""
        return self._draw(text.encode() for text in texts)

    def _draw(self, contents: Iterable[bytes]) -> Floats:
        rows = []
        for content in contents:
            seed = hashlib.sha256(str(self.seed).encode() + b" " + content).digest()
            rows.append(np.random.default_rng(np.frombuffer(seed, dtype=np.uint32)).standard_normal(_WIDTH, dtype=np.float32))
        return np.stack(rows) if rows else np.zeros((0, _WIDTH), dtype=np.float32)
