"""Read untrusted archives: tar files of regular files, and a bound on the unpacked size of compressed files."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from harness.core.errors import HarnessError
from harness.storage.plain_files import check_plain_file

MIN_UNPACKED_BYTES, MAX_UNPACKED_RATIO = 16 << 20, 100
"""A file may unpack to so many bytes, or to so many times its size. Text compresses 3 to 10 times, a bomb 1,000 times."""


def max_unpacked_bytes(packed: int) -> int:
    """Return how many bytes a file of `packed` bytes may unpack to."""
    return max(MIN_UNPACKED_BYTES, MAX_UNPACKED_RATIO * packed)


def unpacking_error(path: Path, what: str) -> HarnessError:
    """Return the error for a file that unpacks to too much."""
    return HarnessError(
        f"{path} is not unpacked: it holds {what}, which is an implausible ratio; unpack it yourself if you trust it"
    )


class BoundedGzipFile(gzip.GzipFile):
    """A gzip file whose reading raises HarnessError once it exceeds `max_unpacked_bytes` of the file's size."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._path = path
        self._most = max_unpacked_bytes(path.stat().st_size)

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes, or all remaining ones."""
        left = self._most + 1 - self.tell()
        data = super().read(left if size is None or size < 0 else min(size, left))
        if self.tell() > self._most:
            raise unpacking_error(self._path, f"more than {self._most:,} bytes in {self._path.stat().st_size:,}")
        return data


def check_zip(path: Path) -> None:
    """Raise HarnessError if a zip archive declares more than `max_unpacked_bytes` of its size.

    `zipfile` never unpacks more than the archive declares. Raises zipfile.BadZipFile if the file is not a zip archive.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max_unpacked_bytes(path.stat().st_size):
        raise unpacking_error(path, f"{unpacked:,} bytes in {path.stat().st_size:,}")


_LONGEST = 255  # bytes that file systems allow a name


def read_members(path: Path) -> list[tarfile.TarInfo]:
    """Return the headers of the files in a tar, without its folders.

    Raises HarnessError naming the tar and the member if the file is not a complete, uncompressed tar, or if a member is a link,
    a device, a sparse file (whose size may be anything) or has a name that leads outside.
    """
    with _opened(path) as tar:
        return list(_checked(path, tar))


def unpack(path: Path, folder: Path) -> None:
    """Extract the files of a tar into a folder that has none of them yet. Raises HarnessError as `read_members`."""
    with _opened(path) as tar:
        taken: set[PurePosixPath] = set()
        for member in _checked(path, tar):
            name = PurePosixPath(member.name)
            if name in taken or any(parent in taken for parent in name.parents) or (folder / name).exists():
                raise _refusal(path, member.name, "occurs twice")
            taken.add(name)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            with (folder / name).open("xb") as target:
                if content is not None:
                    shutil.copyfileobj(content, target)


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    check_plain_file(path)
    try:
        # "r:" reads no compressed archive, so nothing unpacks to more than its size.
        with tarfile.open(path, "r:") as tar:
            yield tar
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise HarnessError(f"{path} is not a complete tar file: {error}") from None


def _checked(path: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    end = -1
    for member in tar:
        name = PurePosixPath(member.name)
        # A header may declare a negative size, which leads back to itself.
        if member.size < 0 or member.offset <= end:
            raise _refusal(path, member.name, f"has a header that leads back to byte {tar.offset:,}")
        end = member.offset
        if name.is_absolute() or ".." in name.parts or "\0" in member.name or not name.parts:
            raise _refusal(path, member.name, "has a name that leads outside the archive")
        if any(len(part.encode("utf-8", "surrogateescape")) > _LONGEST for part in name.parts):
            raise _refusal(path, member.name, "has a name that is too long")
        if member.issym() or member.islnk():
            raise _refusal(path, member.name, f"is a link to {member.linkname!r}")
        if member.issparse() or not (member.isreg() or member.isdir()):
            raise _refusal(path, member.name, "is not a regular file")
        if member.isreg():
            yield member


def _refusal(path: Path, name: str, problem: str) -> HarnessError:
    return HarnessError(f"{path}: the member {name[:100]!r} {problem}; expected regular files with relative paths, each once")
