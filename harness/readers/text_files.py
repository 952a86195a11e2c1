"""Readers of text files: UTF-8, plain or gzip, one sentence a line."""

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
"""Encodings by their byte order mark, longer marks first, since the mark of UTF-32 starts with that of UTF-16."""

MAX_TEXT_CHARACTERS = 10_000
"""The maximum length of a caption or a sentence. The longest captions of the known sets have a few hundred characters, and
detailed descriptions a few thousand. Tokenizers take minutes for longer texts."""


def find_plain_or_gzip(path: Path) -> Path | None:
    """Return the file, else its gzip in the same folder, else None. The plain file wins, since users edit that one."""
    packed = path.with_name(path.name + ".gz")
    return path if path.is_file() else packed if packed.is_file() else None


def read_text(path: Path) -> str:
    """Read a file as text. A `.gz` file is decompressed and a byte order mark is dropped.

    Raises HarnessError if the file cannot be read or decompressed, if it is a decompression bomb, or if it is not UTF-8. The last
    error names line and byte.
    """
    check_plain_file(path)
    try:
        if path.suffix == ".gz":
            with BoundedGzipFile(path) as file:
                data = file.read()
        else:
            data = path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HarnessError(f"{path} is a damaged gzip file: {error}") from None
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror or error}") from None
    return _decode(path, data)


def _decode(path: Path, data: bytes) -> str:
    way_out = "save it as UTF-8, for example with `iconv -f ENCODING -t UTF-8`"
    other = next((name for mark, name in OTHER_ENCODINGS.items() if data.startswith(mark)), None)
    if other:
        raise HarnessError(f"{path} is {other}, not UTF-8, by its byte order mark: {way_out}")
    # ASCII text in UTF-16 without a mark is also valid UTF-8, with a NUL next to every letter.
    if data.count(0) * 4 > len(data):
        raise HarnessError(f"{path} is UTF-16 or not a text file, since it has many NUL bytes: {way_out}")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise HarnessError(
            f"{path} is not UTF-8: line {line:,}, byte {error.start:,} of the text ({error.reason}); "
            f"perhaps Latin-1 or GBK: {way_out}"
        ) from None


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without their line ends, which are `\\n` or `\\r\\n`.

    If the file has no line feed, or only one at its end, carriage returns end the lines, as on old Macintoshes. Unicode line
    separators do not end a line, unlike in str.splitlines: one inside a sentence would shift all later lines.
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
        raise HarnessError(f"{place}: the caption has {len(text):,} characters, expected at most {MAX_TEXT_CHARACTERS:,}")
    if "\0" in text:
        raise HarnessError(f"{place}: the caption {text[:60]!r} contains a NUL: the file is damaged or has another encoding")


def is_blank(text: str) -> bool:
    """Return whether a text has only invisible characters, such as blanks, no-break spaces and zero-width characters.

    >>> is_blank("\\u00a0\\u200b "), is_blank(".")
    (True, False)
    """
    return not any(char.isprintable() and not char.isspace() for char in text)
