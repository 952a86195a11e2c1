"""Time and memory of the scorers with a bias for each candidate, of hubness, and of the plain cosine, at large galleries.

    OMP_NUM_THREADS=1 python -m benchmarks.scorers 5000             n images x 5 n captions x 512, each way in a process
    OMP_NUM_THREADS=1 python -m benchmarks.scorers 5000 sinkhorn    one way

The transductive form is measured. It is the larger one: test queries are more than those of a bank. Times are those of the
processor, all threads together, since other work on a machine does not count there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.ranking import CAPTIONS, WIDTH, embeddings, resident
from harness.core.data import Floats, Ints
from harness.retrieval.cosines import unit_tensor
from harness.retrieval.hubness import cosine_hubness
from harness.retrieval.ranking import rank
from harness.retrieval.scorers.biased import BiasRule, Sides
from harness.retrieval.scorers.csls import Csls
from harness.retrieval.scorers.inverted_softmax import InvertedSoftmax
from harness.retrieval.scorers.qb_norm import QueryBankNorm
from harness.retrieval.scorers.sinkhorn import Sinkhorn

Way = Callable[[Floats, Floats, Ints], object]


def biased(rule: BiasRule) -> Way:
    """Return the computation of a rule's biases and of the ranks with them."""

    def way(images: Floats, texts: Floats, owner: Ints) -> object:
        test = Sides(unit_tensor(images, "image"), unit_tensor(texts, "text"))
        with torch.inference_mode():
            biases = rule.biases(test, test)
        return rank(images, texts, owner, biases=biases)

    return way


WAYS: dict[str, Way] = {
    "plain": rank,
    "hubness": lambda images, texts, owner: cosine_hubness(images, texts),  # noqa: ARG005
    "inverted-softmax": biased(InvertedSoftmax(0.05)),
    "csls": biased(Csls(10)),
    "qb-norm": biased(QueryBankNorm(0.05)),
    "sinkhorn": biased(Sinkhorn(0.05, 10)),
}


def measure(name: str, images: int) -> None:
    """Print the seconds of the processor that one way takes, and the MiB that it takes besides the embeddings."""
    given = embeddings(images)
    small = embeddings(64)
    WAYS[name](*small)  # libraries are loaded before the measurement
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is taken anew
    before, start = resident("VmRSS"), time.process_time()
    WAYS[name](*given)
    print(json.dumps([time.process_time() - start, (resident("VmHWM") - before) / 1024]))


def main(words: list[str]) -> None:
    """Measure every way, or those that are named."""
    if words[:1] == ["--one"]:
        measure(words[1], int(words[2]))
        return
    images, names = int(words[0]), words[1:] or list(WAYS)
    print(f"{images:,} images x {CAPTIONS * images:,} captions x {WIDTH}\n")
    print("| way | s of the processor | MiB besides the embeddings |\n| --- | --- | --- |")
    for name in names:
        command = [sys.executable, "-m", "benchmarks.scorers", "--one", name, str(images)]
        seconds, peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"| {name} | {seconds:.1f} | {peak:,.0f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
