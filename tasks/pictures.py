"""The pictures of a data folder: found by photo id wherever people keep them, and decoded only when asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import HarnessError
from harness.tasks.karpathy import photo_id
from harness.tasks.shards import PICTURE_SUFFIXES, Blob, index_shards

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

FOLDERS = ("flickr30k-images", "flickr30k_images", "flickr30k_images/flickr30k_images", "images")
SHARDS = "shards"
MAX_PIXELS = 64_000_000
"""A picture of more pixels is refused before it is decoded. Flickr30k's have at most 500 x 500."""


@dataclass(frozen=True)
class Shelf:
    """Every picture of a data folder, by photo id. `place` is the folder they lie in, or None if there are none."""

    place: Path | None
    blobs: Mapping[str, Blob]


class Pictures:
    """`harness.api.Images` over files or shards. Safe to share between threads and to pickle."""

    def __init__(self, ids: Sequence[str], blobs: Sequence[Blob]) -> None:
        self._ids = tuple(ids)
        self._blobs = tuple(blobs)
        self._digest: str | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """One id a picture, in gallery order."""
        return self._ids

    def open(self, index: int) -> Image.Image:
        """Decode one picture to RGB. Raises HarnessError naming the file if it is missing, broken or far too large."""
        blob = self._blobs[index]
        return _decode(blob.read(), str(blob))

    def digest(self) -> str:
        """SHA-256 over ids and file bytes, in order. Nothing is decoded; it is reckoned once."""
        if self._digest is None:
            self._digest = _digest(self._ids, self._blobs, tuple(map(_stamp, dict.fromkeys(blob.path for blob in self._blobs))))
        return self._digest


def _stamp(path: str) -> tuple[int, int]:
    """When a file was changed and how long it is; nothing for one that is not there, which reading it will say."""
    try:
        stat = os.stat(path)  # noqa: PTH116 (see `_scan`)
    except OSError:
        return (0, 0)
    return (stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _digest(ids: tuple[str, ...], blobs: tuple[Blob, ...], _stamps: tuple[tuple[int, int], ...]) -> str:
    """A run over many languages asks once a language: the answer is kept as long as no file changes."""
    digest = hashlib.sha256()
    for name, blob in zip(ids, blobs, strict=True):
        for part in (name.encode(), blob.read()):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def _decode(data: bytes, name: str) -> Image.Image:
    from io import BytesIO

    from PIL import Image, UnidentifiedImageError

    from harness.tasks.decoded import Decoded

    if (pixels := _decode_jpeg(data)) is not None:
        return Decoded(pixels)
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width:,} x {picture.height:,} pixels"
                raise HarnessError(f"{name} is not decoded: its {size} are more than {MAX_PIXELS:,}")
            return picture.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise HarnessError(f"{name} is not decoded: {error}") from None
    # Pillow's readers answer broken files with any of these.
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = "neither a JPEG nor a PNG file" if isinstance(error, UnidentifiedImageError) else error
        raise HarnessError(f"{name} cannot be decoded: {reason}") from None


def _decode_jpeg(data: bytes) -> npt.NDArray[np.uint8] | None:
    """The pixels of a whole JPEG in the usual colours, or None for anything else, of which Pillow says what it is.

    Both are libjpeg-turbo with its slow, exact transform, and give the same pixels to the bit; this way in is the shorter one.
    """
    import simplejpeg

    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in ("YCbCr", "Gray") and height * width <= MAX_PIXELS:
            pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data)
            return pixels
    except ValueError:
        pass
    return None


def find_pictures(data: Path, folders: Sequence[str] = FOLDERS, together: bool = False) -> Shelf:
    """Find the pictures of a data folder: the first folder that has any as files, else the first that has any in shards.

    together: all folders that have any as files make one shelf.
    Raises HarnessError naming a folder or shard that cannot be read.
    """
    try:
        shelf = Shelf(None, {})
        for name in folders:
            if blobs := _scan(data / name):
                shelf = Shelf(shelf.place or data / name, blobs | dict(shelf.blobs))
                if not together:
                    return shelf
        if shelf.place:
            return shelf
        for name in (SHARDS, *folders):
            if blobs := index_shards(data / name):
                return Shelf(data / name, blobs)
    except OSError as error:
        raise HarnessError(f"{error.filename or data} cannot be read: {error.strerror or error}") from None
    return Shelf(None, {})


def _scan(folder: Path) -> dict[str, Blob]:
    if not folder.is_dir():
        return {}
    # os.scandir, since 31,783 Path objects would take longer than all the rest of loading.
    with os.scandir(folder) as entries:
        files = sorted(entry.path for entry in entries if entry.name.lower().endswith(PICTURE_SUFFIXES))
    index: dict[str, Blob] = {}
    for path in files:
        if name := photo_id(os.path.basename(path)):  # noqa: PTH119 (see above)
            index.setdefault(name, Blob(path))
    return index
