"""The work of a GPU against common alternatives: `python -m benchmarks.gpu`. Needs a GPU with Triton, and no data.

Token transport at 256 and 2,048 pairs; a training step of a 6-layer, 384-wide student on 256 pairs, as the trainer takes it; the
ranking of Flickr30k whole, in both directions.
"""

from __future__ import annotations

import functools
import time

import numpy as np
import torch
from torch import nn

from benchmarks import ranking, token_transport
from benchmarks.timing import compare
from harness.core.config import DistillConfig
from harness.distill.model.teacher import TeacherStates
from harness.distill.model.tower import TextTower, TowerConfig
from harness.distill.trainer import Training
from harness.retrieval.ranking import rank, retrieval_scores

PAIRS, VOCABULARY, DIM = 256, 4000, 512
SHAPE = TowerConfig(
    vocab_size=VOCABULARY, width=384, layers=6, heads=12, mlp_width=1536, joint_dim=DIM, max_length=77, norm="post"
)


def training(objective: str, precision: str, *, recorded: bool = True) -> Training:
    """Return a training on 4 batches of texts of 6 to 24 tokens on either side. recorded: whether it uses CUDA graphs."""
    rng = np.random.default_rng(0)
    count = 4 * PAIRS
    texts = [rng.integers(VOCABULARY, size=length).tolist() for length in rng.integers(6, 25, count)]
    lengths = rng.integers(6, 25, count)
    generator = torch.Generator().manual_seed(0)
    tokens, pooled = (torch.randn(size, DIM, generator=generator) for size in (int(lengths.sum()), count))
    teacher = TeacherStates(tokens.half(), np.cumsum(lengths) - lengths, lengths, pooled)
    torch.manual_seed(0)
    student = TextTower(SHAPE)
    for parameter in student.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    config = DistillConfig.model_validate({"objective": objective, "precision": precision, "batch": PAIRS})
    made = Training(student.cuda(), texts, teacher, config, range(count))
    if not recorded:
        made.graphed = None
    return made


def steps(made: Training) -> functools.partial[None]:
    """Return a training step on fixed rows, so that rounds differ in time only."""
    return functools.partial(made.step, list(range(PAIRS)), 1e-4)


def student_step() -> None:
    """Time a step as torch takes it by default, and as the trainer does."""
    for precision in ("float32", "bfloat16"):
        for objective in ("kd-mse", "ot-token"):
            ways = {"launched one by one": steps(training(objective, precision, recorded=False))}
            if (objective, precision) == ("kd-mse", "bfloat16"):
                ways["compiled by torch.compile, and recorded"] = steps(compiled())
            ways["recorded"] = steps(training(objective, precision))
            compare(f"A training step, {PAIRS} pairs, {objective}, {precision}", ways, 40)


def kernels() -> None:
    """Print the GPU time of the two kernels of token transport, without the time of Python."""
    from triton.testing import do_bench

    from harness.distill.transport.gpu_kernels import cosine_transport, cosine_transport_gradient

    for pairs in (256, 2048):
        x, y, rows, columns = (part.cuda() for part in token_transport.states(pairs))
        a, b, outer = rows.float(), columns.float(), torch.ones(pairs, device="cuda")
        forth = functools.partial(cosine_transport, x, y, a, b, (0.1, 1.0, 1e-3, 1000, 8, 85.0))
        plan, _, _, _, scales_x, lengths_x, scales_y, _ = forth()
        back = functools.partial(cosine_transport_gradient, plan, outer, (scales_x, scales_y), y, lengths_x, x)
        times = [do_bench(kernel, return_mode="median") for kernel in (forth, back)]
        print(f"\nkernels of {pairs:,} pairs: {times[0]:.2f} ms for the plan, {times[1]:.2f} ms for the gradient")


def busy(name: str, made: Training) -> None:
    """Print the time of the first steps, which compile and record, and the share of a step in which the GPU works."""
    step, began = steps(made), time.perf_counter()
    for _ in range(5):
        step()
    first = time.perf_counter() - began
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(5):
            step()
        torch.cuda.synchronize()
    work = sum(event.self_device_time_total for event in seen.key_averages()) / 5000
    print(f"\n{name}: the first five steps {first:.1f} s; the GPU is at work for {work:.1f} ms of a step")


def compiled() -> Training:
    """Return `kd-mse` in bfloat16, compiled before it is recorded."""
    made = training("kd-mse", "bfloat16")
    made.tower.forward = torch.compile(made.tower.forward, dynamic=False)  # type: ignore[method-assign]
    return made


def whole_ranking(images: int = 31_783) -> None:
    """Time R@1, R@5 and R@10 in both directions, with the transfer of embeddings to the GPU, and the product alone."""
    first, second, owner = ranking.embeddings(images)

    def product() -> None:
        queries, base = torch.from_numpy(second).cuda(), torch.from_numpy(first).cuda()
        for rows in queries.split(8192):
            torch.mm(rows, base.T)

    ways = {"the float32 product alone, torch": product, "`rank`": lambda: rank(first, second, owner, device="cuda")}
    compare(f"{images:,} images x {len(owner):,} captions x {ranking.WIDTH}", ways, 5)
    print(retrieval_scores(rank(first, second, owner, device="cuda")))


def main() -> None:
    """Run all benchmarks."""
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for pairs in (256, 2048):
        token_transport.main("cuda", pairs)
    kernels()
    student_step()
    busy("recorded", training("kd-mse", "bfloat16"))
    busy("compiled and recorded", compiled())
    whole_ranking()


if __name__ == "__main__":
    main()
