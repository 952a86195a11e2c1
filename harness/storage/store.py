"""The store of computed entries. An entry appears complete or not at all, and one process at a time makes it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import platformdirs

from harness.core.errors import HarnessError
from harness.runtime.markup import escape_controls

T = TypeVar("T")

_FULL_DISK_BYTES = 64 * 1024  # with fewer free bytes, a failed write is attributed to a full disk
_WRITE_ERRORS = {errno.EEXIST, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EIO, errno.ESTALE, errno.EFBIG}
TEMPORARY_PREFIX = ".new-"  # prefix of files and folders that are being written
_RIGHTS = "in a shared store, the owner grants permissions, as by `chmod -R g+rwX STORE`, and works with umask 002"


class BusyError(Exception):
    """Another process is making the entry."""


class DamagedError(HarnessError):
    """An entry is damaged or has another key. what: the damage; way: the way out for the user."""

    def __init__(self, what: str, way: str = "delete it to have it made again") -> None:
        super().__init__(what, way)
        self.what = what

    def __str__(self) -> str:
        """Damage and way out, on one line."""
        return "; ".join(self.args)


def report_damaged(error: DamagedError) -> None:
    """Print that a damaged entry is computed again."""
    print(escape_controls(f"note: {error.what}: it is computed again"), file=sys.stderr)


def remove_damaged(path: Path, error: DamagedError) -> None:
    """Remove a damaged folder and report it. A damaged file stays, since its replacement overwrites it in one step."""
    report_damaged(error)
    if path.is_dir():
        with explain_write_errors(path):
            shutil.rmtree(path)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that a killed run left for a path. Only the process that holds its lock may call this."""
    for left in path.parent.glob(f"{TEMPORARY_PREFIX}{path.name}-*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading, which are no sign of damage, into a HarnessError with the way out. Missing files raise as usual."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise
    except PermissionError:
        raise HarnessError(f"{path} may not be read by this user: {_RIGHTS}") from None
    except OSError as error:
        raise HarnessError(f"{path} cannot be read ({error.strerror or error}): check the disk, and try again") from None


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn errors of writing into a HarnessError that names the path and the way out."""
    try:
        yield
    except Exception as error:
        if isinstance(error, PermissionError):
            raise HarnessError(
                f"{path} may not be written by this user: {_RIGHTS}; or pass --store or set HARNESS_STORE"
            ) from error
        if isinstance(error, OSError) and error.errno in _WRITE_ERRORS:
            raise HarnessError(f"{path} cannot be written ({error.strerror}); pass --store or set HARNESS_STORE") from error
        if disk_is_full(path, error):
            raise HarnessError(f"the disk is full: {path} could not be written; free some space or pass --store") from error
        raise


def disk_is_full(path: Path, error: Exception) -> bool:
    """Return whether an error comes from a full disk. Libraries say so in their messages alone, or not at all."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    if re.search(r"no space left|not enough free space|os error 28|quota exceeded", str(error), re.IGNORECASE):
        return True
    there = next((folder for folder in path.parents if folder.is_dir()), None)
    return there is not None and shutil.disk_usage(there).free < _FULL_DISK_BYTES


def new_temporary_folder(path: Path) -> Path:
    """Create a temporary folder next to a path, with the permissions of the umask, which `tempfile` would ignore."""
    folder = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}")
    folder.mkdir()
    return folder


