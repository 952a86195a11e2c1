"""Cosines of two sets of embeddings in float64, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from harness.core.data import Floats
from harness.core.errors import HarnessError

if TYPE_CHECKING:
    from torch import Tensor

STRIPE_BYTES = 64 << 20
"""Bytes of float64 cosines in memory at once, at least those of one row."""
_ROWS = 1024  # rows that are normalised in float64 at once, few enough for the processor's cache


def check_one_space(images: Floats, texts: Floats) -> None:
    """Raise HarnessError unless images (n, d) and texts (m, d) are non-empty and have one width."""
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        raise HarnessError(f"images {images.shape} and texts {texts.shape} must be (n, d) and (m, d), embedded in one space")
    if not len(images) or not len(texts):
        raise HarnessError(f"nothing to rank: {len(images)} images and {len(texts)} texts")


def unit_tensor(rows: Floats, side: str, multiple: int = 1) -> Tensor:
    """L2-normalise each row in float64 and round once to float32. A zero row stays zero.

    multiple: zero rows are appended until the number of rows is a multiple of it. Raises HarnessError if a row is not finite.

    >>> unit_tensor(np.array([[3, 4], [0, 0]], np.float32), "image").tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    import torch

    with np.errstate(over="ignore"):  # float64 input beyond the range of float32 becomes inf, and is refused below
        rows = np.asarray(rows, np.float32)
    unit, norms = np.zeros((len(rows) + -len(rows) % multiple, rows.shape[1]), np.float32), np.empty(len(rows))
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        wide = rows[part].astype(np.float64)
        # The norm is finite if and only if the row is finite: squares of float32 values do not overflow in float64.
        norms[part] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        if np.isfinite(norms[part]).all():
            unit[part][: len(wide)] = wide / np.where(norms[part] > 0, norms[part], 1)[:, None]
    broken = np.count_nonzero(~np.isfinite(norms))
    if broken:
        raise HarnessError(f"{broken} of {len(rows)} {side} embeddings hold NaN or infinity; look at the encoder's precision")
    return torch.from_numpy(unit)


def exact_device(device: str) -> str:
    """Return the device of float64 products: CUDA or the processor. Other devices have no float64."""
    return device if device.startswith("cuda") else "cpu"


def cosine_stripes(rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the cosines (r, c) in float64 of some rows after another with all columns. Both are unit vectors in float32.

    Products of float32 numbers are exact in float64, and only their sum is rounded. The cosines therefore depend on the machine
    and on the size of the stripes by about 1e-16.
    """
    wide = columns.double().T
    height = max(STRIPE_BYTES // (8 * len(columns)), 1)
    for start in range(0, len(rows), height):
        part = slice(start, start + height)
        yield part, rows[part].double() @ wide
