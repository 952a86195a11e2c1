"""Transport between the tokens of pairs, from states to the gradient on the student's: POT against `token_transport`.

Lengths 5 to 40, d = 512, marginals to 1e-3; the plan is held, and the gradient is that of <P, C>, in all ways.
"""

from __future__ import annotations

import functools
from unittest.mock import patch

import numpy as np
import ot
import torch
from ot.batch import solve_batch
from torch import Tensor

from benchmarks.timing import compare
from harness.distill.transport import tokens as transport
from harness.distill.transport.problem import Solver, cosine_cost
from harness.distill.transport.tokens import token_transport

DIM, LONGEST = 512, 40


def states(pairs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student and teacher states and masks: aligned tokens, noise, and a common direction, as a half-trained student has.

    Each teacher token is aligned with one of the student's, several perhaps with the same. Costs are about 0.2 between aligned
    tokens and 0.88 between the others.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, LONGEST + 1, (2, pairs), generator=generator)
    masks = torch.arange(LONGEST) < lengths[:, :, None]
    common = torch.randn(DIM, generator=generator)
    words = torch.randn(pairs, LONGEST, DIM, generator=generator)
    partner = (torch.rand(pairs, LONGEST, generator=generator) * lengths[0][:, None]).long()
    sides = words, words.gather(1, partner[:, :, None].expand(words.shape))
    x, y = (side + 0.57 * torch.randn(words.shape, generator=generator) + 0.4 * common for side in sides)
    return x * masks[0][:, :, None], y * masks[1][:, :, None], masks[0], masks[1]


def main(device: str = "cpu", pairs: int = 256) -> None:
    """Time all implementations at eps 0.1 and 0.05. On a GPU the padded `token_transport` replaces POT's pair by pair."""
    x, y, rows, columns = (part.to(device) for part in states(pairs))
    x.requires_grad_()
    a, b = rows / rows.sum(1, keepdim=True), columns / columns.sum(1, keepdim=True)
    real = rows[:, :, None] & columns[:, None, :]

    def gradient(value: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(value, x)

    def one_at_a_time(eps: float) -> tuple[Tensor, ...]:
        cost = cosine_cost(x, y)
        plan = torch.zeros(cost.shape)
        costs = cost.detach().double().numpy()
        for i, (n, m) in enumerate(zip(rows.sum(1).tolist(), columns.sum(1).tolist(), strict=True)):
            part = ot.sinkhorn(np.full(n, 1 / n), np.full(m, 1 / m), costs[i, :n, :m], eps, stopThr=1e-4, warn=False)
            plan[i, :n, :m] = torch.from_numpy(part)
        return gradient((plan * cost).sum((1, 2)).mean())

    def in_a_batch(eps: float) -> tuple[Tensor, ...]:
        cost = cosine_cost(x, y)
        padded = torch.where(real, cost.detach(), 2.0)
        with torch.device(device):  # where POT makes its first scalings, wherever the costs are
            solved = solve_batch(padded, eps, a, b, method="sinkhorn", max_iter=1000, tol=5e-4, grad="detach")
        return gradient((solved.plan * cost).sum((1, 2)).mean())

    def ours(eps: float) -> tuple[Tensor, ...]:
        return gradient(token_transport(x, y, rows, columns, Solver(eps=eps))[0].mean())

    def step_by_step(eps: float) -> tuple[Tensor, ...]:
        with patch.object(transport, "gpu_kernel_module", lambda: None):
            return ours(eps)

    for eps in (0.1, 0.05):
        first = ("POT `ot.sinkhorn`, a pair at a time, float64", one_at_a_time)
        if device != "cpu":
            first = ("`token_transport`, step by step", step_by_step)
        named = (first, ("POT `ot.batch.solve_batch`, costs detached", in_a_batch), ("`token_transport`", ours))
        ways = {name: functools.partial(way, eps) for name, way in named}
        for way in (first[1], in_a_batch):
            torch.testing.assert_close(way(eps), ours(eps), atol=1e-6, rtol=2e-2)
        compare(f"Token transport, {pairs:,} pairs, eps {eps}, {device}", ways, 25)


if __name__ == "__main__":
    main()
