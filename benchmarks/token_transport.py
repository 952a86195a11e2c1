"""Transport between the tokens of 256 pairs, from states to the gradient on the student's: POT against `token_transport`.

Lengths 5 to 40, d = 512, marginals to 1e-3; the plan is held, and the gradient is that of <P, C>, in all ways.
"""

from __future__ import annotations

import numpy as np
import ot
import torch
from ot.batch import solve_batch
from torch import Tensor

from benchmarks.rounds import compare
from harness.distill.transport import Solver, cosine_cost, token_transport

PAIRS, DIM, LONGEST = 256, 512, 40


def states() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student and teacher states and masks: aligned tokens, noise, and a common direction, as a half-trained student has.

    Each teacher token is aligned with one of the student's, several perhaps with the same. Costs are about 0.2 between aligned
    tokens and 0.88 between the others.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, LONGEST + 1, (2, PAIRS), generator=generator)
    masks = torch.arange(LONGEST) < lengths[:, :, None]
    common = torch.randn(DIM, generator=generator)
    words = torch.randn(PAIRS, LONGEST, DIM, generator=generator)
    partner = (torch.rand(PAIRS, LONGEST, generator=generator) * lengths[0][:, None]).long()
    sides = words, words.gather(1, partner[:, :, None].expand(words.shape))
    x, y = (side + 0.57 * torch.randn(words.shape, generator=generator) + 0.4 * common for side in sides)
    return x * masks[0][:, :, None], y * masks[1][:, :, None], masks[0], masks[1]


def main() -> None:
    """All ways, at eps 0.1 and 0.05."""
    x, y, rows, columns = states()
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
        solved = solve_batch(padded, eps, a, b, method="sinkhorn", max_iter=1000, tol=5e-4, grad="detach")
        return gradient((solved.plan * cost).sum((1, 2)).mean())

    def ours(eps: float) -> tuple[Tensor, ...]:
        return gradient(token_transport(x, y, rows, columns, Solver(eps=eps))[0].mean())

    for eps in (0.1, 0.05):
        ways = {
            "POT `ot.sinkhorn`, a pair at a time, float64": lambda eps=eps: one_at_a_time(eps),
            "POT `ot.batch.solve_batch`, costs detached": lambda eps=eps: in_a_batch(eps),
            "`token_transport`": lambda eps=eps: ours(eps),
        }
        compare(f"Token transport, {PAIRS} pairs, eps {eps}", ways, 25)


if __name__ == "__main__":
    main()
