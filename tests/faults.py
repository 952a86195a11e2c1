"""Fault tests: runs of twelve cells are killed, doubled or refused writes, and must give the results of an undisturbed run.

    python -m tests.faults kills 200     kill a run at a random moment, then run again
    python -m tests.faults pairs 100     two concurrent runs on one store
    python -m tests.faults writes        an I/O error at each write, rename and creation, then run again
    python -m tests.faults damages 100   damage or replace an entry of a finished store, then run again
    python -m tests.faults disks         disks that are full at some write, then a larger one (needs `unshare`)

Every run is a fork of this process, so libraries are imported once. The exit status is 1 if a check fails. A number after
`writes` or `disks` limits their number.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

import harness.distill.model.teacher
import harness.distill.pipeline
import harness.distill.trainer
import harness.distill.transport.tokens
import harness.evaluation.runner
import harness.storage.embeddings
from harness import register_encoder
from harness.core.config import DistillConfig, RunConfig
from harness.core.data import Floats, TokenStates
from harness.core.digests import digest_strings
from harness.core.errors import HarnessError
from harness.evaluation.planning import make_plans
from harness.runtime.console import Console
from harness.storage.store import Store

CELLS = 12
OBJECTIVES = ("kd-mse", "kd-cosine", "ot-token", "none")
DISTILL = DistillConfig(init="scratch", size="tiny", steps=3, batch=4, vocabulary=100)
SPLITS = {"train": 12, "val": 2, "test": 6}
KINDS = ("embeddings", "teacher", "towers", "records")
FAILED = 3  # exit status of a run that failed with a one-line error
WORK = {
    "images": (harness.storage.embeddings, "embed_images"),
    "teacher": (harness.distill.model.teacher, "compute_states"),
    "tower": (harness.distill.pipeline, "make_tower"),
    "record": (harness.evaluation.runner, "measure_cell"),
}


class Tiny:
    """An encoder without weights: a picture is embedded as its mean colour, and a text by the bytes of its words."""

    name = "tiny"

    def __init__(self, argument: str, device: str) -> None:
        """Ignore the arguments of an encoder."""

    def fingerprint(self) -> str:
        """Return a constant."""
        return "tiny 1"

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """(n, 8)."""
        append_to_log("images", "encoded")
        return np.stack([np.resize(np.asarray(image, dtype=np.float32).mean((0, 1)) / 255, 8) for image in images])

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:
        """Return the states of the words and their means."""
        states = [np.stack([self._word(word) for word in text.split()]) for text in texts]
        lengths = np.array([len(each) for each in states])
        return TokenStates(np.concatenate(states), lengths, np.stack([each.mean(0) for each in states]))

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        """(n, 8)."""
        return self.encode_tokens(texts, lang).pooled

    @staticmethod
    def _word(word: str) -> Floats:
        return np.frombuffer(bytes.fromhex(digest_strings([word]))[:8], dtype=np.uint8).astype(np.float32) / 255


LOG: list[Path] = []


def append_to_log(*words: str) -> None:
    """Log what is being done in one system call, which is atomic."""
    for path in LOG:
        with open(path, "ab", buffering=0) as file:  # noqa: PTH123 (unbuffered)
            file.write((" ".join(words) + "\n").encode())


def write_data(folder: Path) -> Path:
    """Write a Flickr30k folder with captions in English, German and French."""
    (folder / "flickr30k-images").mkdir(parents=True)
    names = {split: [f"{place}{number:02}" for number in range(count)] for place, (split, count) in enumerate(SPLITS.items(), 1)}
    images = []
    for split, ids in names.items():
        for shade, name in enumerate(ids):
            Image.new("RGB", (8, 8), (20 * shade, 90 + shade, 200 - shade)).save(folder / "flickr30k-images" / f"{name}.jpg")
            images.append(
                {
                    "filename": f"{name}.jpg",
                    "split": split,
                    "sentences": [{"raw": english(name)}, {"raw": f"another of {name} ."}],
                }
            )
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    task1 = folder / "multi30k" / "data" / "task1"
    for part in ("image_splits", "raw"):
        (task1 / part).mkdir(parents=True)
    for split, ids in zip(("train", "val", "test_2016_flickr"), names.values(), strict=True):
        (task1 / "image_splits" / f"{split}.txt").write_text("".join(f"{name}.jpg\n" for name in ids))
        for lang, say in (
            ("en", english),
            ("de", lambda name: f"Bild {name} .".lower()),
            ("fr", lambda name: f"image numéro {name} ."),
        ):
            (task1 / "raw" / f"{split}.{lang}").write_text("".join(f"{say(name)}\n" for name in ids), encoding="utf-8")
    return folder


def english(name: str) -> str:
    """Return a caption."""
    return f"picture {name} of {len(name)} ."


def run_all(data: Path, store: Path) -> None:
    """Plan and measure every cell, as a run does."""
    config = RunConfig(lang="de,fr", data=str(data), encoder="tiny", objectives=OBJECTIVES, distill=DISTILL, device="cpu")
    plans, _ = make_plans(config, Store(store))
    for plan in plans:
        harness.evaluation.runner.measure_plan(plan, Store(store), Console())


def fork_silently(work: Callable[[], None], log: Path | None = None) -> int:
    """Fork a process that works without output, and return its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    with contextlib.suppress(BaseException):
        LOG[:] = [log] if log else []
        sys.stdout = sys.stderr = said = io.StringIO()
        try:
            work()
            status = 0
        except HarnessError as error:
            status = 1 if "\n" in str(error) else FAILED
        except BaseException:
            traceback.print_exc()
        if status == 1 and log:
            log.with_suffix(".error").write_text(said.getvalue())
    os._exit(status)


