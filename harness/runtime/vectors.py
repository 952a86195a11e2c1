"""Row operations on matrices of vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.core.data import Doubles, Floats


def unit_rows(rows: Floats | Doubles) -> Doubles:
    """Return the rows scaled to unit length, in float64. A row of zeros stays zero.

    >>> import numpy as np
    >>> unit_rows(np.array([[3, 4], [0, 0]], np.float32)).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    import numpy as np

    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    wide /= np.where(lengths > 0, lengths, 1)
    return wide
