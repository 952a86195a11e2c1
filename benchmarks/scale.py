"""Time and memory as images, captions, sentence pairs and languages grow by 10 and by 100, and what a large study costs.

    python -m benchmarks.scale          the table of docs/scale.md (about five minutes of one core)
    python -m benchmarks.scale paper    what 200 languages x 10 encoders x 3 seeds cost: arithmetic, its inputs beside it

Over the embedded sample and its teacher, repeated as often as it takes. Each figure is of a process of its own with one thread:
its processor time, which what else runs disturbs least, after a small round that loads libraries and models; and the most memory
that it ever held, libraries and all.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import harness.encoders.sample
from benchmarks.ranking import CAPTIONS, WIDTH, embeddings, resident
from harness.core.config import DistillConfig, RunConfig
from harness.core.data import Images
from harness.core.digests import digest_strings
from harness.distill.pipeline import distill
from harness.evaluation.planning import make_plans
from harness.evaluation.runner import measure_plan
from harness.retrieval.ranking import rank
from harness.runtime.console import Console
from harness.storage.embeddings import embed_images, embed_texts
from harness.storage.store import Store

GROWTH = (1, 10, 100)
Work = Callable[[], object]


@dataclass(frozen=True)
class Repeated:
    """A given number of pictures, made by repeating the existing ones and decoded every time."""

    images: Images
    count: int

    @property
    def ids(self) -> tuple[str, ...]:
        """An id for each picture."""
        return tuple(map(str, range(self.count)))

    def open(self, index: int) -> Image.Image:
        """Decode a picture."""
        return self.images.open(index % len(self.images.ids))

    def digest(self) -> str:
        """Digest of the repeated pictures and their number."""
        return digest_strings([self.images.digest(), str(self.count)])


class World:
    """The sample in a temporary store."""

    def __init__(self, place: Path) -> None:
        self.place, self.store, self.console = place, Store(place / "store"), Console()
        ((self.plan,), _) = make_plans(RunConfig(lang="en", objectives=(), device="cpu"), self.store)
        self.retrieval = self.plan.cells[0].retrieval

    def sentences(self, count: int, lang: str = "en") -> list[str]:
        """Return sentences of the sample's training texts, made distinct by a number."""
        lines = (self.plan.data / "multi30k" / "data" / "task1" / "raw" / f"train.{lang}").read_text().splitlines()
        return [f"{lines[row % len(lines)]} {row // len(lines)}" for row in range(count)]

    def encode_images(self, count: int) -> Work:
        """Decode, encode and store pictures."""
        pictures = Repeated(self.retrieval.images, count)
        return lambda: embed_images(self.plan.encoder, pictures, self.store, lambda _: None)

    def encode_captions(self, count: int) -> Work:
        """Encode and store captions."""
        sentences = self.sentences(count)
        return lambda: embed_texts(self.plan.encoder, sentences, "en", self.store)

    def distil(self, count: int) -> Work:
        """Distil a tower in one pass over the pairs, from reading them to storing it."""
        for lang in ("en", "de"):
            (self.place / f"{count}.{lang}").write_text("\n".join(self.sentences(count, lang)) + "\n")
        steps = DistillConfig(steps=-(-count // DistillConfig().batch))
        config = RunConfig(
            lang="de", objectives=("kd-mse",), distill=steps, bitext=self.place / f"{count}.en", clean=False, device="cpu"
        )

        def work() -> None:
            ((plan,), _) = make_plans(config, self.store)
            (recipe,) = [cell.recipe for cell in plan.cells if cell.recipe]
            distill(recipe, "cpu", self.store, self.console)

        return work

    def rank(self, count: int) -> Work:
        """Rank images and five times as many captions."""
        given = embeddings(count)
        return lambda: rank(*given)

    def measure_languages(self, count: int) -> Work:
        """Measure a tower on the captions of many languages: embed, rank, record. The images are embedded already."""
        data = self.place / f"data of {count}"
        (data / "captions").mkdir(parents=True)
        for name in ("dataset_flickr30k.json", "flickr30k-images"):
            (data / name).symlink_to(self.plan.data / name)
        codes = [code for code in self.plan.task.languages() if code != "en"][:count]
        pairs = zip(self.retrieval.caption_images.tolist(), self.retrieval.captions, strict=True)
        first = {self.retrieval.images.ids[image]: caption for image, caption in pairs}
        for code in codes:
            (data / "captions" / f"{code}.tsv").write_text("".join(f"{name}\t{caption}\n" for name, caption in first.items()))
        # The same weights under a name that may read other folders than the sample's.
        encoder = f"local-dir:{Path(harness.encoders.sample.__file__).parent}"
        config = RunConfig(lang=",".join(codes), data=str(data), encoder=encoder, objectives=(), device="cpu")

        def work() -> None:
            for plan in make_plans(config, self.store)[0]:
                measure_plan(plan, self.store, self.console)

        return work


@dataclass(frozen=True)
class Row:
    """What grows, from which count, in which unit, and the function that prepares so many."""

    what: str
    first: int
    ready: Callable[[World, int], Work]
    unit: str


ROWS = {
    "images": Row("encoding images", 100, World.encode_images, "images"),
    "captions": Row("encoding captions", 500, World.encode_captions, "captions"),
    "pairs": Row("distilling, one pass", 450, World.distil, "pairs"),
    "ranking": Row(f"ranking, {CAPTIONS} captions an image, d = {WIDTH}", 318, World.rank, "images"),
    "languages": Row("measuring languages, 400 captions each", 1, World.measure_languages, "languages"),
}


def measure(name: str, count: int) -> None:
    """Print seconds of CPU time and MiB, for the parent process."""
    ready = ROWS[name].ready
    with tempfile.TemporaryDirectory() as place:
        world = World(Path(place))
        # Another number than those measured, so that nothing is in the store that they would find there.
        ready(world, 2 if name == "languages" else 65)()
        work = ready(world, count)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is taken anew
        began = time.process_time()
        work()
        seconds = time.process_time() - began
    print(json.dumps((seconds, resident("VmHWM") / 1024)))


def measured(name: str, count: int) -> tuple[float, float]:
    """Return the seconds and MiB of one process."""
    words = [sys.executable, "-m", "benchmarks.scale", "measure", name, str(count)]
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(words, env=os.environ | alone, check=True, capture_output=True, text=True)
    seconds, mebibytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, mebibytes


def slope(counts: list[int], values: list[float]) -> float:
    """Return the least-squares slope of log value over log count: 1 is proportional, 0 is constant."""
    return float(np.polyfit(np.log(counts), np.log(values), 1)[0])


def table(names: list[str]) -> None:
    """Print the table."""
    print("| what | how many | s, one thread | slope | most MiB | slope |\n| --- | --- | --- | --- | --- | --- |")
    for name in names:
        row = ROWS[name]
        counts = [row.first * growth for growth in GROWTH]
        found = [measured(name, count) for count in counts]
        seconds, mebibytes = ([each[part] for each in found] for part in (0, 1))
        sizes = " / ".join(f"{count:,}" for count in counts)
        times, memory = " / ".join(f"{value:.3g}" for value in seconds), " / ".join(f"{value:,.0f}" for value in mebibytes)
        slopes = slope(counts, seconds), slope(counts, mebibytes)
        print(f"| {row.what} | {sizes} {row.unit} | {times} | {slopes[0]:.2f} | {memory} | {slopes[1]:.2f} |", flush=True)


LANGUAGES, ENCODERS, SEEDS, OBJECTIVES, GALLERY = 200, 10, 3, 2, 1_000
PAIRS, GPUS = (1_000, 27_985), (1, 8)
STEP = 0.0081  # s a step, 6 layers x 384, one H100: that of `ot-token` in bfloat16 with 256 pairs (benchmarks/gpu.py)
DECODED, CORES = 700, 16  # photographs a second and core by `fast:` (benchmarks/images.py: 930), and cores beside a GPU
TEXTS = 5_000  # sentences a second and GPU through a text tower: assumed
CELL = 0.2  # s to rank, draw intervals and write a record on one core: a language of the table


def paper(pairs: int) -> None:
    """Print what a study costs, item by item."""
    towers, steps = LANGUAGES * ENCODERS * SEEDS * OBJECTIVES, DistillConfig().steps_for(pairs)
    cells = towers + 3 * LANGUAGES * ENCODERS  # the English tower on the language, on the same captions in English, and on all
    items = {
        f"images: {ENCODERS} encoders x {GALLERY:,}, once for all languages": ENCODERS * GALLERY / (DECODED * CORES),
        f"teachers read English: {ENCODERS} encoders x {SEEDS} x {pairs:,} sentences": ENCODERS * SEEDS * pairs / TEXTS,
        f"towers: {towers:,} x {steps:,} steps of {1000 * STEP:.0f} ms": towers * steps * STEP,
        f"captions: {cells:,} cells x {GALLERY:,}": cells * GALLERY / TEXTS,
        f"ranks, intervals, records: {cells:,} cells x {CELL} s": cells * CELL,
    }
    print(f"\n{LANGUAGES} languages x {ENCODERS} encoders x {SEEDS} seeds x {OBJECTIVES} objectives, {pairs:,} pairs each\n")
    print("| item | " + " | ".join(f"hours on {gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS) + " |")
    print("| --- |" + " --- |" * len(GPUS))
    for name, seconds in (items | {"all": math.fsum(items.values())}).items():
        print(f"| {name} | " + " | ".join(f"{seconds / 3600 / gpus:,.2f}" for gpus in GPUS) + " |")


def main(words: list[str]) -> None:
    """Run the command line."""
    match words:
        case ["measure", name, count]:
            measure(name, int(count))
        case ["paper"]:
            for pairs in PAIRS:
                paper(pairs)
        case _:
            table(words or list(ROWS))


if __name__ == "__main__":
    main(sys.argv[1:])
