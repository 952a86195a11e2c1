"""Jobs for tests of executors. This module imports little, since every worker imports it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from harness.runtime.console import Console
from harness.runtime.prefetch import available_processors


@dataclass(frozen=True, eq=False)
class ScriptedJob:
    """A job that calls a function."""

    name: str
    work: Callable[[], object]

    def do(self, console: Console, wait: bool) -> None:
        self.work()

    def elsewhere(self) -> Callable[[], ScriptedJob]:
        return partial(ScriptedJob, self.name, self.work)


class UnpicklableError(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__("both hands full")


class PanicException(BaseException):
    """The exception of a panic in a Rust extension."""


def fail(error: type[BaseException], *words: object) -> None:
    raise error(*words)


def open_pipe_end(path: Path, mode: str) -> None:
    """Open one end of a pipe, which blocks until another process opens the other end."""
    path.open(mode).close()


def block_until_interrupted(begun: Path, never: Path) -> None:
    try:
        open_pipe_end(begun, "wb")
        open_pipe_end(never, "rb")
    except KeyboardInterrupt:
        never.with_suffix(".interrupted").touch()
        raise


def write_thread_counts(path: Path) -> None:

    path.write_text(f"{os.environ['OMP_NUM_THREADS']} {torch.get_num_threads()} {available_processors()}")
