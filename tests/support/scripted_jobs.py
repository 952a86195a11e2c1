"""Jobs that do what a test tells them. They lie in a module that imports little, since every worker imports it."""

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
class Errand:
    """A job that does what it is told."""

    name: str
    work: Callable[[], object]

    def do(self, console: Console, wait: bool) -> None:
        self.work()

    def elsewhere(self) -> Callable[[], Errand]:
        return partial(Errand, self.name, self.work)


class AwkwardError(Exception):
    """An error that does not survive being sent."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__("both hands full")


class PanicException(BaseException):
    """What a panic of a Rust extension is in Python."""


def fail(error: type[BaseException], *words: object) -> None:
    raise error(*words)


def meet(path: Path, mode: str) -> None:
    """Open one end of a pipe, which waits for another process to open the other."""
    path.open(mode).close()


def wait_in_vain(begun: Path, never: Path) -> None:
    try:
        meet(begun, "wb")
        meet(never, "rb")
    except KeyboardInterrupt:
        never.with_suffix(".interrupted").touch()
        raise


def tell_threads(path: Path) -> None:

    path.write_text(f"{os.environ['OMP_NUM_THREADS']} {torch.get_num_threads()} {available_processors()}")
