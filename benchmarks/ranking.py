"""Ranking in both directions: `harness.retrieval.ranking.rank` against faiss, CLIP_benchmark and the product alone.

    python -m benchmarks.ranking 1000 5000        times and peak memory at n images x 5 n captions x 512 (needs faiss-cpu)
    python -m benchmarks.ranking --large 31783    one round, without CLIP_benchmark's way, whose matrices do not fit

Every way computes R@1, R@5 and R@10 in both directions from the same embeddings. faiss and CLIP_benchmark take a tie for a hit.
Some set `OPENBLAS_CORETYPE`, by which numpy and faiss are slower than they need be: leave it out.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.timing import compare
from harness.core.data import Floats, Ints
from harness.retrieval import ranking
from harness.retrieval.ranking import rank, retrieval_scores
from harness.runtime.matmul import float32_matmul

WIDTH, CAPTIONS, KS, TILE = 512, 5, (1, 5, 10), 2048
Rates = dict[str, float]


def embeddings(images: int) -> tuple[Floats, Floats, Ints]:
    """Return unit vectors of images, and of captions near their image, so that about half of them rank it first."""
    source = np.random.default_rng(0)
    first = source.standard_normal((images, WIDTH), dtype=np.float32)
    owner = np.repeat(np.arange(images), CAPTIONS)
    second = first[owner] + 6 * source.standard_normal((len(owner), WIDTH), dtype=np.float32)
    first, second = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (first, second))
    return first, second, owner


def ours(images: Floats, texts: Floats, owner: Ints) -> Rates:
    """`rank`: one product, and counting."""
    return retrieval_scores(rank(images, texts, owner))


def ours_by_torch(images: Floats, texts: Floats, owner: Ints) -> Rates:
    """`rank` without numba."""
    with patch.object(ranking, "_counting", lambda: ranking._count):
        return ours(images, texts, owner)


def product_by_numpy(images: Floats, texts: Floats, owner: Ints) -> Rates:  # noqa: ARG001
    """Compute the float32 product alone, in chunks."""
    for start in range(0, len(texts), TILE):
        texts[start : start + TILE] @ images.T
    return {}


def product_by_torch(images: Floats, texts: Floats, owner: Ints) -> Rates:  # noqa: ARG001
    """Compute the float32 product alone, with torch's default."""
    for start in range(0, len(texts), TILE):
        torch.from_numpy(texts[start : start + TILE]) @ torch.from_numpy(images).T
    return {}


def product_in_tiles(images: Floats, texts: Floats, owner: Ints) -> Rates:  # noqa: ARG001
    """Compute the float32 product alone, as `rank` does."""
    with float32_matmul("cpu"):
        for rows in torch.from_numpy(texts).split(TILE):
            for columns in torch.from_numpy(images).split(TILE):
                torch.mm(rows, columns.T)
    return {}


def faiss_flat(images: Floats, texts: Floats, owner: Ints) -> Rates:
    """Search the first ten of each query with IndexFlatIP, in each direction."""
    import faiss

    found: Rates = {}
    for side, base, queries in (("t2i", images, texts), ("i2t", texts, images)):
        index = faiss.IndexFlatIP(WIDTH)
        index.add(base)
        _, first = index.search(queries, max(KS))
        hits = first == owner[:, None] if side == "t2i" else owner[first] == np.arange(len(images))[:, None]
        found |= {f"{side}_r{k}": float(100 * hits[:, :k].any(1).mean()) for k in KS}
    return found


def clip_benchmark(images: Floats, texts: Floats, owner: Ints) -> Rates:
    """Compute the full matrix, and for each k multiply one-hot rows of the first k by the relevance, 64 queries at a time."""
    whole = torch.from_numpy(texts) @ torch.from_numpy(images).T
    right = torch.zeros_like(whole, dtype=torch.bool)
    right[torch.arange(len(owner)), torch.from_numpy(owner)] = True
    found: Rates = {}
    for k in KS:
        for side, matrix, pairs in (("t2i", whole, right), ("i2t", whole.T, right.T)):
            hits = [one_hot_hits(matrix[start : start + 64], pairs[start : start + 64], k) for start in range(0, len(matrix), 64)]
            found[f"{side}_r{k}"] = 100 * float(torch.cat(hits).float().mean())
    return found


def one_hot_hits(matrix: torch.Tensor, pairs: torch.Tensor, k: int) -> torch.Tensor:
    """Return whether each query has a relevant item among its first k."""
    first = torch.nn.functional.one_hot(torch.topk(matrix, k, dim=1)[1], matrix.shape[1])
    return (first * pairs[:, None, :]).sum((1, 2)) > 0


WAYS: dict[str, Callable[[Floats, Floats, Ints], Rates]] = {
    "CLIP_benchmark's way": clip_benchmark,
    "faiss IndexFlatIP": faiss_flat,
    "the product alone, numpy": product_by_numpy,
    "the product alone, torch": product_by_torch,
    "the product alone, as `rank` takes it": product_in_tiles,
    "`rank` without numba": ours_by_torch,
    "`rank`": ours,
}


def peak(name: str, images: int) -> float:
    """Return the MiB that an implementation takes besides the embeddings, in another process."""
    words = [sys.executable, "-m", "benchmarks.ranking", "--peak", name, str(images)]
    return float(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))


def measure_peak(name: str, images: int) -> None:
    """Print the memory that `peak` reads."""
    given = embeddings(images)
    WAYS[name](*(side[:64] for side in given[:2]), np.arange(64))  # libraries are loaded before the start is taken
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is taken anew
    before = resident("VmRSS")
    WAYS[name](*given)
    print(json.dumps((resident("VmHWM") - before) / 1024))


def resident(line: str) -> int:
    """Return the KiB of memory of this process, current or peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{line}:")[2].split()[0])


def main(words: list[str]) -> None:
    """Time all implementations alternately, and measure the memory of each."""
    if words[:1] == ["--peak"]:
        measure_peak(words[1], int(words[2]))
        return
    large = words[:1] == ["--large"]
    names = [name for name in WAYS if not (large and name == "CLIP_benchmark's way")]
    for images in map(int, words[large:] or ["1000", "5000"]):
        measure(images, names, 1 if large else 3)


def measure(images: int, names: Sequence[str], rounds: int) -> None:
    """Compare all implementations at one size."""
    given, found = embeddings(images), {}
    if rounds == 1:  # libraries are loaded before, if nothing else
        small = embeddings(5000)
        for name in names:
            WAYS[name](*small)

    def work(name: str) -> None:
        found[name] = WAYS[name](*given)

    title = f"{images:,} images x {CAPTIONS * images:,} captions x {WIDTH}"
    compare(title, {name: functools.partial(work, name) for name in names}, rounds, warm=rounds > 1)
    rounded = [
        {key: round(value, 1) for key, value in of.items() if key[-3:] in ("_r1", "_r5", "r10")} for of in found.values() if of
    ]
    print(f"\nrates in percent: {rounded[-1]}; all find the same: {all(of == rounded[-1] for of in rounded)}")
    print("\n| way | MiB beside the embeddings |\n| --- | --- |")
    for name in names if rounds > 1 else names[-2:]:
        print(f"| {name} | {peak(name, images):,.0f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
