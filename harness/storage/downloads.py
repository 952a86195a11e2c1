"""Download public files into a data folder: downloads resume, are checked, and are listed with their licence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError

from pydantic_core import from_json

from harness.core.data import Download
from harness.core.errors import HarnessError
from harness.storage.addresses import open_url
from harness.storage.store import explain_write_errors, new_file

LEDGER = "fetched.json"
"""The list of the files that were downloaded into a folder: url, sha256, bytes, licence and day of each path."""
_CHUNK = 1 << 16


def fetch_all(downloads: Sequence[Download], folder: Path, advance: Callable[[int], None]) -> int:
    """Download the files that are missing and return how many there were. `advance(k)` reports k more files.

    Raises HarnessError if there is no network, if the server refuses, or if a file has another checksum than expected.
    """
    fetched = 0
    for download in downloads:
        fetched += fetch_file(download, folder)
        advance(1)
    return fetched


def fetch_file(download: Download, folder: Path) -> bool:
    """Download one file and return True, or check the existing file and return False.

    An existing file is checked against its published checksum or the one in the list of downloads. A download is written to
    `<name>.part` and renamed when it is complete. Raises as `fetch_all`.
    """
    target = folder / download.path
    known = download.sha256 or _ledger(folder).get(download.path, {}).get("sha256")
    if target.is_file():
        if known and _sha256(target) != known:
            raise HarnessError(f"{target} differs from the file of {download.url}: delete it to download it again")
        return False
    part = target.with_name(target.name + ".part")
    with explain_write_errors(target):
        part.parent.mkdir(parents=True, exist_ok=True)
        _receive(download, part)
        digest = _sha256(part)
        if download.sha256 and digest != download.sha256:
            part.unlink()
            raise HarnessError(f"{download.url} sent a file of SHA-256 {digest}, expected {download.sha256}: it was deleted")
        part.replace(target)
    _write_down(folder, download, digest, target.stat().st_size)
    return True


def _receive(download: Download, part: Path) -> None:
    """Complete the partial file. The download resumes if the server still has the same file."""
    tag = part.with_name(part.name + ".etag")
    headers: dict[str, str] = {}
    if part.is_file() and tag.is_file() and part.stat().st_size:
        headers |= {"Range": f"bytes={part.stat().st_size}-", "If-Range": tag.read_text(encoding="utf-8")}
    try:
        with open_url(download.url, headers) as answer:
            goes_on = answer.status == HTTPStatus.PARTIAL_CONTENT
            if etag := answer.headers.get("ETag"):
                tag.write_text(etag, encoding="utf-8")
            expected = answer.headers.get("Content-Length")
            before = part.stat().st_size if goes_on else 0
            with part.open("ab" if goes_on else "wb") as file:
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
    except HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            _receive(download, part)
            return
        raise HarnessError(f"{download.url}: the server answers {error.code} {error.reason}; see `list sources`") from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise HarnessError(
            f"no network, or it broke off: {download.url} ({reason}). Run the same command again to resume, "
            f"or put the file at {part.with_suffix('')} yourself"
        ) from None
    if expected is not None and part.stat().st_size != before + int(expected):
        raise HarnessError(f"{download.url} broke off after {part.stat().st_size:,} bytes: run the same command again to resume")
    tag.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ledger(folder: Path) -> dict[str, dict[str, str | int]]:
    path = folder / LEDGER
    try:
        content = from_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path} cannot be read as JSON: {error}; delete it to continue without it") from None
    if not isinstance(content, dict):
        raise HarnessError(f"{path} is not a list of downloaded files: delete it to continue without it")
    return content


def _write_down(folder: Path, download: Download, digest: str, size: int) -> None:
    entry: dict[str, str | int] = {
        "url": download.url,
        "sha256": digest,
        "bytes": size,
        "licence": download.licence,
        "fetched": datetime.now(UTC).date().isoformat(),
    }
    ledger = _ledger(folder) | {download.path: entry}
    with new_file(folder / LEDGER) as temporary:
        temporary.write_text(json.dumps(ledger, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
