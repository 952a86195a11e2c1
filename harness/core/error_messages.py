"""One-line descriptions of errors."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from harness.core.errors import HarnessError


def short_message(error: Exception) -> str:
    """Return an error's message on one line; for invalid JSON or TOML, the first invalid entry and its place."""
    # Pydantic takes a tenth of a second to import: an error of its kind exists only where it is loaded.
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where[:200]}{': ' if where else ''}{first['msg'][:200]}"
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def one_line_message(error: BaseException, file: Path | str | None = None) -> str:
    """Return an error on one line: its type, its message, and the line of `file` that it comes from."""
    if isinstance(error, HarnessError):
        return str(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    message = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    return f"{type(error).__name__}{f': {message}' if message else ''}{f' (line {line})' if line else ''}"
