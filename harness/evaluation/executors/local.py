"""The executor `local`: this process, or several of this machine."""

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
from harness.runtime.console import Console, steady_streams
from harness.runtime.prefetch import processors
from harness.storage.store import Store

if TYPE_CHECKING:
    from harness.core.config import ExecutorConfig

# A fork would inherit locks of torch's threads that nobody opens again, and CUDA does not survive one.
_SECONDS_TO_STOP = 10
_SPAWN = multiprocessing.get_context("spawn")


@contextmanager
def local(choices: ExecutorConfig, store: Store, console: Console) -> Iterator[Execute]:  # noqa: ARG001 (what all are told)
    """This process, one job after another; or several processes of this machine (`--workers`)."""
    if choices.address is not None or choices.gpus_per_cell is not None:
        raise HarnessError("--address and --gpus-per-cell are for --executor ray")
    if choices.workers == 1:
        yield partial(run_in_turn, console)
        return
    crew = WorkerPool(choices.workers)
    try:
        yield crew.execute
    finally:
        crew.dismiss()


def run_in_turn(console: Console, jobs: Iterable[J], wait: bool) -> Iterator[tuple[J, Outcome]]:
    """One job after another, in this process."""
    for job in jobs:
        yield job, run_job(partial(job.do, console, wait))


class WorkerPool:
    """Up to `size` processes, started as there is work for them. Each does one job at a time."""

    def __init__(self, size: int) -> None:
        # The first worker would start it, and that lets through the signal which its own start holds back.
        resource_tracker.ensure_running()
        self.size, self.threads = size, max(1, processors() // size)
        self.idle: list[Worker] = []
        self.busy: set[Worker] = set()

    def execute(self, jobs: Iterable[J], wait: bool) -> Iterator[tuple[J, Outcome]]:
        """As `Execute`. A job whose process is killed is tried again by another one."""
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
                    yield job, Outcome("failed", worker.obituary())

    def dismiss(self) -> None:
        """Interrupt who is at work, and wait until all have ended."""
        for worker in self.busy:
            worker.interrupt()
        for worker in (*self.idle, *self.busy):
            worker.end()


class Worker:
    """A process that does jobs. threads: for its arithmetic, where OMP_NUM_THREADS does not say otherwise."""

    def __init__(self, threads: int) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=serve_jobs, args=(theirs, threads), daemon=True)
        with interrupts_blocked():
            self.process.start()
        theirs.close()

    def begin(self, job: Job, wait: bool) -> None:
        """Give it a job."""
        with suppress(BrokenPipeError):  # one that was killed while it was idle is found dead when it is listened to
            self.connection.send((job.elsewhere(), wait, WorkerEnvironment.here()))

    def ended(self) -> Outcome | None:
        """How its job ended; None if the process did."""
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None
        return outcome

    def interrupt(self) -> None:
        """Ctrl-C."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, signal.SIGINT)

    def end(self) -> None:
        """Give it no more jobs, and wait until it has ended."""
        self.connection.close()
        self.process.join(_SECONDS_TO_STOP)
        while self.process.is_alive():
            # A signal just before a system call that waits is noticed only after it, so it is given again.
            self.interrupt()
            self.process.join(_SECONDS_TO_STOP)

    def obituary(self) -> str:
        """Why its last job is given up."""
        how = f"was killed by signal {-code}" if (code := self.process.exitcode or 0) < 0 else f"ended with status {code}"
        return f"its process {how}, the last of {RETRIES + 1} times; if for want of memory, try fewer --workers"


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Processes started meanwhile begin without listening to Ctrl-C, until they are ready to end quietly by it."""
    if hasattr(signal, "pthread_sigmask"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        yield


def serve_jobs(connection: Connection, threads: int) -> None:
    """What a worker does: one job after another, until it is interrupted or the process that it works for ends."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # read when numpy and torch are imported, which they are not yet
    steady_streams()
    threading.Thread(target=end_with_parent, daemon=True).start()
    # What a shell starts in the background ignores Ctrl-C, and so would its workers: but this is how they are told to stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt, EOFError):
        if hasattr(signal, "pthread_sigmask"):
            # The terminal's Ctrl-C goes to a group. It is the parent that passes it on, once, to who is at work.
            os.setpgid(0, 0)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while True:
            connection.send(run_job_of_parent(*connection.recv()))


def end_with_parent() -> None:
    """End at once when the process that this one works for is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
