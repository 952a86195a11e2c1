"""A data folder packed for moving: its pictures in webdataset shards, its texts in one tar, and a manifest that counts both.

A pack is read where it lies: in a folder, or at an `https://`, `http://` or `s3://` address. It is opened once into the store,
under its manifest's digest, and its counts are checked each time: a sample that was dropped or doubled on the way is an error,
never another gallery.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.core.data import Contents
from harness.core.error_messages import first_line
from harness.core.errors import HarnessError
from harness.storage.addresses import is_address, open_address
from harness.storage.archives import read_members, unpack
from harness.storage.plain_files import check_plain_file
from harness.storage.store import Store, existing_folder, explain_write_errors, new_folder

MANIFEST, TEXTS_TAR, SHARDS_FOLDER = "manifest.json", "texts.tar", "shards"
_CHUNK = 1 << 20
_MOST_MANIFEST = 64 << 20


class _Part(BaseModel):
    """One tar file of a pack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    samples: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a pack holds. samples: pictures in all shards; those of `texts` are files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    task: str
    samples: int
    shards: tuple[_Part, ...]
    texts: _Part


def write_pack(contents: Contents, data: Path, task: str, out: Path, per_shard: int, advance: Callable[[int], None]) -> Manifest:
    """Pack a data folder into a new folder; equal contents give equal bytes. `advance(k)` is told of k more pictures.

    Raises HarnessError if the folder is there already, or if there is no picture to pack.
    """
    if out.exists():
        raise HarnessError(f"{out} is there already: name a new folder for the pack")
    if not contents.pictures:
        raise HarnessError(f"{data} has no pictures to pack")
    for path in (*(data / name for name in contents.texts), *map(Path, contents.files)):
        _check_inside(path, data)
    with new_folder(out) as folder:
        (folder / SHARDS_FOLDER).mkdir()
        names = list(contents.pictures)
        for number, start in enumerate(range(0, len(names), per_shard)):
            with (folder / SHARDS_FOLDER / f"{task}-{number:06d}.tar").open("wb") as shard:
                _write_shard(contents, names[start : start + per_shard], shard, advance)
        _write_texts(contents, data, folder / TEXTS_TAR)
        shards = tuple(_part(path, SHARDS_FOLDER) for path in sorted((folder / SHARDS_FOLDER).iterdir()))
        manifest = Manifest(task=task, samples=len(contents.pictures), shards=shards, texts=_part(folder / TEXTS_TAR))
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        _check_counts(folder, manifest)
        # A temporary folder is its owner's alone; a pack is made to be served.
        folder.chmod(0o755)
    return manifest


def _check_inside(path: Path, data: Path) -> None:
    """Raise HarnessError unless a path is a plain file of the folder: a pack is made to be given away."""
    real = path.resolve()
    if not real.is_relative_to(data.resolve()) and not _is_shard_of(real, data):
        raise HarnessError(f"{path} is a link to {real}, outside of {data}: put the file itself there to pack it")
    if real.exists() and not real.is_file():
        raise HarnessError(f"{path} is no plain file: a pack holds plain files alone")


def _is_shard_of(real: Path, data: Path) -> bool:
    """Whether a file is a shard of the local pack that `open_pack` opened into `data`, which links to it."""
    manifest = real.parent.parent / MANIFEST
    return manifest.is_file() and _opened_as(manifest.read_bytes()) == data.name


def _write_shard(contents: Contents, names: Sequence[str], shard: IO[bytes], advance: Callable[[int], None]) -> None:
    """Write pictures as webdataset's samples: a key without a dot, and the picture under its suffix.

    Owner, rights and time are the same for all, or the same pictures would make another pack tomorrow. The writer is given an
    open file: what it is given by name, it may take for a command.
    """
    from webdataset import TarWriter

    with TarWriter(shard, user="", group="", mtime=0) as writer:
        for name in names:
            path = Path(name)
            writer.write({"__key__": path.stem.replace(".", "_"), path.suffix[1:].lower(): contents.pictures[name]()})
            advance(1)


