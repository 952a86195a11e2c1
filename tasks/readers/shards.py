"""Index of the pictures in webdataset tar shards, by which each is read without its neighbours.

The index reads tar headers only. The reader of webdataset streams a shard from its start, but a gallery is read in the order of
the split, which is not the order of the shards.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import HarnessError
from harness.readers.image_ids import photo_id
from harness.storage.archives import read_members
from harness.storage.plain_files import check_plain_file

PICTURE_SUFFIXES = ("jpg", "jpeg", "png")
MAX_PICTURE_BYTES = 1 << 29
"""The maximum size of a picture file. 64,000,000 pixels of 16-bit colours with transparency have 512,000,000 bytes."""


class Blob(NamedTuple):
    """The location of a picture: a file, or a byte range of a shard. `member` is the name inside the shard."""

    path: str
    start: int = 0
    size: int = -1
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path} ({self.member})" if self.member else self.path

    @property
    def suffix(self) -> str:
        """The suffix of the name, with the dot."""
        return Path(self.member or self.path).suffix

    def read(self) -> bytes:
        """Return the bytes. Raises HarnessError if they are too many, cannot be read, or exceed the end of the shard."""
        check_plain_file(self.path)
        try:
            with Path(self.path).open("rb") as file:
                size = self.size if self.size >= 0 else os.fstat(file.fileno()).st_size
                if size > MAX_PICTURE_BYTES:
                    raise HarnessError(f"{self} is too large: its {size:,} bytes are more than {MAX_PICTURE_BYTES:,}")
                file.seek(self.start)
                data = file.read(self.size)
        except OSError as error:
            raise HarnessError(f"{self} cannot be read: {error.strerror or error}") from None
        if self.size not in (-1, len(data)):
            raise HarnessError(f"{self} is truncated: it has {len(data):,} of {self.size:,} bytes")
        return data


def pictures_by_id(files: Iterable[tuple[str, Blob]]) -> dict[str, Blob]:
    """Return the pictures among files by image id: `ID.jpg`, else `ID_HASH.jpg`. `ID.depth.png` is not a picture of `ID`.

    The first of several files with the same bytes is used. Raises HarnessError naming two files of one id that differ.
    """
    exact: defaultdict[str, list[Blob]] = defaultdict(list)
    longer: defaultdict[str, list[Blob]] = defaultdict(list)
    for base, blob in files:
        stem, _, suffix = base.rpartition(".")
        # Stems of pictures have no dots. Archives and folders of macOS contain a `._ID.jpg` for each file.
        if suffix.lower() in PICTURE_SUFFIXES and "." not in stem and "#" not in stem and (name := photo_id(stem)):
            (exact if stem == name else longer)[name].append(blob)
    return {name: _only(name, blobs) for name, blobs in (longer | exact).items()}


def _only(name: str, blobs: list[Blob]) -> Blob:
    first, *others = blobs
    for other in others:
        if other.read() != first.read():
            raise HarnessError(f"{first} and {other} are different pictures of {name}: remove one of them")
    return first


def index_shards(folder: Path) -> dict[str, Blob]:
    """Return the pictures in all `*.tar` files of a folder by image id.

    Raises HarnessError naming a shard that is not a tar file, is truncated, or contains a link or a path that leads outside, and
    as `pictures_by_id`.
    """
    stats = ((path, path.stat()) for path in sorted(folder.glob("*.tar")))
    return pictures_by_id(file for path, stat in stats for file in _index(path, stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=64)
def _index(path: Path, _changed: int, _size: int) -> tuple[tuple[str, Blob], ...]:
    """Index a shard, cached while the shard does not change, since a study asks once for each language."""
    members = read_members(path)
    files = ((member.name.rpartition("/")[2], member) for member in members if member.name.lower().endswith(PICTURE_SUFFIXES))
    return tuple((base, Blob(str(path), member.offset_data, member.size, member.name)) for base, member in files)
