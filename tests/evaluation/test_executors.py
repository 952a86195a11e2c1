"""One process, several processes and Ray give the same numbers, also if workers are killed or interrupted."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.config import ExecutorConfig
from harness.core.errors import HarnessError
from harness.core.registry import Registry
from harness.evaluation.executors.jobs import RETRIES, Execute, Executor, Outcome, WorkerEnvironment, execute_jobs
from harness.evaluation.executors.local import run_in_turn
from harness.evaluation.executors.ray import JobResources, run_on_machine
from harness.runtime.console import Console
from harness.runtime.prefetch import available_processors
from harness.storage.store import BusyError, Store
from tests.faults import CELLS, OBJECTIVES, read_records, write_data
from tests.support.command_line import environment, wait_for_file
from tests.support.plugin_files import harness, write
from tests.support.scripted_jobs import (
    PanicException,
    ScriptedJob,
    UnpicklableError,
    block_until_interrupted,
    fail,
    open_pipe_end,
    write_thread_counts,
)

LOCAL = pytest.param("local", marks=pytest.mark.slow)
ON_RAY = pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.skipif(not find_spec("ray"), reason="ray is not installed")])

# An encoder without weights that logs its calls. A file requests that one of its processes is killed.
WATCHED = """
    import os, signal
    import numpy as np
    from pathlib import Path
    from harness import fingerprint
    from harness.api import TokenStates, digest_strings

    class Watched:
        name = "watched"

        def __init__(self, argument, device):
            self.folder = Path(os.environ["HARNESS_STORE"])

        def fingerprint(self):
            return fingerprint(Watched)

        def tell(self, what):
            with open(self.folder / "log", "ab", buffering=0) as file:
                file.write(f"{what} {os.getpid()}\\n".encode())

        def encode_images(self, images):
            self.tell(f"images {len(images)}")
            return np.stack([np.resize(np.asarray(image, dtype=np.float32).mean((0, 1)) / 255, 8) for image in images])

        def encode_tokens(self, texts, lang):
            self.tell(f"teacher {lang} {digest_strings(texts)[:8]}")
            states = [np.stack([self.word(word) for word in text.split()]) for text in texts]
            return TokenStates(np.concatenate(states), np.array([len(of) for of in states]), self.encode_texts(texts, lang))

        def encode_texts(self, texts, lang):
            if lang == "fr" and (self.folder / "kill").exists():
                (self.folder / "kill").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            return np.stack([np.stack([self.word(word) for word in text.split()]).mean(0) for text in texts])

        def word(self, word):
            return np.frombuffer(bytes.fromhex(digest_strings([word]))[:8], dtype=np.uint8).astype(np.float32) / 255
"""
OPTIONS = ("--init", "scratch", "--size", "tiny", "--steps", "3", "--batch", "4", "--vocabulary", "100", "--resamples", "100")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and the file of the encoder."""
    folder = tmp_path_factory.mktemp("place")
    data = write_data(folder / "data")
    # A second English caption for each image, so that all captions differ from the translated ones: the twelfth cell.
    split = json.loads((data / "dataset_flickr30k.json").read_text())
    for image in split["images"]:
        image["sentences"] = [*image["sentences"][:1], {"raw": f"another of {image['filename']} ."}]
    (data / "dataset_flickr30k.json").write_text(json.dumps(split))
    write(folder / "watched.py", WATCHED)
    return folder


def run(place: Path, store: Path, *words: str, kill: bool = False) -> subprocess.CompletedProcess[str]:
    """Measure the twelve cells. kill: kill the first process that reads French."""
    store.mkdir(exist_ok=True)
    if kill:
        (store / "kill").touch()
    encoder = f"{place / 'watched.py'}:Watched"
    options = ("--lang", "de,fr", "--data", str(place / "data"), "--encoder", encoder, "--objectives", ",".join(OBJECTIVES))
    return harness("run", *options, *OPTIONS, *words, store=store)


@pytest.fixture(scope="module")
def serial(place: Path) -> tuple[Path, str]:
    """The store and the output of a run by one process."""
    store = place / "serial"
    done = run(place, store)
    assert done.returncode == 0, done.stderr
    assert len(read_records(store)) == CELLS
    return store, done.stdout


def logged_calls(store: Path) -> Counter[str]:
    """Return how often each call was made, by any process."""
    return Counter(line.rpartition(" ")[0] for line in (store / "log").read_text().splitlines())