def _write_texts(contents: Contents, data: Path, path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in contents.texts:
            info = tarfile.TarInfo(name)
            content = data / name
            info.size = content.stat().st_size
            with content.open("rb") as file:
                tar.addfile(info, file)


def _part(path: Path, folder: str = "") -> _Part:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = f"{folder}/{path.name}" if folder else path.name
    return _Part(name=name, samples=len(read_members(path)), bytes=path.stat().st_size, sha256=digest)


def is_pack(data: str) -> bool:
    """Whether a name is the address of a pack, or a folder with a manifest."""
    return is_address(data) or (Path(data) / MANIFEST).is_file()


def open_pack(data: str, store: Store) -> Path:
    """The folder in the store where a pack lies open, as its task reads it. The shards of a local pack stay where they are.

    Raises HarnessError if something cannot be read, is at an address that is not read, or is not what the manifest says.
    """
    address, raw = f"{data.rstrip('/')}/{MANIFEST}", b""
    for chunk in _chunks(address):
        raw += chunk
        if len(raw) > _MOST_MANIFEST:
            raise HarnessError(f"{address} is not a pack's manifest: it has more than {_MOST_MANIFEST:,} bytes")
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise HarnessError(f"{address} is not a pack's manifest: {first_line(error)}") from None
    _check_names(data, manifest)
    folder = store.get_or_create(store.pack(_opened_as(raw)), existing_folder, partial(_open_into, data=data, manifest=manifest))
    _check_counts(folder, manifest)
    return folder


def _opened_as(manifest: bytes) -> str:
    """The name in the store of a pack with that manifest."""
    return hashlib.sha256(manifest).hexdigest()[:32]


def _check_names(data: str, manifest: Manifest) -> None:
    """Raise HarnessError for a name that could lead elsewhere: it becomes a path here, and a part of an address."""
    names = [part.name for part in manifest.shards]
    for name in names:
        if not re.fullmatch(rf"{SHARDS_FOLDER}/[\w-][\w.-]{{0,199}}", name, re.ASCII):
            raise HarnessError(
                f"{data}/{MANIFEST} names {name[:100]!r}: expected a path inside the pack, as {SHARDS_FOLDER}/NAME.tar"
            )
        if names.count(name) > 1:
            raise HarnessError(f"{data}/{MANIFEST} names {name} more than once")
    if manifest.texts.name != TEXTS_TAR:
        raise HarnessError(f"{data}/{MANIFEST} names {manifest.texts.name[:100]!r}: expected a path inside the pack, {TEXTS_TAR}")


def _open_into(folder: Path, data: str, manifest: Manifest) -> Path:
    with new_folder(folder) as temporary:
        (temporary / SHARDS_FOLDER).mkdir()
        for part in (*manifest.shards, manifest.texts):
            _bring(data, part, temporary / part.name)
        unpack(temporary / TEXTS_TAR, temporary)
    return folder


def _bring(data: str, part: _Part, target: Path) -> None:
    """Put one tar where it is wanted: a link to a local one, a copy of a remote one. Raises HarnessError if it is another."""
    address = f"{data.rstrip('/')}/{part.name}"
    digest, size = hashlib.sha256(), 0
    local = not is_address(data)
    with explain_write_errors(target), target.open("xb") as out:
        for chunk in _chunks(address):
            digest.update(chunk)
            size += len(chunk)
            if size > part.bytes:  # or a server could fill the disk
                break
            if not local:
                out.write(chunk)
    if (size, digest.hexdigest()) != (part.bytes, part.sha256):
        raise HarnessError(f"{address} is not what the manifest says: {size:,} bytes of {part.bytes:,}, or other contents")
    if local:
        target.unlink()
        try:
            target.symlink_to(Path(address).resolve())
        except OSError:
            shutil.copyfile(address, target)


def _chunks(address: str) -> Iterator[bytes]:
    """A file of a pack, piece by piece. Raises HarnessError if it cannot be read."""
    try:
        with open_address(address) if is_address(address) else _open_file(Path(address)) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except (OSError, ValueError, HTTPException) as error:
        raise HarnessError(f"{address} cannot be read ({error}): is it there, and is there a network?") from None


def _open_file(path: Path) -> IO[bytes]:
    """A plain file. Raises HarnessError as `check_plain_file` does."""
    check_plain_file(path)
    return path.open("rb")


def _check_counts(folder: Path, manifest: Manifest) -> None:
    """Raise HarnessError unless every shard holds the samples it should, and no sample is there twice."""
    seen: Counter[str] = Counter()
    for part in manifest.shards:
        names = [member.name for member in read_members(folder / part.name)]
        if len(names) != part.samples:
            raise HarnessError(f"{folder / part.name} holds {len(names):,} samples, its manifest says {part.samples:,}")
        seen.update(name.rpartition("/")[2].partition(".")[0] for name in names)
    twice = [name for name, count in seen.items() if count > 1]
    if twice:
        raise HarnessError(
            f"{folder} holds {len(twice):,} samples more than once, {twice[0]} first: these shards are of two packs"
        )
    if len(seen) != manifest.samples:
        raise HarnessError(f"{folder} holds {len(seen):,} samples, its manifest says {manifest.samples:,}")
