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

SECONDS_A_LINE = 30
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


class Stage:
    """The progress of `total` units of work, of which an earlier run may have done some.

    Calling it, `stage(k, detail)`, counts k more units. `show(done, detail)` is called each time, and `say(line)` at most once in
    SECONDS_A_LINE, with an estimate of the time left from the pace of this run. clock: the time in seconds.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        show: Callable[[int, str], None],
        say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.show, self.say, self.clock = show, say, clock
        self.done, self.before, self.detail = 0, 0, ""
        self.began = self.said = clock()

    def __call__(self, count: int, detail: str = "") -> None:
        """Count more units. detail: such as the loss."""
        self.done, self.detail = self.done + count, detail
        self.show(self.done, detail)
        now = self.clock()
        if now - self.said >= SECONDS_A_LINE and self.before < self.done < self.total:
            self.said = now
            left = (now - self.began) / (self.done - self.before) * (self.total - self.done)
            progress = f"{self.title}: {self.done:,} of {self.total:,} {self.unit}"
            self.say(", ".join([progress, *([detail] if detail else []), f"about {duration(left)} left"]))

    def reach(self, done: int, detail: str = "") -> None:
        """Count the units up to `done`. At the first call, all but the last of them count as an earlier run's."""
        if not self.done:
            self.done = self.before = done - 1
        self(done - self.done, detail)

    def summary(self) -> str:
        """Return what this run has done, and in which time."""
        detail = f", {self.detail}" if self.detail else ""
        return f"{self.title}: {self.done - self.before:,} {self.unit} in {self.clock() - self.began:.1f} s{detail}"


def duration(seconds: float) -> str:
    """Return a rough duration.

    >>> duration(45.4), duration(100), duration(7000), duration(90_000)
    ('45 s', '2 min', '1.9 h', '25 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"


class Console:
    """Output of a run. clock: the time in seconds.

    A stage is a live bar on a terminal. In a pipe, or with several workers, it is a line every half minute and one at its end.
    """

    def __init__(self, live: bool = True, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        from harness.runtime.terminal import Terminal

        self.live = live
        self.clock = clock
        self.out = Terminal(quiet=quiet, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
        self.err = Terminal(quiet=quiet, stderr=True, width=None if sys.stderr.isatty() else _PIPED_WIDTH)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Stage]:
        """Show the progress of `total` units of work, which the block counts. If it counts none, nothing is printed."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        detailed = TextColumn("{task.fields[detail]}", markup=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn(), detailed)
        live = self.live and self.err.is_terminal
        bar = Progress(*columns, TimeRemainingColumn(), console=self.err, transient=True, disable=not live)
        task = bar.add_task(title, total=total, detail=unit, visible=False)

        def show(done: int, detail: str) -> None:
            bar.update(task, completed=done, detail=f"{unit}  {detail}", visible=True)

        stage = Stage(title, total, unit, show, (lambda _: None) if live else self.say, self.clock)
        with bar:
            yield stage
        if stage.done:
            self.say(stage.summary())

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
