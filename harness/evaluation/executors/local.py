"""The executor `local`: this process, or several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as first_to_speak
from typing import TYPE_CHECKING

from harness.core.errors import HarnessError
from harness.evaluation.executors.jobs import RETRIES, Execute, J, Job, Outcome, WorkerEnvironment, run_job, run_job_of_parent
from harness.runtime.console import Console, make_streams_unfailing
from harness.runtime.prefetch import available_processors
from harness.storage.store import Store

if TYPE_CHECKING:
    from harness.core.config import ExecutorConfig

# A forked process would inherit locks of torch's threads that are never released, and CUDA does not survive a fork.
_SECONDS_TO_STOP = 10
_SPAWN = multiprocessing.get_context("spawn")


@contextmanager
def local(choices: ExecutorConfig, store: Store, console: Console) -> Iterator[Execute]:  # noqa: ARG001 (the arguments of every executor)
    """Run jobs one after another in this process, or in several processes of this machine (`--workers`)."""
    if choices.address is not None or choices.gpus_per_cell is not None:
        raise HarnessError("--address and --gpus-per-cell are for --executor ray")
    if choices.workers == 1:
        yield partial(run_in_turn, console)
        return
    pool = WorkerPool(choices.workers)
    try:
        yield pool.execute
    finally:
        pool.close()


def run_in_turn(console: Console, jobs: Iterable[J], wait: bool) -> Iterator[tuple[J, Outcome]]:
    """Run one job after another in this process."""
    for job in jobs:
        yield job, run_job(partial(job.do, console, wait))


class WorkerPool:
    """A pool of up to `size` processes, started on demand. Each runs one job at a time."""

    def __init__(self, size: int) -> None:
        # The first worker would start the tracker, whose start unblocks the signal that the start of a worker blocks.
        resource_tracker.ensure_running()
        self.size, self.threads = size, max(1, available_processors() // size)
        self.idle: list[Worker] = []
        self.busy: set[Worker] = set()

    def execute(self, jobs: Iterable[J], wait: bool) -> Iterator[tuple[J, Outcome]]:
        """Run jobs as `Execute` does. A job whose process is killed is retried by another process."""
        coming, again, at_work = iter(jobs), list[J](), dict[Worker, J]()
        killed = Counter[int]()
        while True:
            while len(at_work) < self.size and (job := again.pop() if again else next(coming, None)) is not None:
                worker = self.idle.pop() if self.idle else Worker(self.threads)
                at_work[worker] = job
                self.busy.add(worker)
                worker.begin(job, wait)
            if not at_work:
                return
            spoke = first_to_speak([worker.connection for worker in at_work])
            for worker in [each for each in at_work if each.connection in spoke]:
                job = at_work.pop(worker)
                self.busy.remove(worker)
                if (outcome := worker.ended()) is not None:
                    self.idle.append(worker)
                    yield job, outcome
                elif killed[id(job)] < RETRIES:
                    killed[id(job)] += 1
                    again.append(job)
                else:
                    yield job, Outcome("failed", worker.death_reason())

    def close(self) -> None:
        """Interrupt the busy workers, and wait until all workers have ended."""
        for worker in self.busy:
            worker.interrupt()
        for worker in (*self.idle, *self.busy):
            worker.end()


class Worker:
    """A process that runs jobs. threads: number of threads for arithmetic, unless OMP_NUM_THREADS is set."""

    def __init__(self, threads: int) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=serve_jobs, args=(theirs, threads), daemon=True)
        with interrupts_blocked():
            self.process.start()
        theirs.close()

    def begin(self, job: Job, wait: bool) -> None:
        """Send a job to the process."""
        with suppress(BrokenPipeError):  # `ended` notices a worker that was killed while it was idle
            self.connection.send((job.elsewhere(), wait, WorkerEnvironment.here()))

    def ended(self) -> Outcome | None:
        """Return how the job ended, None if the process ended instead."""
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None
        return outcome

    def interrupt(self) -> None:
        """Send Ctrl-C to the process."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, signal.SIGINT)

    def end(self) -> None:
        """Close the connection, and wait until the process has ended."""
        self.connection.close()
        self.process.join(_SECONDS_TO_STOP)
        while self.process.is_alive():
            # A signal just before a blocking system call is noticed only after the call, so it is sent again.
            self.interrupt()
            self.process.join(_SECONDS_TO_STOP)

    def death_reason(self) -> str:
        """Return why the last job is given up."""
        how = f"was killed by signal {-code}" if (code := self.process.exitcode or 0) < 0 else f"ended with status {code}"
        return f"its process {how}, the last of {RETRIES + 1} attempts; if memory ran out, use fewer --workers"


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C in processes that are started meanwhile, until they can handle it."""
    if hasattr(signal, "pthread_sigmask"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        yield


def serve_jobs(connection: Connection, threads: int) -> None:
    """Run the jobs of a connection, until the process is interrupted or its parent ends."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # set before numpy and torch are imported, which read it
    make_streams_unfailing()
    threading.Thread(target=end_with_parent, daemon=True).start()
    # Background processes of a shell ignore Ctrl-C, and so would their workers, which are stopped by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt, EOFError):
        if hasattr(signal, "pthread_sigmask"):
            # The terminal sends Ctrl-C to a process group. A group of its own lets the parent pass it on once, to busy workers.
            os.setpgid(0, 0)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while True:
            connection.send(run_job_of_parent(*connection.recv()))


def end_with_parent() -> None:
    """End this process as soon as its parent has ended."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
