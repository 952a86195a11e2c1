"""Pictures whose pixels are already an array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


class Decoded(Image.Image):
    """An RGB picture over pixels (height, width, 3). Whoever wants an array gets these; Pillow makes its own when it is asked to.

    Pillow keeps four bytes a pixel. To hand it an array and to take one back costs half as much as to decode a JPEG.

    >>> pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    >>> np.asarray(Decoded(pixels)).base is not None, Decoded(pixels).getpixel((1, 0))
    (True, (3, 4, 5))
    """

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        super().__init__()
        self._mode, self._size = "RGB", (pixels.shape[1], pixels.shape[0])
        self._pixels: npt.NDArray[np.uint8] | None = pixels

    def load(self) -> Any:
        """What Pillow calls before it looks at a picture."""
        if self._pixels is not None:
            self.im, self._pixels = Image.fromarray(self._pixels).im, None
        return super().load()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """How numpy reads it: without a copy, and only to read, as any picture of Pillow's."""
        if self._pixels is None:
            return super().__array_interface__
        return {"shape": self._pixels.shape, "typestr": "|u1", "version": 3, "data": self._pixels.data.toreadonly()}

    def __setstate__(self, state: list[Any]) -> None:
        self._pixels = None
        super().__setstate__(state)
