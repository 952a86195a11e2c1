"""The folder that keeps what was computed. Every entry appears whole or not at all, and is made by one process at a time."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from harness.api import HarnessError
from harness.markup import visible
from harness.plugins import digest_file

FULL = 64 * 1024  # bytes left under which a failed write is put down to the disk
REFUSED = {errno.EEXIST, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EIO, errno.ESTALE, errno.EFBIG}
NEW = ".new-"  # begins the name of what is being written
SEAL = "digests.json"


class DamagedError(Exception):
    """Something in the store is not what was written there. It can be computed again."""


class BusyError(Exception):
    """Another process is making this."""


def say_damaged(error: DamagedError) -> None:
    """Tell that what was damaged is computed anew."""
    print(visible(f"note: {error}: it is computed again"), file=sys.stderr)


def seal(folder: Path) -> None:
    """Write down the digests of all files in a folder, so that `check_seal` can tell whether they are still whole."""
    digests = {path.name: digest_file(path) for path in sorted(folder.iterdir())}
    (folder / SEAL).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def check_seal(folder: Path) -> None:
    """Raise DamagedError if a file of a sealed folder is not what was written. A folder without a seal passes."""
    path = folder / SEAL
    if not path.is_file():
        return
    try:
        digests = json.loads(path.read_bytes())
        broken = [name for name, digest in digests.items() if digest_file(folder / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        raise DamagedError(f"{folder} is damaged ({' '.join(str(error).split())[:200]})") from None
    if broken:
        raise DamagedError(f"{folder / broken[0]} is damaged (it is not what was written)")


def is_whole(folder: Path) -> bool:
    """Whether a sealed folder is there and whole; what is damaged is said and removed, so that it can be computed again."""
    if not folder.is_dir():
        return False
    try:
        check_seal(folder)
    except DamagedError as error:
        say_damaged(error)
        with disk_errors(folder):
            shutil.rmtree(folder, ignore_errors=False)
        return False
    return True


def sweep(path: Path) -> None:
    """Remove what a run that was killed left half-written for a path. Only for who holds its lock."""
    for left in path.parent.glob(f"{NEW}{path.name}-*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into one line that names the path."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REFUSED:
            raise HarnessError(f"{path} cannot be written ({error.strerror}); pass --store or set HARNESS_STORE") from error
        if disk_is_full(path, error):
            raise HarnessError(f"the disk is full: {path} could not be written; free some space or pass --store") from error
        raise


def disk_is_full(path: Path, error: Exception) -> bool:
    """Whether an error came of a full disk. numpy, safetensors and tokenizers tell it in words, or not at all."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    if re.search(r"no space left|not enough free space|os error 28|quota exceeded", str(error), re.IGNORECASE):
        return True
    there = next((folder for folder in path.parents if folder.is_dir()), None)
    return there is not None and shutil.disk_usage(there).free < FULL


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder that becomes `path` when the block ends without an exception.

    If another process has made `path` meanwhile, its version stays: equal names hold equal contents.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{NEW}{path.name}-", dir=path.parent))
    try:
        # Asked before the clean-up, which gives space back.
        with disk_errors(path):
            yield temporary
            if not path.exists():
                temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write a temporary file that becomes `path` when the block ends without an exception.

    It lies in a folder of its own: safetensors writes a temporary file beside the one that it is given, under a name that nobody
    knows, and a run that is killed would leave it for good.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{NEW}{path.name}-", dir=path.parent))
    try:
        with disk_errors(path):
            yield folder / path.name
            (folder / path.name).replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Store:
    """Paths inside one store."""

    root: Path

    @classmethod
    def at(cls, root: Path | None) -> Store:
        """The store in `root`, else in $HARNESS_STORE, else in the user's data folder."""
        if root is None and (named := os.environ.get("HARNESS_STORE")):
            root = Path(named)
        return cls((root or Path(platformdirs.user_data_dir("flickr30k-harness"))).resolve())

    @contextmanager
    def claim(self, path: Path, wait: bool = True) -> Iterator[None]:
        """Be the only one of all processes who makes `path`; whoever comes later should look first whether it is there by then.

        The lock is the operating system's and ends with its owner, however that ends; what an owner that was killed left
        half-written is removed. Raises BusyError if another process holds it and `wait` is False.
        """
        from filelock import FileLock, Timeout

        name = path.relative_to(self.root).as_posix().replace("/", "-")
        lock = FileLock(self.root / "locks" / f"{name}.lock")
        with disk_errors(self.root / "locks"):
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if not wait:
                    raise BusyError(path) from None
                print(visible(f"note: waits for another process, which is making {path}"), file=sys.stderr)
                lock.acquire()
        try:
            sweep(path)
            yield
        finally:
            lock.release()

    def sample(self, task: str, version: str) -> Path:
        """Folder of a task's embedded sample."""
        return self.root / "samples" / f"{task}-{version}"

    def pack(self, digest: str) -> Path:
        """Folder in which a pack of data lies open."""
        return self.root / "packs" / digest

    def embeddings(self, key: str) -> Path:
        """File of one matrix of embeddings."""
        return self.root / "embeddings" / f"{key}.safetensors"

    def part(self, key: str, start: int) -> Path:
        """File of some rows of a matrix that is not yet whole, from row `start` on."""
        return self.root / "parts" / key / f"{start}.safetensors"

    def states(self, key: str) -> Path:
        """Folder of the token or patch states of one list of items."""
        return self.root / "states" / key

    def translations(self, key: str) -> Path:
        """File of some captions in English, by a translator."""
        return self.root / "translations" / f"{key}.json"

    def teacher(self, key: str) -> Path:
        """Folder of a teacher's states for one list of sentences."""
        return self.root / "teacher" / key

    def tower(self, digest: str) -> Path:
        """Folder of one distilled tower."""
        return self.root / "towers" / digest

    def training(self, digest: str) -> Path:
        """Checkpoint of a tower whose training has not ended."""
        return self.root / "training" / f"{digest}.safetensors"

    def trial(self, digest: str) -> Path:
        """Score of a learning rate that was tried."""
        return self.root / "trials" / f"{digest}.json"

    def record(self, cell: str) -> Path:
        """Folder of one cell's record."""
        return self.root / "records" / cell

    def towers(self) -> list[Path]:
        """Every finished tower."""
        return finished(self.root / "towers")

    def records(self) -> list[Path]:
        """Every finished record."""
        return finished(self.root / "records")


def finished(folder: Path) -> list[Path]:
    """The sub-folders of a store's folder that are whole, by name."""
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
