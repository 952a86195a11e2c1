"""The transport problem: cost, marginals, solver options and solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Method: TypeAlias = Literal["sinkhorn", "ipot", "unbalanced", "exact"]
ITERATIONS_A_CHECK = 8
IPOT_ITERATIONS = 50
# float32 holds the square of a state no longer than the inverse of this, and its products.
LEAST_SCALE = 1e-18
# The largest logarithm of a scaling outside the log domain. float32 holds exp(88.7), float64 exp(709.7).
FLOAT32_REACH, FLOAT64_REACH = 85.0, 700.0


@dataclass(frozen=True)
class Solver:
    """How problems are solved. a and b are the marginals, P >= 0 is the plan, P1 and P'1 are its row and column sums.

    - `sinkhorn`: min <P, C> + eps KL(P | a b'), P1 = a, P'1 = b (Cuturi, arXiv 1306.0895).
    - `unbalanced`: min <P, C> + eps KL(P | a b') + rho KL(P1 | a) + rho KL(P'1 | b) for C >= 0 (Chizat et al., arXiv 1607.05816):
      expensive mass is not transported, so the plan's mass is less than 1.
    - `ipot`: `most` proximal steps of weight beta towards min <P, C> (Xie et al., arXiv 1802.04307), 50 as in the code of UNITER
      and UC2.
    - `exact`: min <P, C>, P1 = a, P'1 = b, by POT's network simplex, one problem at a time on the CPU. This is the reference.

    Each problem is iterated until its marginal error is within `tolerance`, at most `most` times. The warning `NotConverged`
    counts the problems that are not.
    unrolled: whether the gradient flows through the iterations; see `solve`.
    """

    method: Method = "sinkhorn"
    eps: float = 0.1
    rho: float = 1.0
    beta: float = 0.5
    tolerance: float = 1e-3
    most: int | None = None
    unrolled: bool = False

    def __post_init__(self) -> None:
        if not 1e-3 <= self.eps <= 10:
            raise ValueError(f"eps {self.eps} is not in [0.001, 10]")
        if self.rho <= 0 or self.beta <= 0:
            raise ValueError(f"rho {self.rho} and beta {self.beta} must be positive")
        if self.most is not None and self.most < 1:
            raise ValueError(f"most is {self.most}: expected at least one iteration")
        if self.unrolled and self.method == "exact":
            raise ValueError("the exact solver has no iterations to unroll")

    @property
    def limit(self) -> int:
        """The most iterations."""
        return self.most or (IPOT_ITERATIONS if self.method == "ipot" else 1000)

    @property
    def power(self) -> float:
        """Exponent of each scaling step: 1 for hard marginals, less for relaxed ones."""
        return self.rho / (self.rho + self.eps) if self.method == "unbalanced" else 1.0


class NotConverged(UserWarning):
    """Problems are not within the tolerance after the last iteration. Their last plans are returned."""

    def __init__(self, problems: int, solver: Solver) -> None:
        super().__init__(f"{problems} transport problems did not come within {solver.tolerance} in {solver.limit} iterations")
        self.problems = problems


@dataclass(frozen=True)
class Transport:
    """Solved problems.

    plan: (B, n, m), exactly zero on padding. value: (B,), <P, C>. iterations: (B,), 0 for the exact solver.
    error: (B,), L1 distance of the plan's row sums from their marginal. With relaxed marginals it is the distance from the row
    sums at the optimum for the current scalings, which tends to the former as rho grows.
    converged: (B,), whether the error is within the tolerance.
    """

    plan: Tensor
    value: Tensor
    error: Tensor
    iterations: Tensor
    converged: Tensor


def cosine_cost(x: Tensor, y: Tensor) -> Tensor:
    """Return C_ij = 1 - cos(x_i, y_j), in [0, 2], for x (B, n, d) and y (B, m, d). A zero row is at distance 1 from all rows.

    The length of other rows does not matter, even if its square overflows or underflows.

    >>> cosine_cost(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]])).tolist()
    [[[0.0, 1.0, 2.0]]]
    """
    x, y = (functional.normalize(side * power_of_two(side), dim=-1) for side in (x, y))
    return 1 - x @ y.transpose(1, 2)


def cosine_reach(eps: float, power: float) -> float:
    """Return the largest `reach` of cosine costs."""
    return (2 if power == 1 else 3) * 2 / eps


def power_of_two(x: Tensor) -> Tensor:
    """Return factors (B, n, 1) that scale each state's largest entry to [0.5, 1) without rounding; 1 for zero, NaN, infinity."""
    largest = x.detach().abs().amax(-1, keepdim=True)
    # The inverse of a larger exponent is no normal float32.
    exponent = torch.frexp(largest).exponent.clamp(-126, 126)
    return torch.ldexp(torch.ones_like(largest), torch.where(largest.isfinite(), -exponent, 0))


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; return float32 and float64 unchanged."""
    return x if x.dtype == torch.float64 else x.float()


def check_shapes(shape: Sequence[int], rows: Tensor, columns: Tensor) -> None:
    """Raise ValueError for an empty batch (B, n, m), and for weights that are not (B, n) and (B, m)."""
    batch, n, m = shape
    if 0 in (batch, n, m):
        raise ValueError(f"{batch} problems of {n} x {m} tokens: expected one problem or more, of one token or more a side")
    for name, weights, size in (("rows", rows, n), ("columns", columns, m)):
        if tuple(weights.shape) != (batch, size):
            raise ValueError(f"{name} is {tuple(weights.shape)}: expected {(batch, size)}")


def marginals(given: Tensor, dtype: torch.dtype) -> Tensor:
    """Return masses (B, n) that sum to 1, proportional to weights or uniform over a mask. Raises ValueError for invalid ones."""
    weights = given.to(dtype)
    total = weights.sum(1, keepdim=True)
    right = (total > 0) & total.isfinite() & (weights >= 0).all(1, keepdim=True)
    if not bool(right.all()):
        first = int((~right).nonzero()[0, 0])
        raise ValueError(f"problem {first} has no token, a weight that is negative, or weights whose sum is not finite")
    return weights / total


def occupied_length(masses: Tensor) -> int:
    """Return the number of positions up to the last that has mass in any problem."""
    return int((masses > 0).any(0).nonzero()[-1]) + 1


def restore_padding(solved: Transport, rows: int, columns: int) -> Transport:
    """Return the problems with so many empty rows and columns appended to their plans."""
    if not rows and not columns:
        return solved
    plan = functional.pad(solved.plan, (0, columns, 0, rows))
    return Transport(plan, solved.value, solved.error, solved.iterations, solved.converged)
