"""Solvers of many small ragged transport problems at once: Sinkhorn, unbalanced, IPOT, exact."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from harness.distill.transport.problem import (
    FLOAT32_REACH,
    FLOAT64_REACH,
    ITERATIONS_A_CHECK,
    Method,
    NotConverged,
    Solver,
    Transport,
    check_shapes,
    extent,
    in_float,
    marginals,
    uncropped,
)


def solve(cost: Tensor, rows: Tensor, columns: Tensor, solver: Solver | None = None) -> Transport:
    """Solve B transport problems of cost (B, n, m).

    rows: (B, n) and columns: (B, m), either masks, True for real tokens, which then share the mass of 1 evenly, or weights, in
    proportion to which they share it. What has no weight is padding: whatever its cost, it carries exactly zero. A cost of
    infinity forbids its pair: the plan is zero there. Raises ValueError for an empty batch, for weights of another shape than the
    cost's, for a problem whose weights sum to zero or to more than the precision holds or have a negative one among them, and for
    an infinite cost with `ipot` or `exact`. A problem that only a forbidden pair could solve has not converged.

    Only `value` carries a gradient, and which one is a choice. By default the plan is held: the gradient of <P, C> is P, which
    by the envelope theorem is that of the whole minimum of `Solver`'s formula (<P, C> plus its penalties), not of <P(C), C>.
    With `unrolled` the plan carries one too, through all iterations, and the gradient is that of <P(C), C> itself. The two
    differ by about 20 % at eps 0.1 and 0.05 (cosine 0.98); unrolling costs several times the time and memory.

    A problem is iterated until it has converged itself, whatever its neighbours need. It is solved by plain scalings where the
    bound of `reach` proves that they fit float32, else float64, else by log-domain potentials in float64.

    >>> real = torch.ones(1, 2, dtype=torch.bool)
    >>> solve(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), real, real).plan.round(decimals=3).tolist()
    [[[0.5, 0.0], [0.0, 0.5]]]
    """
    with torch.autocast(cost.device.type, enabled=False):
        cost = in_float(cost)
        check_shapes(cost.shape, rows, columns)
        a, b = marginals(rows, cost.dtype), marginals(columns, cost.dtype)
        n, m = extent(a), extent(b)
        solved = solve_cropped(cost[:, :n, :m], a[:, :n], b[:, :m], solver or Solver())
        return uncropped(solved, cost.shape[1] - n, cost.shape[2] - m)


def solve_cropped(cost: Tensor, a: Tensor, b: Tensor, solver: Solver) -> Transport:
    """`solve` for marginals of which each place has mass in some problem."""
    real = (a > 0)[:, :, None] & (b > 0)[:, None, :]
    cost = torch.where(real, cost, 0.0)
    with torch.set_grad_enabled(solver.unrolled and torch.is_grad_enabled()):
        plan, error, iterations = METHODS[solver.method](cost, real, a, b, solver)
    plan = plan.to(cost.dtype)
    # A forbidden pair has a cost of infinity, and carries nothing.
    carried = plan * cost.where((plan != 0) | cost.isfinite(), 0.0)
    return judged(plan, carried.sum((1, 2)), error.detach().to(cost.dtype), iterations, solver, a, b)


def judged(
    plan: Tensor, value: Tensor, error: Tensor, iterations: Tensor, solver: Solver, rows: Tensor, columns: Tensor
) -> Transport:
    """The problems with a verdict on each, and a warning of those that have not converged.

    rows, columns: the weights of both sides. Raises ValueError, as `marginals` does, if these are the reason.
    """
    converged = (error <= solver.tolerance) & value.detach().isfinite()
    # IPOT is defined by its number of iterations, not by a tolerance.
    if solver.method != "ipot" and (left := int((~converged).sum())):
        for weights in (rows, columns):
            marginals(weights, weights.dtype)
        warnings.warn(NotConverged(left, solver), stacklevel=4)
    return Transport(plan, value, error, iterations, converged)


@dataclass(frozen=True)
class Scalings:
    """Problems of kernel exp(-C / eps) (B, n, m), whose plans are P_ij = a_i u_i K_ij v_j b_j.

    Padding has a kernel of 1 and a mass of 0: it adds 0 to every sum, and its own scaling is a number like any other.
    """

    kernel: Tensor
    a: Tensor
    b: Tensor
    power: float

    def start(self) -> tuple[Tensor, Tensor]:
        """Scalings of 1."""
        return torch.ones_like(self.a), torch.ones_like(self.b)

    def row_sums(self, v: Tensor) -> Tensor:
        """sum_j K_ij b_j v_j."""
        return (self.kernel * (self.b * v)[:, None, :]).sum(2)

    def column_sums(self, u: Tensor) -> Tensor:
        """sum_i K_ij a_i u_i."""
        return (self.kernel * (self.a * u)[:, :, None]).sum(1)

    def answer(self, sums: Tensor) -> Tensor:
        """The scaling that is optimal given those sums of its side."""
        return sums.reciprocal() if self.power == 1 else sums.pow(-self.power)

    def error(self, u: Tensor, sums: Tensor) -> Tensor:
        """L1 distance of the row sums a_i u_i sums_i from the marginal; if that is relaxed, from a_i u_i^(-eps / rho)."""
        return (self.a * (u * sums - u.pow(1 - 1 / self.power))).abs().sum(1)

    def plan(self, u: Tensor, v: Tensor) -> Tensor:
        """The plan."""
        return (self.a * u)[:, :, None] * self.kernel * (self.b * v)[:, None, :]

    def take(self, which: Tensor) -> Scalings:
        """Some of the problems."""
        return type(self)(self.kernel[which], self.a[which], self.b[which], self.power)


class LogScalings(Scalings):
    """The same with logarithms for kernel, scalings and sums: for eps so small that nothing else can hold them."""

    def start(self) -> tuple[Tensor, Tensor]:
        """Logarithms of 1."""
        return torch.zeros_like(self.a), torch.zeros_like(self.b)

    def row_sums(self, v: Tensor) -> Tensor:
        """log sum_j K_ij b_j v_j."""
        return (self.kernel + (self.b.log() + v)[:, None, :]).logsumexp(2)

    def column_sums(self, u: Tensor) -> Tensor:
        """log sum_i K_ij a_i u_i."""
        return (self.kernel + (self.a.log() + u)[:, :, None]).logsumexp(1)

    def answer(self, sums: Tensor) -> Tensor:
        """The logarithm of the optimal scaling."""
        return -self.power * sums

    def error(self, u: Tensor, sums: Tensor) -> Tensor:
        """As in the plain domain."""
        return (self.a * ((u + sums).exp() - (u * (1 - 1 / self.power)).exp())).abs().sum(1)

    def plan(self, u: Tensor, v: Tensor) -> Tensor:
        """The plan itself, not its logarithm."""
        return self.a[:, :, None] * (u[:, :, None] + self.kernel + v[:, None, :]).exp() * self.b[:, None, :]


Solved: TypeAlias = tuple[Tensor, Tensor, Tensor]


def entropic(cost: Tensor, real: Tensor, a: Tensor, b: Tensor, solver: Solver) -> Solved:
    """Plan, error and iterations by scaling, each problem in the cheapest domain that is safe for it."""
    cost = lowered(cost, real) if solver.method == "sinkhorn" else cost
    far = reach(cost.detach(), solver.eps, solver.power)
    domain = (far > FLOAT32_REACH).long() + (far > FLOAT64_REACH).long()
    if cost.dtype == torch.float64:
        domain.clamp_(min=1)
    parts = []
    for which in sorted(set(domain.tolist())):
        index = (domain == which).nonzero()[:, 0]
        precision = torch.float64 if which else torch.float32
        exponent = cost[index].to(precision) / -solver.eps
        masses = a[index].to(precision), b[index].to(precision)
        problems = LogScalings(exponent, *masses, solver.power) if which == 2 else Scalings(exponent.exp(), *masses, solver.power)
        parts.append((index, *scaled(problems, solver.tolerance, solver.limit)))
    plan, error, iterations = together(parts)
    return plan, error, iterations


def lowered(cost: Tensor, real: Tensor) -> Tensor:
    """Costs less their row's lowest: the same plans where marginals are kept, and a kernel with a 1 in every row."""
    lowest = cost.detach().masked_fill(~real, torch.inf).amin(2, keepdim=True)
    return torch.where(real, cost - lowest, 0.0)


