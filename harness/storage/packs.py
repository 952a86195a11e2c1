"""Packs: a data folder as webdataset shards of its images, one tar of its texts, and a manifest with the counts of both.

A pack is in a folder, or at an `https://`, `http://` or `s3://` address. It is opened once into the store under the digest of
its manifest. The counts are checked at every use, so that a dropped or duplicated sample is an error and never changes the
gallery.
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
from harness.core.error_messages import short_message
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
    """The contents of a pack. samples: images in all shards. The samples of `texts` are files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    task: str
    samples: int
    shards: tuple[_Part, ...]
    texts: _Part


def write_pack(contents: Contents, data: Path, task: str, out: Path, per_shard: int, advance: Callable[[int], None]) -> Manifest:
    """Pack a data folder into a new folder. Equal contents give equal bytes. `advance(k)` reports k more images.

    Raises HarnessError if the folder exists, or if there is no image to pack.
    """
    if out.exists():
        raise HarnessError(f"{out} exists: name a new folder for the pack")
    if not contents.pictures:
        raise HarnessError(f"{data} has no images to pack")
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
        # Only the owner can read a temporary folder, but a pack is made to be served.
        folder.chmod(0o755)
    return manifest


def _check_inside(path: Path, data: Path) -> None:
    """Raise HarnessError unless a path is a regular file inside the folder, since packs are made to be shared."""
    real = path.resolve()
    if not real.is_relative_to(data.resolve()) and not _is_shard_of(real, data):
        raise HarnessError(f"{path} is a link to {real}, outside of {data}: replace it by the file to pack it")
    if real.exists() and not real.is_file():
        raise HarnessError(f"{path} is not a regular file: a pack holds regular files only")


def _is_shard_of(real: Path, data: Path) -> bool:
    """Return whether a file is a shard of the local pack that `open_pack` opened into `data` by links."""
    manifest = real.parent.parent / MANIFEST
    return manifest.is_file() and _opened_as(manifest.read_bytes()) == data.name


def _write_shard(contents: Contents, names: Sequence[str], shard: IO[bytes], advance: Callable[[int], None]) -> None:
    """Write images as webdataset samples: a key without a dot, and the image under its suffix.

    Owner, permissions and time are fixed, so that equal images give an equal pack. The writer gets an open file, because it may
    take a file name for a command.
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
    """Return whether a name is an address, or a folder with a manifest."""
    return is_address(data) or (Path(data) / MANIFEST).is_file()


def open_pack(data: str, store: Store) -> Path:
    """Open a pack into the store and return its folder, as its task reads it. The shards of a local pack are linked.

    Raises HarnessError if a file cannot be read or differs from the manifest, or if the address has an unknown scheme.
    """
    address, raw = f"{data.rstrip('/')}/{MANIFEST}", b""
    for chunk in _chunks(address):
        raw += chunk
        if len(raw) > _MOST_MANIFEST:
            raise HarnessError(f"{address} is not a pack's manifest: it has more than {_MOST_MANIFEST:,} bytes")
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise HarnessError(f"{address} is not a pack's manifest: {short_message(error)}") from None
    _check_names(data, manifest)
    folder = store.get_or_create(store.pack(_opened_as(raw)), existing_folder, partial(_open_into, data=data, manifest=manifest))
    _check_counts(folder, manifest)
    return folder


def _opened_as(manifest: bytes) -> str:
    """Return the digest of a manifest, which names the opened pack in the store."""
    return hashlib.sha256(manifest).hexdigest()[:32]


def _check_names(data: str, manifest: Manifest) -> None:
    """Raise HarnessError for a name that leads outside the pack. Names become paths on this machine and parts of addresses."""
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
    """Link a local tar, or copy a remote one. Raises HarnessError if it differs from the manifest."""
    address = f"{data.rstrip('/')}/{part.name}"
    digest, size = hashlib.sha256(), 0
    local = not is_address(data)
    with explain_write_errors(target), target.open("xb") as out:
        for chunk in _chunks(address):
            digest.update(chunk)
            size += len(chunk)
            if size > part.bytes:  # otherwise a server could fill the disk
                break
            if not local:
                out.write(chunk)
    if (size, digest.hexdigest()) != (part.bytes, part.sha256):
        raise HarnessError(f"{address} differs from the manifest: {size:,} bytes of {part.bytes:,}, or other contents")
    if local:
        target.unlink()
        try:
            target.symlink_to(Path(address).resolve())
        except OSError:
            shutil.copyfile(address, target)


def _chunks(address: str) -> Iterator[bytes]:
    """Yield the bytes of a file of a pack in pieces. Raises HarnessError if it cannot be read."""
    try:
        with open_address(address) if is_address(address) else _open_file(Path(address)) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except (OSError, ValueError, HTTPException) as error:
        raise HarnessError(f"{address} cannot be read ({error}): check the address and the network") from None


def _open_file(path: Path) -> IO[bytes]:
    """Open a regular file. Raises HarnessError as `check_plain_file`."""
    check_plain_file(path)
    return path.open("rb")


def _check_counts(folder: Path, manifest: Manifest) -> None:
    """Raise HarnessError unless every shard has the samples of the manifest, and no sample occurs twice."""
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
