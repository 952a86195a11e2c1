"""Text files as data sets ship them: UTF-8, plain or gzip, one sentence a line."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from harness.api import HarnessError
from harness.bombs import Unpacked
from harness.files import need_plain


def find(path: Path) -> Path | None:
    """The file itself, or its gzip beside it, or None. The plain one wins, since it is the one that people edit."""
    packed = path.with_name(path.name + ".gz")
    return path if path.is_file() else packed if packed.is_file() else None


def read_text(path: Path) -> str:
    """Read a file, unpacking `.gz`; a byte order mark is dropped.

    Raises HarnessError if it cannot be read or unpacked, is a bomb, or is not UTF-8: then with line and byte.
    """
    need_plain(path)
    try:
        if path.suffix == ".gz":
            with Unpacked(path) as file:
                data = file.read()
        else:
            data = path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HarnessError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise HarnessError(f"{path} is not UTF-8: line {line:,}, byte {error.start:,} of the text ({error.reason})") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends.

    Only line feeds end a line: a Unicode line separator inside a sentence must not shift all later ones, as str.splitlines would.
    """
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
