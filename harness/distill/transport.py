"""Entropic optimal transport between the tokens of sentence pairs, many small problems at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

ITERATIONS_A_CHECK = 8


@dataclass(frozen=True)
class Transport:
    """Solved problems. plan: (B, n, m), each of mass 1. error: (B,), L1 distance of the plan's row sums from their marginal."""

    plan: Tensor
    error: Tensor
    iterations: int


def cosine_cost(x: Tensor, y: Tensor) -> Tensor:
    """C_ij = 1 - cos(x_i, y_j), in [0, 2], for x (B, n, d) and y (B, m, d). A zero row is at distance 1 of everything.

    >>> cosine_cost(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]])).tolist()
    [[[0.0, 1.0, 2.0]]]
    """
    return 1 - functional.normalize(x, dim=-1) @ functional.normalize(y, dim=-1).transpose(1, 2)


@torch.no_grad()
def sinkhorn(
    cost: Tensor, rows: Tensor, columns: Tensor, eps: float = 0.1, tolerance: float = 1e-3, most: int = 1000
) -> Transport:
    """The plan that minimises <P, C> - eps H(P) between uniform marginals over real tokens (Cuturi 2013).

    cost: (B, n, m), in [0, 2] where it counts. rows: (B, n) and columns: (B, m), True for real tokens, at least one each;
    padding gets a mass of exactly zero. Iterates until every problem's row sums are within `tolerance` (L1) of their
    marginal, or `most` iterations: read `error` to know which. No gradient flows: hold the plan and let it flow through C.

    Scalings are kept in the plain domain, which for costs in [0, 2] and eps >= 0.05 cannot leave float32: after the row
    minimum is subtracted, exp(-2 / eps) is a normal number and the scalings are bounded by exp(4 / eps).
    Raises ValueError for a smaller eps.

    >>> real = torch.ones(1, 2, dtype=torch.bool)
    >>> sinkhorn(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), real, real, eps=0.1).plan.round(decimals=3).tolist()
    [[[0.5, 0.0], [0.0, 0.5]]]
    """
    if eps < 0.05:
        raise ValueError(f"eps {eps} is under 0.05, where scalings can leave float32")
    a = rows / rows.sum(1, keepdim=True)
    b = columns / columns.sum(1, keepdim=True)
    real = rows[:, :, None] & columns[:, None, :]
    lowest = cost.masked_fill(~real, torch.inf).amin(2, keepdim=True).nan_to_num(posinf=0.0)
    kernel = torch.where(real, torch.exp((lowest - cost) / eps), 0.0)
    row_gap, column_gap = (~rows).float(), (~columns).float()
    v = columns.to(cost.dtype)
    u = a
    for iteration in range(1, most + 1):
        # The gap adds 1 to padded denominators only: padding becomes 0 / 1, never 0 / 0.
        u = a / ((kernel * v[:, None, :]).sum(2) + row_gap)
        v = b / ((kernel * u[:, :, None]).sum(1) + column_gap)
        if iteration % ITERATIONS_A_CHECK == 0 or iteration == most:
            error = (u * (kernel * v[:, None, :]).sum(2) - a).abs().sum(1)
            if bool((error <= tolerance).all()):
                break
    return Transport(u[:, :, None] * kernel * v[:, None, :], error, iteration)
