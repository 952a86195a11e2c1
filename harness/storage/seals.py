"""Seals: the key of an entry of the store and the SHA-256 of its contents, which show that the entry is undamaged."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from harness.core.errors import HarnessError
from harness.runtime.markup import escape_controls
from harness.storage.store import DamagedError, Store, explain_read_errors, new_file, new_folder, remove_damaged

T = TypeVar("T")

SEAL_FILE = "digests.json"
KEY_FIELD, DIGEST_FIELD, CONTENT_FIELD = "key", "sha256", "content"


class Seal(BaseModel):
    """The seal that `seal_folder` writes into a folder. key: None in seals of an earlier version."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key: str | None
    files: dict[str, str]


_KEYLESS_SEAL = TypeAdapter(dict[str, str])


def report_skipped(error: HarnessError) -> None:
    """Print that an unreadable file or folder is skipped."""
    what = error.what if isinstance(error, DamagedError) else str(error)
    print(escape_controls(f"note: skipped: {what}"), file=sys.stderr)


def load_readable(folders: Iterable[Path], load: Callable[[Path], T]) -> Iterator[tuple[Path, T]]:
    """Yield each folder that can be loaded, with its content. A folder that cannot is named in a note and skipped."""
    for folder in folders:
        try:
            found = load(folder)
        except HarnessError as error:
            report_skipped(error)
        else:
            yield folder, found