@pytest.mark.parametrize("executor", [LOCAL, ON_RAY])
def test_two_workers_make_the_records_of_one_and_compute_shared_entries_once(
    executor: str, place: Path, serial: tuple[Path, str], tmp_path: Path
) -> None:
    done = run(place, tmp_path / "store", "--executor", executor, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert read_records(tmp_path / "store") == read_records(serial[0])
    assert done.stdout == serial[1].replace(str(serial[0]), str(tmp_path / "store"))
    assert f"cell {CELLS} of {CELLS}: " in done.stderr
    assert logged_calls(tmp_path / "store") == logged_calls(serial[0])
    again = run(place, tmp_path / "store", "--executor", executor, "--workers", "2")
    assert again.stdout == done.stdout
    assert "cell 1 of" not in again.stderr


@pytest.mark.parametrize("executor", [LOCAL, ON_RAY])
def test_a_killed_worker_changes_no_record(executor: str, place: Path, serial: tuple[Path, str], tmp_path: Path) -> None:
    done = run(place, tmp_path / "store", "--executor", executor, "--workers", "2", kill=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "store" / "kill").exists()
    assert read_records(tmp_path / "store") == read_records(serial[0])
    assert logged_calls(tmp_path / "store") == logged_calls(serial[0])


# jobs


def run_jobs(jobs: Iterable[ScriptedJob], tmp_path: Path, **choices: object) -> Generator[tuple[str, Outcome]]:
    with closing(execute_jobs(jobs, ExecutorConfig(**choices), Store(tmp_path), Console())) as ended:  # type: ignore[arg-type]
        yield from ((job.name, outcome) for job, outcome in ended)


def test_workers_work_at_the_same_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    ends = [ScriptedJob(mode, partial(open_pipe_end, tmp_path / "pipe", mode)) for mode in ("rb", "wb")]
    assert dict(run_jobs(ends, tmp_path, workers=2)) == {"rb": Outcome(), "wb": Outcome()}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_job_stops_no_other_and_gives_its_error(workers: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [
        ScriptedJob("expected", partial(fail, HarnessError, "mend it so")),
        ScriptedJob("awkward", partial(fail, UnpicklableError, 1, 2)),
        ScriptedJob("exit", partial(fail, SystemExit)),
        ScriptedJob("exit 0", partial(fail, SystemExit, 0)),
        ScriptedJob("panic", partial(fail, PanicException, "called `Option::unwrap()` on a `None` value")),
        ScriptedJob("well", partial(os.getpid)),
    ]
    assert dict(run_jobs(jobs, tmp_path, workers=workers)) == {
        "expected": Outcome("failed", "mend it so"),
        "awkward": Outcome("failed", "UnpicklableError: both hands full", expected=False),
        "exit": Outcome("failed", "SystemExit", expected=False),
        "exit 0": Outcome("failed", "SystemExit: 0", expected=False),
        "panic": Outcome("failed", "PanicException: called `Option::unwrap()` on a `None` value", expected=False),
        "well": Outcome(),
    }
    assert capfd.readouterr().err.count("Traceback") == 4


def test_ctrl_c_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs([ScriptedJob("stopped", partial(fail, KeyboardInterrupt))], tmp_path))


def test_a_worker_that_ends_itself_fails_its_job_alone(tmp_path: Path) -> None:
    jobs = [ScriptedJob("deadly", partial(os._exit, 0)), ScriptedJob("well", os.getpid)]
    ended = dict(run_jobs(jobs, tmp_path, workers=2))
    assert ended["well"] == Outcome()
    assert ended["deadly"].state == "failed"
    assert ended["deadly"].why.startswith("its process ended with status 0, the last of 4 attempts;")


@pytest.mark.parametrize("done", [0, 1])
def test_jobs_without_an_outcome_have_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    """An executor may take a job and yield no outcome, or take no job."""

    @contextmanager
    def idle(choices: ExecutorConfig, store: Store, console: Console) -> Iterator[Execute]:  # noqa: ARG001
        yield lambda jobs, wait: run_in_turn(console, [job for job, _ in zip(jobs, range(done), strict=False)], wait)

    registry: Registry[Executor] = Registry("executor", {})
    registry.register("idle", idle)
    monkeypatch.setattr("harness.core.builtins.EXECUTORS", registry)
    jobs = [ScriptedJob(name, os.getpid) for name in ("one", "two", "three")]
    left = Outcome("failed", "the executor idle ended without an outcome of this job")
    assert dict(run_jobs(jobs, tmp_path, executor="idle")) == {"one": Outcome() if done else left, "two": left, "three": left}


def test_a_job_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [ScriptedJob("deadly", partial(os.system, f"echo >> {log}; kill -9 $PPID")), ScriptedJob("well", os.getpid)]
    ended = dict(run_jobs(jobs, tmp_path, workers=2))
    assert ended["well"] == Outcome()
    assert re.fullmatch(r"its process was killed by signal 9, the last of 4 attempts; .* fewer --workers", ended["deadly"].why)
    assert log.read_text().count("\n") == RETRIES + 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_is_taken_when_a_worker_is_free(workers: int, tmp_path: Path) -> None:
    taken, ended = 0, 0

    def coming() -> Iterator[ScriptedJob]:
        nonlocal taken
        for number in range(6):
            taken += 1
            assert taken - ended <= workers + 1, "each worker has one job, and one job has just ended"
            yield ScriptedJob(str(number), os.getpid)

    for _ in run_jobs(coming(), tmp_path, workers=workers):
        ended += 1
    assert (taken, ended) == (6, 6)


def test_jobs_of_other_processes_come_last(tmp_path: Path) -> None:
    order = []

    class Busy(ScriptedJob):
        def do(self, console: Console, wait: bool) -> None:
            order.append((self.name, wait))
            if self.name == "busy" and not wait:
                raise BusyError(self.name)

    jobs = [Busy("busy", os.getpid), Busy("free", os.getpid)]
    assert [name for name, _ in run_jobs(jobs, tmp_path)] == ["free", "busy"]
    assert order == [("busy", False), ("free", False), ("busy", True)]


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN], ids=["in front", "in the background"])
def test_busy_workers_are_interrupted_at_the_end(tmp_path: Path, request: pytest.FixtureRequest, handler: object) -> None:
    """This also holds for a run that ignores Ctrl-C, as background processes of a shell do."""
    before = signal.signal(signal.SIGINT, handler)  # type: ignore[arg-type]
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    begun, never = tmp_path / "begun", tmp_path / "never"
    os.mkfifo(begun)
    os.mkfifo(never)
    jobs = [
        ScriptedJob("vain", partial(block_until_interrupted, begun, never)),
        ScriptedJob("other", partial(open_pipe_end, begun, "rb")),
    ]
    with closing(run_jobs(jobs, tmp_path, workers=2)) as ended:
        assert next(ended) == ("other", Outcome())
    assert never.with_suffix(".interrupted").exists()


