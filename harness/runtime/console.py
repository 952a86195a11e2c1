"""Progress and tables in the terminal. Progress goes to standard error, results to standard output."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

StageAdvance = Callable[[int, str], None]
_PIPED_WIDTH = 200
# Replacements of the tables' non-ASCII characters, for terminals and files in another encoding than UTF-8.
_ASCII_SUBSTITUTES = {
    "−": "-", "–": "-", "—": "-", "·": "-", "→": "->", "×": "x", "✓": "+", "✗": "x", "…": "...", "“": '"', "”": '"', "’": "'"
}  # fmt: skip
ASCII_FALLBACK = "harness.plainly"


def ascii_fallback(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks by usual ASCII substitutes, or by Python escapes (`\\u4e2d`)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escaped = (_ASCII_SUBSTITUTES.get(each) or each.encode("ascii", "backslashreplace").decode("ascii") for each in lacking)
    return "".join(escaped), error.end


codecs.register_error(ASCII_FALLBACK, ascii_fallback)


class UnfailingFile(io.FileIO):
    """A standard stream whose writes never fail. lost: the error of the first write that was dropped."""

    lost: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write the data, or drop it if it cannot be written."""
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


def make_streams_unfailing() -> None:
    """Replace the standard streams so that no output ends a run: not a closed pipe, a full disk or an unencodable character.

    A closed standard stream is opened on the null device, since the next file to be opened would take its number. If standard
    output is closed, results go to standard error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stderr = unfailing_stream(os.fdopen(2, "w", encoding="utf-8", closefd=False) if sys.stderr is None else sys.stderr)
    if sys.stdout is None:
        print("note: standard output is closed: results go to standard error", file=sys.stderr)
        sys.stdout = sys.stderr
    else:
        sys.stdout = unfailing_stream(sys.stdout)


def unfailing_stream(stream: TextIO) -> TextIO:
    """Return a text stream to the same place whose writes never fail. A terminal's stream is kept."""
    if not isinstance(stream, io.TextIOWrapper):  # in a notebook or a test
        return stream
    errors = ASCII_FALLBACK if stream.errors == "strict" else stream.errors
    if stream.isatty():
        stream.reconfigure(errors=errors)
        return stream
    stream.flush()
    file = io.BufferedWriter(UnfailingFile(stream.fileno(), "wb", closefd=False))
    return io.TextIOWrapper(file, stream.encoding, errors, line_buffering=stream.line_buffering)


def output_failure() -> str:
    """Return why standard output could not be written; "" if it could, or if its reader closed the pipe (`| head`)."""
    sys.stdout.flush()
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(file, UnfailingFile) or file.lost is None or file.lost.errno == errno.EPIPE:
        return ""
    return f"standard output cannot be written ({file.lost.strerror})"


class Console:
    """Output of a run. A stage is a live bar on a terminal, and one line at its end in a pipe or with several workers."""

    def __init__(self, live: bool = True, quiet: bool = False) -> None:
        from harness.runtime.terminal import Terminal

        self.live = live
        self.out = Terminal(quiet=quiet, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
        self.err = Terminal(quiet=quiet, stderr=True, width=None if sys.stderr.isatty() else _PIPED_WIDTH)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[StageAdvance]:
        """Show the progress of `total` units of work. The block calls `advance(k, detail)`; without a call nothing is printed."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        detailed = TextColumn("{task.fields[detail]}", markup=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn(), detailed)
        live = self.live and self.err.is_terminal
        bar = Progress(*columns, TimeRemainingColumn(), console=self.err, transient=True, disable=not live)
        done, last, began = 0, "", time.monotonic()
        task = bar.add_task(title, total=total, detail=unit, visible=False)

        def advance(count: int, detail: str = "") -> None:
            nonlocal done, last
            done, last = done + count, detail
            bar.update(task, advance=count, detail=f"{unit}  {detail}", visible=True)

        with bar:
            yield advance
        if done:
            seconds = time.monotonic() - began
            self.err.print(f"{title}: {done:,} {unit} in {seconds:.1f} s{f', {last}' if last else ''}")

    def print(self, *what: object) -> None:
        """Print a result to standard output."""
        self.out.print(*what)

    def say(self, text: str) -> None:
        """Print a remark to standard error."""
        self.err.print(text)


def plain_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table without frame. Cells are text, never markup."""
    from harness.runtime.terminal import plain_text

    drawn = Table(title=plain_text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        drawn.add_column(heading)
    for row in rows:
        drawn.add_row(*map(plain_text, row))
    return drawn