def wait_for_exit(pid: int) -> int:
    """Wait for a process and return its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read_records(store: Path) -> dict[str, tuple[str, bytes]]:
    """Return every record without provenance and times, and the bytes of its queries."""
    found = {}
    for folder in Store(store).records():
        record = json.loads((folder / "record.json").read_bytes())
        for part in (record, record["tower"] or {}):
            part.pop("provenance", None)
            part.pop("seconds", None)
        found[folder.name] = (json.dumps(record, sort_keys=True), (folder / "queries.parquet").read_bytes())
    return found


def record_inodes(store: Path) -> dict[str, int]:
    """Return the inode of each record, which changes if the record is written again."""
    return {folder.name: (folder / "record.json").stat().st_ino for folder in Store(store).records()}


def log_shared_work() -> None:
    """Log every piece of shared work that starts, and write checkpoints after every step.

    The kernels of numba are not loaded, since loading takes longer than the rest of such a run and involves no store.
    """
    harness.distill.transport.tokens.cpu_kernel_module = lambda: None
    harness.distill.trainer.SECONDS_A_CHECKPOINT = 0
    for name in ("teacher", "tower", "record"):
        place, attribute = WORK[name]
        setattr(place, attribute, logged(name, getattr(place, attribute)))


def logged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with a log of its calls and their first argument."""

    def call(*words: Any, **more: Any) -> Any:
        first = words[0]
        append_to_log(name, first.key if name == "record" else first.digest if name == "tower" else "states")
        return function(*words, **more)

    return call


