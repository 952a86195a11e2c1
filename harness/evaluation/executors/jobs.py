"""Independent jobs, and their execution by any executor. Jobs share nothing but the store.

An executor is a context manager that yields an `Execute`, registered by `register_executor` (docs/plugins.md).
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

from harness.core.error_messages import one_line_message
from harness.core.errors import HarnessError
from harness.core.plugins import REQUESTED_FILES, load_plugins
from harness.runtime.console import Console
from harness.storage.store import BusyError, Store

if TYPE_CHECKING:
    from harness.core.config import ExecutorConfig

RETRIES = 3
"""How often a job is retried after its process was killed. Ray retries as often."""


class Job(Protocol):
    """The job of making one entry of the store. Jobs run in any order, and several at a time."""

    @property
    def name(self) -> str:
        """The name of the job in messages."""
        ...

    def do(self, console: Console, wait: bool) -> None:
        """Make the entry unless it exists. Raises BusyError if another process is making it and `wait` is False."""
        ...

    def elsewhere(self) -> Callable[[], Job]:
        """Return a small, picklable function that makes the same job in another process.

        No model, image or sentence is sent. The other process reads them from the same files.
        """
        ...


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Outcome:
    """How a job ended. why: the error of a failed job. expected: whether it is a HarnessError and not a bug."""

    state: Literal["done", "busy", "failed"] = "done"
    why: str = ""
    expected: bool = True


class Execute(Protocol):
    """The function by which an executor runs jobs."""

    def __call__(self, jobs: Iterable[J], wait: bool) -> Iterator[tuple[J, Outcome]]:
        """Yield each job as it ends. The next one is taken only when it can start. `wait` is passed to `Job.do`."""
        ...


Outcomes: TypeAlias = Generator[tuple[J, Outcome], None, None]

Executor: TypeAlias = "Callable[[ExecutorConfig, Store, Console], AbstractContextManager[Execute]]"
"""An executor works within its context. At the exit, running jobs are interrupted, so that trainings save a checkpoint."""


def run_job(do: Callable[[], None]) -> Outcome:
    """Run a job in this process. An unexpected error is printed with its traceback.

    `sys.exit()` and a panic of a Rust extension, which are not an `Exception`, end the job but not the run. Ctrl-C ends the run.
    """
    try:
        do()
    except BusyError:
        return Outcome("busy")
    except HarnessError as error:
        return Outcome("failed", str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # from plug-ins and libraries
        traceback.print_exception(error)
        return Outcome("failed", one_line_message(error), expected=False)
    return Outcome()


@dataclass(frozen=True)
class WorkerEnvironment:
    """The plug-in files and the current folder that another process needs to run the jobs of this one."""

    plugins: tuple[Path, ...]
    folder: Path

    @classmethod
    def here(cls) -> WorkerEnvironment:
        """Return the environment of this process."""
        return cls(tuple(REQUESTED_FILES), Path.cwd())

    def enter(self) -> None:
        """Adopt the environment. Errors of plug-ins have been reported by the process that loaded them first."""
        if self.folder.is_dir():
            os.chdir(self.folder)
        load_plugins(self.plugins)


def run_job_of_parent(find: Callable[[], Job], wait: bool, around: WorkerEnvironment) -> Outcome:
    """Run a job of another process in this one."""
    around.enter()
    return run_job(lambda: find().do(Console(live=False), wait))


def execute_jobs(jobs: Iterable[J], choices: ExecutorConfig, store: Store, console: Console) -> Outcomes[J]:
    """Yield each job and its outcome, as they end. Jobs that another process is doing come last.

    Workers start before the first job is taken, so call this only with at least one job. A job without an outcome has failed, and
    so have the jobs that the executor leaves.
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
        yield job, Outcome("failed", f"the executor {choices.executor} ended without an outcome of this job")


def announce_jobs(jobs: Sequence[J], choices: ExecutorConfig, console: Console, unit: str) -> Iterator[J]:
    """Yield the jobs and print the name of each at its start, except where they run one by one in this process."""
    for number, job in enumerate(jobs, 1):
        if not choices.sequential:
            console.say(f"{unit} {number:,} of {len(jobs):,}: {job.name}")
        yield job
