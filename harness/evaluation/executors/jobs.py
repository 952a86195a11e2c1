"""Jobs that need nothing of each other but what the store keeps, and how they are carried out by whatever does the work.

Adding an executor takes a context manager that gives an `Execute`, and `register_executor` (docs/plugins.md).
"""

from __future__ import annotations

import os
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

from harness.core.error_messages import gist
from harness.core.errors import HarnessError
from harness.core.plugins import LOADED, load_plugins
from harness.runtime.console import Console
from harness.storage.store import BusyError, Store

if TYPE_CHECKING:
    from harness.core.config import ExecutorConfig

RETRIES = 3
"""How often a job is tried again whose process was killed: as often as Ray does."""


class Job(Protocol):
    """One thing to be made and kept in the store. Jobs are done in any order, and several at a time."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def do(self, console: Console, wait: bool) -> None:
        """Make it unless it is there. Raises BusyError if another process is making it and `wait` is False."""
        ...

    def elsewhere(self) -> Callable[[], Job]:
        """What makes the same job in another process: a module's function and what it is told, small and fit to be sent.

        No model, picture or sentence travels: the other process reads them where this one did.
        """
        ...


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Outcome:
    """How a job ended. why: what failed; expected: whether that is in words for the user, and not an error of some code."""

    state: Literal["done", "busy", "failed"] = "done"
    why: str = ""
    expected: bool = True


class Execute(Protocol):
    """What an executor does with jobs."""

    def __call__(self, jobs: Iterable[J], wait: bool) -> Iterator[tuple[J, Outcome]]:
        """Each job as it ends. The next one is taken only when there is room to begin it; `wait` is what `Job.do` is told."""
        ...


Outcomes: TypeAlias = Generator[tuple[J, Outcome], None, None]

Executor: TypeAlias = "Callable[[ExecutorConfig, Store, Console], AbstractContextManager[Execute]]"
"""Ready to work while its context lasts. What runs when that is left is interrupted, so that trainings keep a checkpoint."""


def run_job(do: Callable[[], None]) -> Outcome:
    """Do a job in this process. What nobody expected is shown with its trace, for whoever wrote that code.

    `sys.exit()` and a panic of a Rust extension, which are no `Exception`, end the job and not the run. Ctrl-C ends the run.
    """
    try:
        do()
    except BusyError:
        return Outcome("busy")
    except HarnessError as error:
        return Outcome("failed", str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # of encoders, tasks and objectives of others, and of every library
        traceback.print_exception(error)
        return Outcome("failed", gist(error), expected=False)
    return Outcome()


@dataclass(frozen=True)
class WorkerEnvironment:
    """What another process is told before it makes this one's jobs: plug-in files, and where relative paths begin."""

    plugins: tuple[Path, ...]
    folder: Path

    @classmethod
    def here(cls) -> WorkerEnvironment:
        """Those of this process."""
        return cls(tuple(LOADED), Path.cwd())

    def enter(self) -> None:
        """Take them over. What is wrong with a plug-in was said where it was loaded first."""
        if self.folder.is_dir():
            os.chdir(self.folder)
        load_plugins(self.plugins)


def run_job_of_parent(find: Callable[[], Job], wait: bool, around: WorkerEnvironment) -> Outcome:
    """Do a job of another process in this one."""
    around.enter()
    return run_job(lambda: find().do(Console(live=False), wait))


def execute_jobs(jobs: Iterable[J], choices: ExecutorConfig, store: Store, console: Console) -> Outcomes[J]:
    """Each job and how it ended, as they end. Those that another process is at are left for last, and waited for then.

    Workers are made ready before the first job is asked for, so ask only where there is one. A job that an executor takes and
    says nothing of has failed, and so have those that it leaves.
    """
    from harness.core.builtins import EXECUTORS

    taken: dict[int, J] = {}

    def taking() -> Iterator[J]:
        for job in jobs:
            taken[id(job)] = job
            yield job

    coming = taking()
    with EXECUTORS.load(choices.executor)(choices, store, console) as execute:
        busy = []
        for job, outcome in execute(coming, wait=False):
            if outcome.state == "busy":
                busy.append(job)
            else:
                taken.pop(id(job), None)
                yield job, outcome
        for job, outcome in execute(busy, wait=True):
            taken.pop(id(job), None)
            yield job, outcome
    deque(coming, maxlen=0)
    for job in taken.values():
        yield job, Outcome("failed", f"the executor {choices.executor} ended without it")


def announce_jobs(jobs: Sequence[J], choices: ExecutorConfig, console: Console, unit: str) -> Iterator[J]:
    """The jobs, each named when it is begun; but not where they are done here one by one, which their own lines tell."""
    for number, job in enumerate(jobs, 1):
        if not choices.sequential:
            console.say(f"{unit} {number:,} of {len(jobs):,}: {job.name}")
        yield job