def reach(cost: Tensor, eps: float, power: float) -> Tensor:
    """Bound R (B,) on |log u|, |log v| and |log K| in all iterations: with S = max C / eps, 2 S, or 3 S where power < 1.

    cost is non-negative, so log K is in [-S, 0] and a half step gives logarithms that span at most S. A half step is monotone and
    homogeneous of degree -power, so it never takes two points further apart than they are (largest distance of logarithms).

    Marginals kept: fixed points may be shifted, and one has |log v| <= S / 2, that far from the start, log v = 0, and so from
    every later v: |log v| <= S. Then log u = -log sum_j K_ij b_j v_j is in [-S, 2 S].
    Relaxed: at the fixed point both sides have the plan's mass, sum_i a_i u_i^(-eps / rho) = sum_j b_j v_j^(-eps / rho), so the
    ranges of log u and log v meet; with log u in power * [-max log v, S - min log v], and the same the other way round, both
    are in [-S, 1.5 S]. Start and every later point are within 1.5 S of that: |log u|, |log v| <= 3 S.
    """
    return (2 if power == 1 else 3) * cost.amax((1, 2)) / eps


def scaled(problems: Scalings, tolerance: float, most: int) -> Solved:
    """Iterate; problems that have converged are put aside every few iterations, so that a slow pair does not cost all."""
    left = torch.arange(len(problems.a), device=problems.a.device)
    going = problems
    u, v = problems.start()
    parts = []
    for iteration in range(most + 1):
        sums = going.row_sums(v)
        if iteration == most or (iteration and iteration % ITERATIONS_A_CHECK == 0):
            error = going.error(u, sums)
            # What is not a number is put aside as well: more iterations will not mend it.
            more = (error > tolerance) & (iteration < most)
            if not bool(more.all()):
                done, rest = (~more).nonzero()[:, 0], more.nonzero()[:, 0]
                parts.append((left[done], u[done], v[done], error[done], torch.full_like(left[done], iteration)))
                if not len(rest):
                    break
                going, left, sums = going.take(rest), left[rest], sums[rest]
        u = going.answer(sums)
        v = going.answer(going.column_sums(u))
    u, v, error, iterations = together(parts)
    return problems.plan(u, v), error, iterations


