"""Strict decoding of pictures. A damaged picture is refused, since many of its pixels may be wrong."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from harness.core.errors import HarnessError

MAX_PIXELS = 64_000_000
"""The maximum number of pixels, checked before decoding. Pictures of Flickr30k have at most 500 x 500."""
MAX_RATIO = 100
"""The maximum ratio of the sides. An image tower scales the shorter side to its input size, and the longer one with it."""
MAX_SCANS, MAX_SCANNED = 100, 10 * MAX_PIXELS
"""The maximum number of scans of a JPEG, and of pixels over all scans. Encoders write about ten. A scan of a few bytes takes as
much time as a picture."""

_JPEG, _PNG, _SCAN = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\xff\xda"
_ODD = "Could not determine subsampling"
_AFTER_SCAN, _NOISE = re.compile(rb"\xff[\xc4\xd0-\xda\xdd]"), b"\x5a" * 64
_WAY_OUT = "download or save it again, or leave it out with --skip-broken"


class DecodedPicture(Image.Image):
    """An RGB picture over an array of pixels (height, width, 3). Arrays of it share memory; Pillow copies the pixels on demand.

    Pillow stores four bytes a pixel. The conversion of an array to Pillow and back takes half the time of decoding a JPEG.

    >>> pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    >>> np.asarray(DecodedPicture(pixels)).base is not None, DecodedPicture(pixels).getpixel((1, 0))
    (True, (3, 4, 5))
    """

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        super().__init__()
        self._mode, self._size = "RGB", (pixels.shape[1], pixels.shape[0])
        self._pixels: npt.NDArray[np.uint8] | None = pixels

    def load(self) -> Any:
        """Copy the pixels into Pillow's storage. Pillow calls this method before it reads a picture."""
        if self._pixels is not None:
            self.im, self._pixels = Image.fromarray(self._pixels).im, None
        return super().load()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The array interface of numpy: read-only and without a copy."""
        if self._pixels is None:
            return super().__array_interface__
        return {"shape": self._pixels.shape, "typestr": "|u1", "version": 3, "data": self._pixels.data.toreadonly()}

    def __setstate__(self, state: list[Any]) -> None:
        self._pixels = None
        super().__setstate__(state)


def decode_picture(data: bytes, name: str) -> Image.Image:
    """Decode a JPEG or PNG file to RGB as it is stored. Orientation tags and transparency are ignored.

    Raises HarnessError naming the file if it is damaged, of another format, or too large.
    """
    decoder = _decode_jpeg if data.startswith(_JPEG) else _decode_png if data.startswith(_PNG) else None
    if decoder is None:
        raise HarnessError(f"{name} cannot be decoded: it is neither a JPEG nor a PNG file")
    try:
        return decoder(data, name)
    # The decoders raise any of these for damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise HarnessError(
            f"{name} cannot be decoded: {str(error).removeprefix('tjDecompressHeader3(): ')}; {_WAY_OUT}"
        ) from None


def _decode_jpeg(data: bytes, name: str) -> Image.Image:
    """Decode with simplejpeg, which treats every warning of libjpeg-turbo as an error. Pillow ignores them and fills in grey.

    Both give bit-identical pixels. Pillow converts pictures of four colours, since only Pillow handles those of Adobe's programs.
    Only Pillow reads every chroma subsampling.
    """
    import simplejpeg

    odd = False
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (KeyError, ValueError) as error:
        # simplejpeg reads 4:4:1 but has no name for it. It does not read other unusual subsamplings.
        odd = _ODD in str(error)
        if isinstance(error, ValueError) and not odd:
            raise
        with _opened(data, "JPEG") as picture:
            (width, height), colours = picture.size, picture.mode
    _check_size(name, width, height, data.count(_SCAN))
    if odd:
        return _decode_odd(data)
    if colours not in ("CMYK", "YCCK"):
        return DecodedPicture(simplejpeg.decode_jpeg(data))
    simplejpeg.decode_jpeg(data, "CMYK")
    return _by_pillow(data)


def _decode_odd(data: bytes) -> Image.Image:
    """Decode a JPEG with Pillow and check that no scan ended early, in which case Pillow fills in grey.

    The same file with other bits after each scan and before each restart marker gives the same pixels only if no data are missing
    there.
    """
    scan = data.index(_SCAN) + len(_SCAN)
    longer = data[:scan] + _AFTER_SCAN.sub(lambda marker: _NOISE + marker[0], data[scan:])
    picture = _by_pillow(data)
    if not np.array_equal(np.asarray(picture), np.asarray(_by_pillow(longer))):
        raise ValueError("premature end of data segment")
    return picture


def _by_pillow(data: bytes) -> Image.Image:
    with _opened(data, "JPEG") as picture:
        return picture.convert("RGB")


def _decode_png(data: bytes, name: str) -> Image.Image:
    """Decode with Pillow. It verifies no checksums while decoding, so they are verified first."""
    size = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    _check_size(name, *size)
    with _opened(data, "PNG") as picture:
        if picture.size != size:
            raise ValueError("it has two headers")
        picture.verify()
    with _opened(data, "PNG") as picture:
        if picture.mode.startswith("I"):
            # Pillow's conversion of 16-bit grey clips values at 255. The high bytes are right, as for 16-bit colours.
            return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
        if picture.mode == "P" and "transparency" in picture.info:
            return picture.convert("RGBA").convert("RGB")  # the same colours as in one step, but without a warning of Pillow
        return picture.convert("RGB")


def _opened(data: bytes, form: str) -> Image.Image:
    # A plug-in or its libraries may have set this global option, which would turn missing pixels grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    return Image.open(BytesIO(data), formats=(form,))


def _check_size(name: str, width: int, height: int, scans: int = 1) -> None:
    """Raise HarnessError if a picture would need far more time or memory than an ordinary one."""
    size, pixels = f"{width:,} x {height:,} pixels", width * height
    most_scans = min(MAX_SCANS, MAX_SCANNED // max(pixels, 1))
    if pixels > MAX_PIXELS:
        problem = f"{size} are more than {MAX_PIXELS:,}"
    elif max(width, height) > MAX_RATIO * min(width, height):
        problem = f"{size} make one side more than {MAX_RATIO} times as long as the other"
    elif scans > most_scans:
        problem = f"{scans:,} scans of {size} are more than {most_scans}"
    else:
        return
    raise HarnessError(f"{name} is not decoded: its {problem}")