def grant_umask_rights(folder: Path) -> None:
    """Extend the permissions of the files in a new folder to those of the folder. safetensors gives them to the owner alone."""
    shared = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in folder.rglob("*"):
        of = path.lstat().st_mode
        if stat.S_ISREG(of) and of | shared != of:
            path.chmod(stat.S_IMODE(of) | shared)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder that becomes `path` when the block ends without an exception.

    If another process has created `path` meanwhile, its version stays, since equal names have equal contents.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = new_temporary_folder(path)
    try:
        # Errors are explained before the clean-up, which frees disk space.
        with explain_write_errors(path):
            yield temporary
            grant_umask_rights(temporary)
            if not path.exists():
                temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write a temporary file that becomes `path` when the block ends without an exception.

    The temporary file has a folder of its own, because safetensors writes another temporary file next to it under an unknown
    name, which a killed run would leave behind permanently.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = new_temporary_folder(path)
    try:
        with explain_write_errors(path):
            yield folder / path.name
            grant_umask_rights(folder)
            (folder / path.name).replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Store:
    """A store: the paths of its entries, and the locks under which they are made."""

    root: Path

    @classmethod
    def at(cls, root: Path | None) -> Store:
        """Return the store in `root`, else in $HARNESS_STORE, else in the user's data folder."""
        if root is None and (named := os.environ.get("HARNESS_STORE")):
            root = Path(named)
        return cls((root or Path(platformdirs.user_data_dir("flickr30k-harness"))).resolve())

    @contextmanager
    def claim(self, path: Path, wait: bool = True) -> Iterator[None]:
        """Hold the lock on `path`, so that no other process makes the entry. See `get_or_create`.

        The lock is the operating system's and ends with the process. Temporary files that a killed owner left are removed. Raises
        BusyError if another process holds the lock and `wait` is False.
        """
        from filelock import FileLock, Timeout

        name = path.relative_to(self.root).as_posix().replace("/", "-")
        with explain_write_errors(self.root / "locks"):
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            # Other users of a shared store open the lock file too, so it has the permissions of the folder.
            rights = stat.S_IMODE((self.root / "locks").stat().st_mode) & 0o666
            lock = FileLock(self.root / "locks" / f"{name}.lock", mode=rights)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if not wait:
                    raise BusyError(path) from None
                print(escape_controls(f"note: waiting for another process that is making {path}"), file=sys.stderr)
                lock.acquire()
        try:
            remove_leftovers(path)
            yield
        finally:
            lock.release()

    def get_or_create(
        self, path: Path, load: Callable[[Path], T | None], make: Callable[[Path], T], wait: bool = True, claim: bool = True
    ) -> T:
        """Return the entry at `path`, made by one process at a time if it is absent or damaged.

        load: reads the entry. It returns None if there is none and raises DamagedError if it is damaged. It is called
        again under the claim, because another process may have made the entry by then.
        make: writes the entry and returns it. A damaged folder is removed before.
        wait: whether to wait for another process that is making the entry. Otherwise BusyError is raised.
        claim: False for a process whose leading process has claimed the path (`torchrun`).
        """
        try:
            found = load(path)
        except DamagedError:
            found = None
        if found is not None:
            return found
        with self.claim(path, wait) if claim else nullcontext():
            try:
                found = load(path)
            except DamagedError as error:
                remove_damaged(path, error)
            return make(path) if found is None else found

    def sample(self, task: str, version: str) -> Path:
        """Return the folder of a task's embedded sample."""
        return self.root / "samples" / f"{task}-{version}"

    def pack(self, digest: str) -> Path:
        """Return the folder of an opened pack."""
        return self.root / "packs" / digest

    def embeddings(self, key: str) -> Path:
        """Return the file of one matrix of embeddings."""
        return self.root / "embeddings" / f"{key}.safetensors"

    def part(self, key: str, start: int) -> Path:
        """Return the file of the rows from `start` on of a matrix that is not complete yet."""
        return self.root / "parts" / key / f"{start}.safetensors"

    def states(self, key: str) -> Path:
        """Return the folder of the token or patch states of one list of items."""
        return self.root / "states" / key

    def translations(self, key: str) -> Path:
        """Return the file of a translator's English for some captions."""
        return self.root / "translations" / f"{key}.json"

    def teacher(self, key: str) -> Path:
        """Return the folder of a teacher's states for one list of sentences."""
        return self.root / "teacher" / key

    def tower(self, digest: str) -> Path:
        """Return the folder of one distilled tower."""
        return self.root / "towers" / digest

    def training(self, digest: str) -> Path:
        """Return the checkpoint of an unfinished training."""
        return self.root / "training" / f"{digest}.safetensors"

    def trial(self, digest: str) -> Path:
        """Return the file of the score of one tried learning rate."""
        return self.root / "trials" / f"{digest}.json"

    def record(self, cell: str) -> Path:
        """Return the folder of one cell's record."""
        return self.root / "records" / cell

    def towers(self) -> list[Path]:
        """Return the folders of all finished towers."""
        return finished_folders(self.root / "towers")

    def records(self) -> list[Path]:
        """Return the folders of all finished records."""
        return finished_folders(self.root / "records")


def existing_folder(path: Path) -> Path | None:
    """Return the folder at `path`, None if there is none. This loads entries without a seal."""
    return path if path.is_dir() else None


def finished_folders(folder: Path) -> list[Path]:
    """Return the finished sub-folders of a store's folder, sorted by name."""
    with explain_read_errors(folder):
        if not folder.is_dir():
            return []
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
