"""The folder that keeps what was computed. Every entry appears whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from harness.api import HarnessError

FULL = 64 * 1024  # bytes left under which a failed write is put down to the disk


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into one line that names the path."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR}:
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
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))
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
    """Write a temporary file that becomes `path` when the block ends without an exception."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".new-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with disk_errors(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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

    def sample(self, task: str, version: str) -> Path:
        """Folder of a task's embedded sample."""
        return self.root / "samples" / f"{task}-{version}"

    def pack(self, digest: str) -> Path:
        """Folder in which a pack of data lies open."""
        return self.root / "packs" / digest

    def embeddings(self, key: str) -> Path:
        """File of one matrix of embeddings."""
        return self.root / "embeddings" / f"{key}.safetensors"

    def states(self, key: str) -> Path:
        """Folder of the token or patch states of one list of items."""
        return self.root / "states" / key

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