class Suite:
    """A folder of data, and the records of an undisturbed run over it."""

    def __init__(self, place: Path) -> None:
        self.place, self.data = place, write_data(place / "data")
        self.wrong: list[str] = []
        self.check(wait_for_exit(fork_silently(self.learn_modules, place / "modules.log")) == 0, "the first run")
        for name in (place / "modules").read_text().split():
            with contextlib.suppress(ImportError):
                import_module(name)
        began = time.monotonic()
        self.check(
            wait_for_exit(fork_silently(lambda: run_all(self.data, place / "first"), place / "first.log")) == 0,
            "the undisturbed run",
        )
        self.seconds = time.monotonic() - began
        self.expected = read_records(place / "first")
        self.check(len(self.expected) == CELLS, f"{CELLS} cells, not {len(self.expected)}")

    def learn_modules(self) -> None:
        """Run once and list the imported modules, so that later runs find them in memory."""
        before = set(sys.modules)
        run_all(self.data, self.place / "zeroth")
        names = [name for name, module in list(sys.modules.items()) if name not in before and getattr(module, "__spec__", None)]
        (self.place / "modules").write_text(" ".join(names))

    def check(self, holds: object, what: str) -> None:
        """Note a failed check."""
        if not holds:
            errors = [path.read_text()[-2000:] for path in self.place.glob("*.error")]
            self.wrong.append("\n".join([what, *errors]))
            for path in self.place.glob("*.error"):
                path.unlink()

    def tell(self, number: int) -> None:
        """Print the progress from time to time."""
        if number % 10 == 0:
            print(f"{number:,}, {len(self.wrong):,} wrong", flush=True)

    def fresh(self) -> tuple[Path, Path]:
        """Return a new store and a log file."""
        place = Path(tempfile.mkdtemp(dir=self.place))
        return place / "store", self.place / f"{place.name}.log"

    def finished(self, store: Path, name: str) -> None:
        """Run again undisturbed and check that all records are as expected and no partial file is left."""
        before = record_inodes(store) if store.is_dir() else {}
        self.check(
            wait_for_exit(fork_silently(lambda: run_all(self.data, store), self.place / f"{store.parent.name}.log")) == 0,
            f"{name}: run again",
        )
        self.check(read_records(store) == self.expected, f"{name}: the records")
        after = record_inodes(store)
        self.check(all(after[cell] == identity for cell, identity in before.items()), f"{name}: a finished cell was done again")
        left = [path.name for path in store.rglob(".new-*")] + [path.name for path in store.glob("training/*")]
        self.check(not left, f"{name}: left over {left[:3]}")
        shutil.rmtree(store, ignore_errors=True)

    def kill(self, number: int) -> None:
        """Kill a run at a random moment."""
        source = random.Random(number)
        store, log = self.fresh()
        pid = fork_silently(lambda: run_all(self.data, store), log)
        time.sleep(source.uniform(0, 1.1 * self.seconds))
        os.kill(pid, signal.SIGKILL)
        wait_for_exit(pid)
        self.finished(store, f"kill {number}")

    def pair(self, number: int) -> None:
        """Run twice on one store, the second with a delay. Both must succeed, and no work may be done twice."""
        source = random.Random(number)
        store, log = self.fresh()
        first = fork_silently(lambda: run_all(self.data, store), log)
        time.sleep(source.choice((0.0, source.uniform(0, self.seconds))))
        second = fork_silently(lambda: run_all(self.data, store), log)
        self.check((wait_for_exit(first), wait_for_exit(second)) == (0, 0), f"pair {number}: both end well")
        self.check(read_records(store) == self.expected, f"pair {number}: the records")
        begun = Counter(log.read_text().splitlines())
        twice = {what: count for what, count in begun.items() if count > 1}
        self.check(not twice, f"pair {number}: done twice: {twice}")

    def refuse(self, number: int) -> bool:
        """Raise an I/O error at one write, rename or creation. Return whether the run reached it."""
        store, log = self.fresh()

        def work() -> None:
            counted = refuse_change(store, number)
            try:
                run_all(self.data, store)
            finally:
                log.write_text(str(counted()))

        status = wait_for_exit(fork_silently(work, log))
        reached = int(log.read_text()) >= number
        # A folder that exists need not be created.
        self.check(status in (0, FAILED), f"write {number}: status {status}, expected one line that says why")
        self.check(status or read_records(store) == self.expected, f"write {number}: the records")
        self.finished(store, f"write {number}")
        return reached

    def damage(self, number: int) -> None:
        """Damage an entry of a finished store and remove what depends on it. The next run must give the same records."""
        source = random.Random(number)
        store, _ = self.fresh()
        shutil.copytree(self.place / "first", store)
        kind = source.choice([each for each in KINDS if len(list((store / each).iterdir())) > 1])
        entry, other = source.sample(sorted((store / kind).iterdir()), 2)
        if kind != "records":
            shutil.rmtree(store / "records")
        if kind == "teacher":
            shutil.rmtree(store / "towers")
        damage_entry(entry, other, source)
        status = wait_for_exit(fork_silently(lambda: run_all(self.data, store), self.place / f"{store.parent.name}.log"))
        self.check(status == 0, f"damage {number}: run again, with {kind} damaged")
        self.check(read_records(store) == self.expected, f"damage {number}: the records, with {kind} damaged")
        shutil.rmtree(store, ignore_errors=True)

    def levels(self) -> list[int]:
        """Return the KiB in use before each write of an undisturbed run, each size once.

        The last is left out, since a disk of that size may be enough.
        """
        store, log = self.fresh()
        store.mkdir()

        def work() -> None:
            used: list[int] = []
            on_changes(store, lambda _: used.append(used_kibibytes(store)))
            run_all(self.data, store)
            log.write_text(" ".join(map(str, used)))

        with disk(store, 1 << 20):
            self.check(wait_for_exit(fork_silently(work, log)) == 0, "a run on a disk with room")
        return sorted(set(map(int, log.read_text().split())))[:-1]

    def fill(self, kibibytes: int) -> None:
        """Run on a disk that is full at some write, then on a larger one."""
        store, log = self.fresh()
        store.mkdir()
        with disk(store, kibibytes):
            status = wait_for_exit(fork_silently(lambda: run_all(self.data, store), log))
            self.check(status == FAILED, f"disk of {kibibytes} KiB: status {status}, expected one line that says why")
            mount("-o", "remount,size=1g", str(store))
            self.finished(store, f"disk of {kibibytes} KiB")


