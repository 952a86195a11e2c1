"""Text files as data sets ship them: UTF-8, plain or gzip, one sentence a line."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from harness.core.errors import HarnessError
from harness.storage.archives import BoundedGzipFile
from harness.storage.plain_files import check_plain_file

OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Encodings by their byte order mark, longer marks first: that of UTF-32 begins like that of UTF-16."""

MAX_TEXT_CHARACTERS = 10_000
"""Characters that a caption or a sentence may have. The longest of the known sets has a few hundred; detailed descriptions, a few
thousand. Tokenizers take minutes over a longer one."""


def find_plain_or_gzip(path: Path) -> Path | None:
    """The file itself, or its gzip beside it, or None. The plain one wins, since it is the one that people edit."""
    packed = path.with_name(path.name + ".gz")
    return path if path.is_file() else packed if packed.is_file() else None


def read_text(path: Path) -> str:
    """Read a file, unpacking `.gz`; a byte order mark is dropped.

    Raises HarnessError if it cannot be read or unpacked, is a bomb, or is not UTF-8: then with line and byte.
    """
    check_plain_file(path)
    try:
        if path.suffix == ".gz":
            with BoundedGzipFile(path) as file:
                data = file.read()
        else:
            data = path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HarnessError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror or error}") from None
    return _decode(path, data)


def _decode(path: Path, data: bytes) -> str:
    way_out = "save it as UTF-8, as by `iconv -f ENCODING -t UTF-8`"
    other = next((name for mark, name in OTHER_ENCODINGS.items() if data.startswith(mark)), None)
    if other:
        raise HarnessError(f"{path} is {other}, not UTF-8, by its byte order mark: {way_out}")
    # ASCII in UTF-16 without a mark is valid UTF-8 too, with a NUL beside every letter.
    if data.count(0) * 4 > len(data):
        raise HarnessError(f"{path} is UTF-16 or no text at all, by its many NUL bytes: {way_out}")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise HarnessError(
            f"{path} is not UTF-8: line {line:,}, byte {error.start:,} of the text ({error.reason}); "
            f"perhaps Latin-1 or GBK: {way_out}"
        ) from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends: line feeds, with or without a carriage return before them.

    In a file without line feeds, but for one at its very end, carriage returns end the lines, as they did on old Macintoshes.
    Nothing else does: a Unicode line separator inside a sentence must not shift all later ones, as str.splitlines would.
    """
    text = read_text(path)
    only = text.removesuffix("\n").removesuffix("\r")
    if "\r" in only and "\n" not in only:
        return only.split("\r")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def check_caption(place: str, text: str) -> None:
    """Raise HarnessError naming the place if a text is longer than `MAX_TEXT_CHARACTERS` or contains a NUL."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise HarnessError(f"{place}: a caption of {len(text):,} characters; expected {MAX_TEXT_CHARACTERS:,} at most")
    if "\0" in text:
        raise HarnessError(f"{place}: a caption with a NUL in it, {text[:60]!r}: the file is damaged or in another encoding")


def is_blank(text: str) -> bool:
    """Whether a text has nothing to be seen: blanks, no-break spaces, zero-width characters.

    >>> is_blank("\\u00a0\\u200b "), is_blank(".")
    (True, False)
    """
    return not any(char.isprintable() and not char.isspace() for char in text)
