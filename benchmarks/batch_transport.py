"""Soft targets over a batch, for both sides, at eps 0.15 and 5 iterations: OTTER's published loop against `batch_target`.

OTTER takes three products of image and text embeddings (V V', T T', V T') and runs its loop once a side; here two products
give the same sum. The student's own loss has one side only, the teacher's sentences.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.timing import compare
from harness.distill.transport.batches import batch_target
from harness.runtime.matmul import float32_matmul

DIM, EPS, ITERATIONS = 512, 0.15, 5


def published(cost: Tensor) -> Tensor:
    """Run the loop of OTTER's `model_util.py` on a matrix of similarities: rows first, then columns."""
    plan = torch.exp(cost / EPS)
    for _ in range(ITERATIONS):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    return plan / plan.sum(1, keepdim=True)


def main() -> None:
    """Time batches of 512 and of 4,096."""
    generator = torch.Generator().manual_seed(0)
    for size in (512, 4096):
        words = torch.randn(size, DIM, generator=generator)
        v, t = (functional.normalize(words + torch.randn(words.shape, generator=generator), dim=1) for _ in range(2))

        def otter(v: Tensor = v, t: Tensor = t) -> tuple[Tensor, Tensor]:
            images, texts, between = (torch.einsum("id,jd->ij", *pair) for pair in ((v, v), (t, t), (v, t)))
            return published((images + texts + between) / 3), published((images + texts + between.T) / 3)

        def ours(v: Tensor = v, t: Tensor = t) -> tuple[Tensor, Tensor]:
            # v_i v_j + t_i t_j + v_i t_j = v_i (v_j + t_j) + t_i t_j
            with float32_matmul("cpu"):
                similarity = torch.addmm(t @ t.T, v, (v + t).T).div_(3)
            return batch_target(similarity, EPS, ITERATIONS), batch_target(similarity.T, EPS, ITERATIONS)

        for one, other in zip(otter(), ours(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
        ways = {"three products, a plan a side (OTTER)": otter, "two products, `batch_target`": ours}
        compare(f"Batch transport, both sides, {size:,} pairs", ways, 15 if size < 1000 else 5)


if __name__ == "__main__":
    main()
