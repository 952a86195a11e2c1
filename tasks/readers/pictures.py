"""The pictures of a data folder, found by image id in its usual locations and decoded on request."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import HarnessError
from harness.tasks.readers.shards import Blob, index_shards, pictures_by_id

if TYPE_CHECKING:
    from PIL import Image

PICTURE_FOLDERS = ("flickr30k-images", "flickr30k_images", "flickr30k_images/flickr30k_images", "images")
SHARD_FOLDER = "shards"


@dataclass(frozen=True)
class PictureIndex:
    """The pictures of a data folder by image id. `folder` is their location, or None if there are none."""

    folder: Path | None
    blobs: Mapping[str, Blob]


class Pictures:
    """`harness.core.data.Images` over files or shards. Safe to share between threads and to pickle."""

    def __init__(self, ids: Sequence[str], blobs: Sequence[Blob]) -> None:
        self._ids = tuple(ids)
        self._blobs = tuple(blobs)
        self._digest: str | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of each picture, in gallery order."""
        return self._ids

    def open(self, index: int) -> Image.Image:
        """Decode one picture to RGB. Raises HarnessError naming the file if it is missing, damaged or far too large."""
        from harness.tasks.readers.picture_decoding import decode_picture

        blob = self._blobs[index]
        return decode_picture(blob.read(), str(blob))

    def digest(self) -> str:
        """Return the SHA-256 of ids and file bytes, in order. It is computed once, without decoding."""
        if self._digest is None:
            self._digest = _digest(self._ids, self._blobs, tuple(map(_stamp, dict.fromkeys(blob.path for blob in self._blobs))))
        return self._digest


def _stamp(path: str) -> tuple[int, int]:
    """Return modification time and size of a file, or zeros for a missing file, which fails later when it is read."""
    try:
        stat = os.stat(path)  # noqa: PTH116 (see `_scan`)
    except OSError:
        return (0, 0)
    return (stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _digest(ids: tuple[str, ...], blobs: tuple[Blob, ...], _stamps: tuple[tuple[int, int], ...]) -> str:
    """Return the digest of pictures, cached while no file changes, since a run asks once for each language."""
    digest = hashlib.sha256()
    for name, blob in zip(ids, blobs, strict=True):
        for part in (name.encode(), blob.read()):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def find_pictures(data: Path, folders: Sequence[str] = PICTURE_FOLDERS, together: bool = False) -> PictureIndex:
    """Find the pictures of a data folder: the first folder with picture files, else the first folder with shards.

    together: combine all folders with picture files.
    Raises HarnessError naming a folder or shard that cannot be read, and as `pictures_by_id`.
    """
    try:
        shelf = PictureIndex(None, {})
        for name in folders:
            if blobs := _scan(data / name):
                shelf = PictureIndex(shelf.folder or data / name, blobs | dict(shelf.blobs))
                if not together:
                    return shelf
        if shelf.folder:
            return shelf
        for name in (SHARD_FOLDER, *folders):
            if blobs := index_shards(data / name):
                return PictureIndex(data / name, blobs)
    except OSError as error:
        raise HarnessError(f"{error.filename or data} cannot be read: {error.strerror or error}") from None
    return PictureIndex(None, {})


def _scan(folder: Path) -> dict[str, Blob]:
    if not folder.is_dir():
        return {}
    # os.scandir, since 31,783 Path objects would take longer than the rest of loading.
    with os.scandir(folder) as entries:
        files = sorted((entry.name, entry.path) for entry in entries)
    return pictures_by_id((name, Blob(path)) for name, path in files)
