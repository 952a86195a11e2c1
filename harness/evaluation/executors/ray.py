"""The executor `ray`: jobs are Ray tasks. Ray places them, counts their cores and GPUs, and retries them."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.evaluation.executors.jobs import RETRIES, Execute, J, Job, Outcome, WorkerEnvironment, run_job_of_parent
from harness.runtime.console import Console
from harness.runtime.prefetch import available_processors
from harness.storage.store import BusyError, Store

if TYPE_CHECKING:
    from harness.core.config import ExecutorConfig

_OBJECT_STORE_BYTES = 100 * 2**20
"""Size of the object store of a local Ray. Jobs and outcomes take a few hundred bytes each."""
_SECONDS_TO_CONNECT, _SECONDS_TO_STOP = 10, 60
# No telemetry, and each line of progress once, with the name of its process.
RAY_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}
# A Ray that no other machine may join has the address 127.0.0.1, so its servers listen nowhere else. Ray replaces an explicitly
# requested 127.0.0.1 by the machine's public address and listens everywhere.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextmanager
def on_ray(choices: ExecutorConfig, store: Store, console: Console) -> Iterator[Execute]:  # noqa: ARG001 (the arguments of every executor)
    """Run jobs on a Ray cluster (`--address`), or a local Ray. Needs the extra [ray]. All its machines must see the store."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not choices.address:
        os.environ.update(_LOOPBACK)  # read when Ray is imported
    try:
        import ray
    except ImportError:
        raise HarnessError("--executor ray needs Ray: pip install 'flickr30k-harness[ray]'") from None
    with connected(ray, choices), store.claim(flag := store.root / f"ray-{socket.gethostname()}-{os.getpid()}"):
        share = JobResources.of_machines(alive_machines(ray), choices)
        yield Cluster(ray, share, store, flag).execute


@contextmanager
def connected(ray: Any, choices: ExecutorConfig) -> Iterator[None]:
    """Join the named cluster, or start a local Ray. Do nothing if this process has joined one already."""
    if ray.is_initialized():
        yield
        return
    own = {
        "num_cpus": max(available_processors(), choices.workers),
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }
    if choices.address:
        check_address(choices.address)
    try:
        if choices.address:
            check_reachable(choices.address)
            ray.init(choices.address, logging_level=logging.ERROR)
        else:
            ray.init("local", logging_level=logging.ERROR, **own)
    except (RuntimeError, ValueError, OSError) as error:
        where = f"is at {choices.address}, or it requires a token (RAY_AUTH_MODE=token)" if choices.address else "can be started"
        raise HarnessError(f"no Ray {where}: {short_message(error)}") from None
    try:
        if not choices.address:
            check_loopback(ray)
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Raise HarnessError unless a text is the address of a cluster. For other schemes Ray would import a module of that name."""
    if not re.fullmatch(r"auto|(ray://)?[\w.-]+:\d{1,5}|(ray://)?\[[0-9a-fA-F:.]+\]:\d{1,5}", address, re.ASCII):
        raise HarnessError(f"--address {address[:200]}: expected auto, HOST:PORT or ray://HOST:PORT")


def check_loopback(ray: Any) -> None:
    """Raise HarnessError if other machines can reach the local Ray, since it runs any code that it receives."""
    for node in ray.nodes():
        if not ip_address(node["NodeManagerAddress"]).is_loopback:
            raise HarnessError(
                f"the local Ray listens at {node['NodeManagerAddress']}, where other machines could send it code: set "
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before Ray is imported, or name a cluster that you trust with --address"
            )


def check_reachable(address: str) -> None:
    """Raise OSError or ValueError if nothing listens at HOST:PORT. Ray itself would wait for ten minutes or more."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    if parts.port is not None:
        socket.create_connection((parts.hostname or "", parts.port), timeout=_SECONDS_TO_CONNECT).close()