def damage_entry(entry: Path, other: Path, source: random.Random) -> None:
    """Flip a bit of an entry, truncate it, or replace it or a file of it with another of its kind."""
    files = sorted(entry.iterdir()) if entry.is_dir() else [entry]
    path = source.choice(files)
    match source.randrange(4):
        case 0:
            data = bytearray(path.read_bytes())
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
            path.write_bytes(data)
        case 1:
            path.write_bytes(path.read_bytes()[: source.randrange(path.stat().st_size)])
        case 2:
            shutil.copyfile(other / path.name if entry.is_dir() else other, path)
        case 3 if entry.is_dir():
            shutil.rmtree(entry)
            shutil.copytree(other, entry)
        case 3:
            shutil.copyfile(other, entry)


def on_changes(store: Path, tell: Callable[[str], None]) -> None:
    """Call `tell` with the path before each system call of this process that changes a folder."""

    def hook(event: str, words: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = words
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        elif event in ("os.rename", "os.mkdir", "os.link", "os.symlink"):
            path, changes = words[0], True
        else:
            return
        if changes and str(path).startswith(str(store)):
            tell(str(path))

    sys.addaudithook(hook)


def refuse_change(store: Path, number: int) -> Callable[[], int]:
    """Refuse one change in a folder, by its number. Return a function that counts the changes."""
    count = 0

    def refuse(path: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    on_changes(store, refuse)
    return lambda: count


def used_kibibytes(store: Path) -> int:
    """Return the used KiB of a disk."""
    of = os.statvfs(store)
    return (of.f_blocks - of.f_bfree) * of.f_frsize // 1024


@contextlib.contextmanager
def disk(place: Path, kibibytes: int) -> Iterator[None]:
    """Mount a temporary disk in a folder."""
    mount("-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(place))
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def mount(*words: str) -> None:
    """Mount a file system in the namespace of this process."""
    subprocess.run(["mount", *words], check=True)


def main(kind: str, count: int = 0) -> int:
    """Run the tests that the command line names, and print the result."""
    if kind == "disks" and os.environ.get("FAULTS_UNSHARED") != "1":
        words = ["unshare", "--map-root-user", "--mount", sys.executable, "-m", "tests.faults", kind, str(count)]
        return subprocess.run(words, env=os.environ | {"FAULTS_UNSHARED": "1"}, check=False).returncode
    torch.set_num_threads(1)
    register_encoder("tiny", Tiny)
    log_shared_work()
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as place:
        suite = Suite(Path(place))
        print(f"{CELLS} cells, undisturbed: {suite.seconds:.1f} s", flush=True)
        done = 0
        match kind:
            case "kills" | "pairs" | "damages":
                disturb = {"kills": suite.kill, "pairs": suite.pair, "damages": suite.damage}[kind]
                for done in range(1, count + 1):
                    disturb(done)
                    suite.tell(done)
            case "writes":
                while (not count or done < count) and suite.refuse(done + 1):
                    done += 1
                    suite.tell(done)
            case "disks":
                for done, size in enumerate(suite.levels()[: count or None], 1):
                    suite.fill(max(size, 4))
                    suite.tell(done)
            case _:
                print(__doc__)
                return 2
    print(f"{done:,} {kind}, {len(suite.wrong):,} of which went wrong")
    for what in suite.wrong[:10]:
        print(f"WRONG {what}")
    return 1 if suite.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "", *map(int, sys.argv[2:3])))