def test_each_worker_has_its_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    share = max(1, available_processors() // 2)
    list(run_jobs([ScriptedJob("one", partial(write_thread_counts, tmp_path / "one"))], tmp_path, workers=2))
    assert (tmp_path / "one").read_text() == f"{share} {share} {share}"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    list(run_jobs([ScriptedJob("two", partial(write_thread_counts, tmp_path / "two"))], tmp_path, workers=2))
    assert (tmp_path / "two").read_text().split()[0] == "3"


def test_options_of_ray_need_ray(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="--address and --gpus-per-cell are for --executor ray"):
        list(run_jobs([ScriptedJob("one", os.getpid)], tmp_path, address="auto"))


def test_workers_start_only_for_jobs(tmp_path: Path) -> None:
    assert list(run_jobs([], tmp_path, workers=2)) == []
    assert multiprocessing.active_children() == []
    assert len(list(run_jobs([ScriptedJob("one", os.getpid)] * 2, tmp_path, workers=9))) == 2
    assert multiprocessing.active_children() == []


# Ray


@given(
    machines=st.lists(st.fixed_dictionaries({"CPU": st.integers(1, 64), "GPU": st.integers(0, 8)}), min_size=1, max_size=4),
    workers=st.integers(1, 70),
)
def test_every_machine_has_room_for_the_requested_cells(machines: list[dict[str, float]], workers: int) -> None:
    with_gpus = [each for each in machines if each["GPU"]] or machines
    share = JobResources.of_machines(machines, ExecutorConfig(workers=workers))
    # Cores and GPUs cannot always be divided evenly, but the smallest machine never has fewer cells than requested.
    assert share.room(with_gpus) >= workers
    for each in with_gpus:
        assert share.room([each]) * share.cpus <= each["CPU"] + 1e-3
        assert share.room([each]) * share.gpus <= each["GPU"] + 1e-3
    assert share.gpus <= 1


def test_a_machine_without_the_store_refuses(tmp_path: Path) -> None:
    around, flag = WorkerEnvironment((), tmp_path), tmp_path / "flag"
    find = ScriptedJob("one", os.getpid).elsewhere()
    alone = run_on_machine(find, True, around, Store(tmp_path), flag)
    assert alone.state == "failed"
    assert "does not see the locks" in alone.why
    with Store(tmp_path).claim(flag):
        assert run_on_machine(find, True, around, Store(tmp_path), flag) == Outcome()


# the command line

ENDLESS = """
    import os
    from pathlib import Path
    from harness.distill.objectives import kd_mse

    def endless(student, teacher, config):
        started = Path(__file__).with_name("started")
        if not started.exists():
            started.with_suffix(".new").write_text(str(os.getpid()))
            started.with_suffix(".new").rename(started)
        return kd_mse(student, teacher, config)
"""
MINE = """
    from contextlib import contextmanager
    from harness import register_executor
    from harness.evaluation.executors.local import run_in_turn

    @contextmanager
    def backwards(choices, store, console):
        \"\"\"The last cell first.\"\"\"
        yield lambda jobs, wait: run_in_turn(console, reversed(list(jobs)), wait)

    register_executor("backwards", backwards)
"""


@contextmanager
def training(place: Path, tmp_path: Path, executor: str = "local") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield a run of two workers, and the process id of the one that trains without end."""
    objective = f"{write(tmp_path / 'endless.py', ENDLESS)}:endless"
    encoder = f"{place / 'watched.py'}:Watched"
    options = ("--lang", "de", "--data", str(place / "data"), "--encoder", encoder, "--objectives", objective, *OPTIONS)
    words = (*options, "--steps", "1000000", "--executor", executor, "--workers", "2")
    with subprocess.Popen(
        [sys.executable, "-m", "harness", "run", *words], env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for_file(tmp_path / "started", process)
            yield process, int((tmp_path / "started").read_text())
        finally:
            process.kill()


@pytest.mark.parametrize("executor", [LOCAL, ON_RAY])
def test_an_interrupted_run_keeps_the_checkpoints_of_its_workers(executor: str, place: Path, tmp_path: Path) -> None:
    with training(place, tmp_path, executor) as (process, worker):
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert "the same command resumes" in said
    assert "Traceback" not in said
    assert list(tmp_path.glob("training/*.safetensors"))
    assert not Path(f"/proc/{worker}/cmdline").exists() or not Path(f"/proc/{worker}/cmdline").read_bytes()


@pytest.mark.slow
def test_workers_end_with_a_killed_run(place: Path, tmp_path: Path) -> None:
    with training(place, tmp_path) as (process, worker):
        watch = os.pidfd_open(worker)
        process.kill()
        assert select.select([watch], [], [], 60)[0], "the worker continues without the run"


@pytest.mark.slow
def test_an_executor_of_a_plug_in_is_selected_by_name(place: Path, serial: tuple[Path, str], tmp_path: Path) -> None:
    plugin = write(tmp_path / "mine.py", MINE)
    done = run(place, tmp_path / "store", "--executor", "backwards", "--plugin", str(plugin))
    assert done.returncode == 0, done.stderr
    assert read_records(tmp_path / "store") == read_records(serial[0])
    assert f"cell {CELLS} of {CELLS}: " in done.stderr
    listed = harness("list", "executors", "--plugin", str(plugin), store=tmp_path)
    assert "The last cell first." in listed.stdout
    unknown = run(place, tmp_path / "other", "--executor", "slurm", "--workers", "2")
    assert unknown.stderr == "error: no executor is called 'slurm': known are local, ray\n"


@pytest.mark.slow
def test_workers_and_one_process_make_the_same_towers(place: Path, tmp_path: Path) -> None:
    made = []
    for workers in ("1", "2"):
        store = tmp_path / workers
        store.mkdir()
        encoder = f"{place / 'watched.py'}:Watched"
        words = ("--lang", "de,fr", "--data", str(place / "data"), "--teacher", encoder, "--seeds", "2", *OPTIONS[:-2])
        done = harness("distill", *words, "--workers", workers, store=store)
        assert done.returncode == 0, done.stderr
        made.append({path.parent.name: path.read_bytes() for path in store.glob("towers/*/tower.safetensors")})
    assert len(made[0]) == 4
    assert made[0] == made[1]


@pytest.mark.slow
def test_a_study_by_two_workers_equals_the_study_by_one(place: Path, tmp_path: Path) -> None:
    made = []
    for workers in ("1", "2"):
        store = tmp_path / workers
        store.mkdir()
        design = write(store / "mine.toml", DESIGN)
        encoder = f"{place / 'watched.py'}:Watched"
        words = ("--data", str(place / "data"), "--encoder", encoder, "--workers", workers)
        done = harness("study", str(design), *words, store=store)
        assert done.returncode == 0, done.stderr
        made.append(read_records(store))
    assert len(made[0]) == 7, "four cells, two floors, and the English cell of both languages"
    assert made[0] == made[1]


DESIGN = """
    lang = ["de", "fr"]
    pairs = ["all"]
    seeds = [0]
    resamples = 100
    [distill]
    steps = 3
    batch = 4
    vocabulary = 100
    [[arms]]
    objective = "kd-mse"
    init = "scratch"
    options = { size = "tiny" }
    [[arms]]
    objective = "ot-token"
    init = "scratch"
    options = { size = "tiny" }
"""