def together(parts: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Join parts of a batch, each (places in the batch, values, ...), to values in the batch's order."""
    if len(parts) == 1:
        return list(parts[0][1:])
    places, *columns = (torch.cat(column) for column in zip(*parts, strict=True))
    order = places.argsort()
    return [column[order] for column in columns]


def proximal(cost: Tensor, real: Tensor, a: Tensor, b: Tensor, solver: Solver) -> Solved:
    """Plan, error and iterations by IPOT with one inner step, all problems for all iterations as in UC2's `model/ot.py`.

    A = exp(-C / beta), T = 1, sigma = 1 / m; each iteration: Q = A * T, delta = a / (Q sigma), sigma = b / (Q' delta),
    T = diag(delta) Q diag(sigma).
    """
    check_finite(cost, solver)
    cost = lowered(cost, real)
    if bool((reach(cost.detach(), solver.beta, 1) > FLOAT32_REACH).any()):
        raise ValueError(f"beta {solver.beta} is too small for costs that differ by {float(cost.max()):.3g}")
    kernel = torch.exp(-cost / solver.beta) * real
    rows_gap, columns_gap = (a == 0).to(cost.dtype), (b == 0).to(cost.dtype)
    sigma = (b > 0).to(cost.dtype) / (b > 0).sum(1, keepdim=True)
    plan = real.to(cost.dtype)
    for _ in range(solver.limit):
        plan = kernel * plan
        # The gap makes padding 0 / 1, never 0 / 0.
        delta = a / ((plan * sigma[:, None, :]).sum(2) + rows_gap)
        sigma = b / ((plan * delta[:, :, None]).sum(1) + columns_gap)
        plan = delta[:, :, None] * plan * sigma[:, None, :]
    iterations = torch.full((len(cost),), solver.limit, device=cost.device)
    return plan, (plan.sum(2) - a).abs().sum(1), iterations


def exact(cost: Tensor, _: Tensor, a: Tensor, b: Tensor, solver: Solver) -> Solved:
    """Plan, error and 0 iterations by POT's network simplex in float64."""
    import ot

    check_finite(cost, solver)
    plan = torch.zeros(cost.shape, dtype=torch.float64)
    costs, masses_a, masses_b = (part.detach().double().cpu().numpy() for part in (cost, a, b))
    for index in range(len(costs)):
        rows, columns = masses_a[index].nonzero()[0], masses_b[index].nonzero()[0]
        mass_a, mass_b = masses_a[index, rows], masses_b[index, columns]
        part = ot.emd(mass_a / mass_a.sum(), mass_b / mass_b.sum(), costs[index][rows][:, columns], numItermax=10_000_000)
        plan[index, rows[:, None], columns] = torch.from_numpy(part)
    plan = plan.to(cost.device)
    return plan, (plan.sum(2) - a).abs().sum(1), torch.zeros(len(costs), dtype=torch.long, device=cost.device)


def check_finite(cost: Tensor, solver: Solver) -> None:
    """Raise ValueError for an infinite cost, where the method cannot forbid a pair."""
    if bool(cost.isinf().any()):
        first = int(cost.isinf().any(2).any(1).nonzero()[0, 0])
        raise ValueError(f"problem {first} has an infinite cost, and {solver.method} cannot forbid a pair: expected finite costs")


METHODS: dict[Method, Callable[[Tensor, Tensor, Tensor, Tensor, Solver], Solved]] = {
    "sinkhorn": entropic,
    "unbalanced": entropic,
    "ipot": proximal,
    "exact": exact,
}
