"""Pictures inside webdataset tar shards: where each one's bytes lie, so that any can be read without its neighbours.

Only the headers are read here, with the standard library: webdataset's own reader streams a shard from its start, and a
gallery is asked for in the order of the split, which is not the order of the shards.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from harness.api import HarnessError
from harness.tars import read_members
from harness.tasks.karpathy import photo_id

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")


class Blob(NamedTuple):
    """The bytes of one picture: a file, or a stretch of a shard. `member` is its name inside the shard."""

    path: str
    start: int = 0
    size: int = -1
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path} ({self.member})" if self.member else self.path

    def read(self) -> bytes:
        """The bytes. Raises HarnessError if they cannot be read or the shard ends before they do."""
        try:
            with Path(self.path).open("rb") as file:
                file.seek(self.start)
                data = file.read(self.size)
        except OSError as error:
            raise HarnessError(f"{self} cannot be read: {error.strerror or error}") from None
        if self.size not in (-1, len(data)):
            raise HarnessError(f"{self} is cut off: {len(data):,} of {self.size:,} bytes are there")
        return data


def index_shards(folder: Path) -> dict[str, Blob]:
    """The pictures in all `*.tar` of a folder, by photo id. Of two with one id, the first in the order of names is taken.

    Raises HarnessError naming a shard that is not a tar file, is cut off, or holds a link or a path that leads outside.
    """
    index: dict[str, Blob] = {}
    for path in sorted(folder.glob("*.tar")):
        stat = path.stat()
        for name, blob in _index(path, stat.st_mtime_ns, stat.st_size):
            index.setdefault(name, blob)
    return index


@lru_cache(maxsize=64)
def _index(path: Path, _changed: int, _size: int) -> tuple[tuple[str, Blob], ...]:
    """A study asks once a language: a shard's index is kept as long as the shard does not change."""
    return tuple(_pictures(path, read_members(path)))


def _pictures(path: Path, members: Iterable[tarfile.TarInfo]) -> Iterator[tuple[str, Blob]]:
    for member in members:
        base = member.name.rpartition("/")[2]
        # Archives made on a Mac carry a `._name.jpg` beside each file.
        if not base.startswith(".") and base.lower().endswith(PICTURE_SUFFIXES):
            yield photo_id(base), Blob(str(path), member.offset_data, member.size, member.name)