@contextmanager
def open_regular_file(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading. Raises DamagedError if there is none, HarnessError if it cannot be read."""
    try:
        with explain_read_errors(path):
            if not stat.S_ISREG(path.stat().st_mode):
                raise DamagedError(f"{path} is damaged (it is not a file)")
            with path.open("rb") as file:
                yield file
    except OSError as error:
        raise DamagedError(f"{path} is damaged ({error.strerror})") from None


def read_bytes(path: Path) -> bytes:
    """Return a file's contents. Raises as `open_regular_file`."""
    with open_regular_file(path) as file:
        return file.read()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's contents. Raises as `open_regular_file`."""
    with open_regular_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_bytes(data: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def seal_folder(folder: Path, key: str) -> None:
    """Write the seal of a folder: its key and the digests of its files."""
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.name != SEAL_FILE}
    (folder / SEAL_FILE).write_text(json.dumps({"key": key, "files": files}, indent=1) + "\n", encoding="utf-8")


def read_seal(folder: Path) -> Seal | None:
    """Return a folder's seal, None if it has none. Raises DamagedError if the file is not a seal."""
    path = folder / SEAL_FILE
    with explain_read_errors(path):
        if not path.exists():
            return None
    data = read_bytes(path)
    try:
        return Seal.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
    try:
        # Seals of an earlier version have no key and consist of the digests.
        return Seal(key=None, files=_KEYLESS_SEAL.validate_json(data, strict=True))
    except ValidationError:
        raise DamagedError(f"{path} is damaged ({problem[:200]})") from None


def check_seal(folder: Path) -> Seal | None:
    """Return a folder's seal, None if it has none. Raises DamagedError if a file differs from its digest."""
    found = read_seal(folder)
    for name, digest in found.files.items() if found else ():
        if not re.fullmatch(r"[\w.-]+", name):
            raise DamagedError(f"{folder / SEAL_FILE} is damaged (it names {name[:80]!r})")
        if file_digest(folder / name) != digest:
            raise DamagedError(f"{folder / name} is damaged (it is not what was written)")
    return found


def read_sealed_bytes(folder: Path, name: str, found: Seal | None) -> bytes:
    """Return the contents of a file in a folder. found: the folder's seal. Raises DamagedError if the file differs from it."""
    data = read_bytes(folder / name)
    if found and found.files.get(name) != digest_bytes(data):
        raise DamagedError(f"{folder / name} is damaged (it is not what was written)")
    return data


def check_sealed_entry(folder: Path) -> None:
    """Raise DamagedError unless a folder of the store is undamaged and its seal has the folder's name as its key."""
    found = check_seal(folder)
    check_key(folder, found.key if found else None, folder.name)


def check_key(path: Path, key: object, expected: str) -> None:
    """Raise DamagedError if the entry at a path has another key than the expected one, or none."""
    if key is None:
        raise DamagedError(f"{path} has no key (an earlier version wrote it)")
    if key != expected:
        raise DamagedError(f"{path} has another key ({str(key)[:80]!r})")


EntryCheck = Callable[[Path], object]


def load_undamaged(path: Path, check: EntryCheck = check_sealed_entry) -> Path | None:
    """Return the path of an entry that passes its check, None if there is no entry. Raises DamagedError if it does not pass."""
    with explain_read_errors(path):
        if not path.exists():
            return None
    check(path)
    return path


def is_undamaged(path: Path, check: EntryCheck = check_sealed_entry) -> bool:
    """Return whether an entry of the store exists and passes its check."""
    try:
        return load_undamaged(path, check) is not None
    except DamagedError:
        return False


def clear_damaged(path: Path, check: EntryCheck = check_sealed_entry) -> None:
    """Report an entry that does not pass its check, and remove it if it is a folder. The caller must have claimed it."""
    try:
        load_undamaged(path, check)
    except DamagedError as error:
        remove_damaged(path, error)


@contextmanager
def new_sealed_folder(path: Path, key: str) -> Iterator[Path]:
    """Fill a temporary folder that becomes `path`, sealed, when the block ends without an exception: see `new_folder`."""
    with new_folder(path) as temporary:
        yield temporary
        seal_folder(temporary, key)


def get_or_create_folder(store: Store, folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return a sealed folder of the store, filled by one process at a time if it is absent or damaged.

    fill: writes the files into a temporary folder, which is then sealed with the folder's name as its key.
    """

    def make(path: Path) -> Path:
        with new_sealed_folder(path, path.name) as temporary:
            fill(temporary)
        return path

    return store.get_or_create(folder, load_undamaged, make)


def entry_key(path: Path) -> str:
    """Return the key of a file of the store: its folder and name, as `trials/DIGEST.json`."""
    return f"{path.parent.name}/{path.name}"


def write_json_entry(path: Path, content: object) -> None:
    """Write a JSON value with its key and digest."""
    with new_file(path) as temporary:
        entry = {KEY_FIELD: entry_key(path), DIGEST_FIELD: digest_value(entry_key(path), content), CONTENT_FIELD: content}
        temporary.write_text(json.dumps(entry, ensure_ascii=False) + "\n", encoding="utf-8")


def load_json_entry(path: Path) -> Any | None:
    """Return the value that `write_json_entry` wrote, None if there is no file. Raises DamagedError as `read_json_entry`."""
    with explain_read_errors(path):
        if not path.exists():
            return None
    return read_json_entry(path)


def read_json_entry(path: Path) -> Any:
    """Return the value that `write_json_entry` wrote. Raises DamagedError if the file is damaged or has another key."""
    data = read_bytes(path)
    try:
        entry = from_json(data)
        intact = CONTENT_FIELD not in entry or digest_value(entry.get(KEY_FIELD), entry[CONTENT_FIELD]) == entry.get(DIGEST_FIELD)
    except (ValueError, TypeError, AttributeError):
        raise DamagedError(f"{path} is damaged (it is not JSON of this store)") from None
    if not intact:
        raise DamagedError(f"{path} is damaged (it is not what was written)")
    check_key(path, entry.get(KEY_FIELD) if CONTENT_FIELD in entry else None, entry_key(path))
    return entry[CONTENT_FIELD]


def digest_value(key: object, content: object) -> str:
    """Return the SHA-256 of a JSON value and its key."""
    return digest_bytes(json.dumps([key, content], sort_keys=True).encode())
