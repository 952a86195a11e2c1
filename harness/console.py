"""Progress and tables in the terminal. Progress goes to standard error, results to standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, str], None]
PIPED_WIDTH = 200


class Console:
    """Where a run speaks. On a terminal a stage is a live bar; piped, or where several speak, it is one line when it ends."""

    def __init__(self, live: bool = True, quiet: bool = False) -> None:
        from harness.terminal import Terminal

        self.live = live
        self.out = Terminal(quiet=quiet, width=None if sys.stdout.isatty() else PIPED_WIDTH)
        self.err = Terminal(quiet=quiet, stderr=True, width=None if sys.stderr.isatty() else PIPED_WIDTH)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """Follow `total` units of work. The block calls `advance(k, detail)` as it goes; no call at all says nothing."""
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
        """A result."""
        self.out.print(*what)

    def say(self, text: str) -> None:
        """A remark beside the results."""
        self.err.print(text)