def alive_machines(ray: Any) -> list[dict[str, float]]:
    """Return the resources of every usable machine."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


@dataclass(frozen=True)
class JobResources:
    """The cores and GPUs that a job reserves."""

    cpus: float
    gpus: float

    @classmethod
    def of_machines(cls, there: list[dict[str, float]], choices: ExecutorConfig) -> JobResources:
        """Divide the cores and GPUs of the smallest machine by `workers`. A job reserves at most one GPU.

        >>> from harness.core.config import ExecutorConfig
        >>> JobResources.of_machines([{"CPU": 8.0}, {"CPU": 16.0, "GPU": 2.0}], ExecutorConfig(workers=3))
        JobResources(cpus=2, gpus=0.6666)
        """
        cores = min((each["CPU"] for each in there), default=1) / choices.workers
        gpus = [each["GPU"] for each in there if each.get("GPU", 0) > 0]
        usual = min(1, int(10_000 * min(gpus) / choices.workers) / 10_000) if gpus else 0
        return cls(int(cores) if cores >= 1 else cores, usual if choices.gpus_per_cell is None else choices.gpus_per_cell)

    def room(self, there: list[dict[str, float]]) -> int:
        """Return how many jobs can run at a time.

        >>> JobResources(2, 0.5).room([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 64.0}])
        3
        """
        enough = 1e-6
        return sum(
            int(min(each["CPU"] / self.cpus, each.get("GPU", 0) / self.gpus if self.gpus else each["CPU"] / self.cpus) + enough)
            for each in there
        )


@dataclass(frozen=True)
class Cluster:
    """A connected Ray. flag: a path that this process has claimed, so that machines can check that they see the same store."""

    ray: Any
    share: JobResources
    store: Store
    flag: Path

    def execute(self, jobs: Iterable[J], wait: bool) -> Iterator[tuple[J, Outcome]]:
        """Run jobs as `Execute` does. A job is submitted only when there is room for it, so that it starts at once."""
        ray, coming, running = self.ray, iter(jobs), dict[Any, J]()
        task = ray.remote(num_cpus=self.share.cpus, num_gpus=self.share.gpus, max_retries=RETRIES)(run_on_machine)
        try:
            while True:
                while len(running) < self.room(bool(running)) and (job := next(coming, None)) is not None:
                    one = task.options(name=job.name)
                    running[one.remote(job.elsewhere(), wait, WorkerEnvironment.here(), self.store, self.flag)] = job
                if not running:
                    return
                (ended, *_), _ = ray.wait(list(running))
                job = running.pop(ended)
                yield job, self.outcome(ended)
        finally:
            self.cancel(list(running))

    def room(self, works: bool) -> int:
        """Return how many jobs the cluster has room for. Raises HarnessError if an idle cluster has none."""
        room = self.share.room(alive_machines(self.ray))
        if not room and not works:
            raise HarnessError(
                f"no machine of the Ray cluster has the {self.share.cpus:g} cores and {self.share.gpus:g} GPUs of a cell: "
                "lower --gpus-per-cell, or raise --workers"
            )
        return room

    def outcome(self, ended: Any) -> Outcome:
        """Return how a task ended."""
        try:
            outcome: Outcome = self.ray.get(ended)
        except self.ray.exceptions.RayError as error:
            return Outcome("failed", f"Ray gave up after {RETRIES + 1} attempts: {short_message(error)}")
        return outcome

    def cancel(self, running: list[Any]) -> None:
        """Interrupt running tasks, and give trainings the time to save a checkpoint."""
        for each in running:
            self.ray.cancel(each)
        if running:
            self.ray.wait(running, num_returns=len(running), timeout=_SECONDS_TO_STOP)


def run_on_machine(find: Callable[[], Job], wait: bool, around: WorkerEnvironment, store: Store, flag: Path) -> Outcome:
    """Run a job on a machine of the cluster."""
    try:
        with store.claim(flag, wait=False):
            pass
    except BusyError:
        return run_job_of_parent(find, wait, around)
    return Outcome(
        "failed",
        f"{socket.gethostname()} does not see the locks of {store.root}: put the store on a file system with locks that "
        "all machines of the cluster share (docs/scale.md)",
    )
