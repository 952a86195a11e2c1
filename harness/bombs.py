"""Compressed files that unpack to far more than an honest one could: refused before they fill the memory."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

from harness.api import HarnessError

FLOOR, TIMES = 16 << 20, 100
"""What a file may unpack to: so many bytes, or so many times its own size. Text packs 3 to 10 times; a bomb, 1,000 times."""


def most_bytes(packed: int) -> int:
    """What a file of `packed` bytes may unpack to."""
    return max(FLOOR, TIMES * packed)


def refusal(path: Path, what: str) -> HarnessError:
    """What to say of a bomb."""
    return HarnessError(f"{path} is not unpacked: it holds {what}, which is no honest ratio; unpack it yourself if it is meant")


class Unpacked(gzip.GzipFile):
    """A gzip file to read from. Reading raises HarnessError where it gives more than `most_bytes` of its size."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._path = path
        self._most = most_bytes(path.stat().st_size)

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes, or all that are left."""
        left = self._most + 1 - self.tell()
        data = super().read(left if size is None or size < 0 else min(size, left))
        if self.tell() > self._most:
            raise refusal(self._path, f"more than {self._most:,} bytes in {self._path.stat().st_size:,}")
        return data


def check_zip(path: Path) -> None:
    """Raise HarnessError if a zip archive says that it unpacks to more than `most_bytes` of its size.

    What it says is what `zipfile` will unpack, and no more. Raises zipfile.BadZipFile if it is none.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > most_bytes(path.stat().st_size):
        raise refusal(path, f"{unpacked:,} bytes in {path.stat().st_size:,}")
