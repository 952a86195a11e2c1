"""Solvers of batches of small transport problems of different sizes: Sinkhorn, unbalanced, IPOT, exact."""

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
    at_least_float32,
    check_shapes,
    marginals,
    occupied_length,
    restore_padding,
)


def solve(cost: Tensor, rows: Tensor, columns: Tensor, solver: Solver | None = None) -> Transport:
    """Solve B transport problems of cost (B, n, m).

    rows (B, n) and columns (B, m) are masks or weights. The real tokens of a mask share the mass of 1 evenly, those of weights in
    proportion. A token without weight is padding: its plan is exactly zero, whatever its cost. An infinite cost forbids its pair:
    the plan is zero there. A problem that needs a forbidden pair does not converge.

    Raises ValueError for an empty batch, for weights of the wrong shape, for a problem whose weights have a negative entry, a sum
    of zero or a sum that overflows, and for an infinite cost with `ipot` or `exact`.

    Only `value` has a gradient. By default the plan is constant: the gradient of <P, C> is P. By the envelope theorem this is the
    gradient of the full minimum in `Solver` (<P, C> plus its penalties), not of <P(C), C>. With `unrolled` the gradient flows
    through all iterations, the plan has one too, and it is that of <P(C), C>. The two differ by about 20 % at eps 0.1 and 0.05
    (cosine 0.98). Unrolling takes several times the time and memory.

    Each problem is iterated until it converges, independently of the others. It is solved by plain scalings in float32 where the
    bound of `reach` proves that they fit, else in float64, else by log-domain potentials in float64.

    >>> real = torch.ones(1, 2, dtype=torch.bool)
    >>> solve(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), real, real).plan.round(decimals=3).tolist()
    [[[0.5, 0.0], [0.0, 0.5]]]
    """
    with torch.autocast(cost.device.type, enabled=False):
        cost = at_least_float32(cost)
        check_shapes(cost.shape, rows, columns)
        a, b = marginals(rows, cost.dtype), marginals(columns, cost.dtype)
        n, m = occupied_length(a), occupied_length(b)
        solved = solve_cropped(cost[:, :n, :m], a[:, :n], b[:, :m], solver or Solver())
        return restore_padding(solved, cost.shape[1] - n, cost.shape[2] - m)


def solve_cropped(cost: Tensor, a: Tensor, b: Tensor, solver: Solver) -> Transport:
    """Solve problems whose every position has mass in some problem; see `solve`."""
    real = (a > 0)[:, :, None] & (b > 0)[:, None, :]
    cost = torch.where(real, cost, 0.0)
    with torch.set_grad_enabled(solver.unrolled and torch.is_grad_enabled()):
        plan, error, iterations = METHODS[solver.method](cost, real, a, b, solver)
    plan = plan.to(cost.dtype)
    # A forbidden pair has an infinite cost and no mass.
    costs = plan * cost.where((plan != 0) | cost.isfinite(), 0.0)
    return check_convergence(plan, costs.sum((1, 2)), error.detach().to(cost.dtype), iterations, solver, a, b)


def check_convergence(
    plan: Tensor, value: Tensor, error: Tensor, iterations: Tensor, solver: Solver, rows: Tensor, columns: Tensor
) -> Transport:
    """Return the solved problems, with a `NotConverged` warning if some have not converged.

    rows, columns: the weights of both sides. Raises ValueError, as `marginals`, if invalid weights are the cause.
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
    """Problems with kernels K = exp(-C / eps) (B, n, m), whose plans are P_ij = a_i u_i K_ij v_j b_j.

    Padding has a kernel of 1 and a mass of 0. It adds 0 to every sum, and its own scaling is finite.
    """

    kernel: Tensor
    a: Tensor
    b: Tensor
    power: float

    def start(self) -> tuple[Tensor, Tensor]:
        """Return scalings of 1."""
        return torch.ones_like(self.a), torch.ones_like(self.b)

    def row_sums(self, v: Tensor) -> Tensor:
        """Return sum_j K_ij b_j v_j."""
        return (self.kernel * (self.b * v)[:, None, :]).sum(2)

    def column_sums(self, u: Tensor) -> Tensor:
        """Return sum_i K_ij a_i u_i."""
        return (self.kernel * (self.a * u)[:, :, None]).sum(1)

    def optimal_scaling(self, sums: Tensor) -> Tensor:
        """Return the optimal scaling of a side, given its row or column sums."""
        return sums.reciprocal() if self.power == 1 else sums.pow(-self.power)

    def error(self, u: Tensor, sums: Tensor) -> Tensor:
        """Return the L1 distance of the row sums a_i u_i sums_i from a hard marginal, or from a_i u_i^(-eps / rho)."""
        return (self.a * (u * sums - u.pow(1 - 1 / self.power))).abs().sum(1)

    def plan(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the plan."""
        return (self.a * u)[:, :, None] * self.kernel * (self.b * v)[:, None, :]

    def take(self, which: Tensor) -> Scalings:
        """Return some of the problems."""
        return type(self)(self.kernel[which], self.a[which], self.b[which], self.power)


class LogScalings(Scalings):
    """`Scalings` with logarithms of kernel, scalings and sums, for an eps so small that they overflow."""

    def start(self) -> tuple[Tensor, Tensor]:
        """Return logarithms of 1."""
        return torch.zeros_like(self.a), torch.zeros_like(self.b)

    def row_sums(self, v: Tensor) -> Tensor:
        """Return log sum_j K_ij b_j v_j."""
        return (self.kernel + (self.b.log() + v)[:, None, :]).logsumexp(2)

    def column_sums(self, u: Tensor) -> Tensor:
        """Return log sum_i K_ij a_i u_i."""
        return (self.kernel + (self.a.log() + u)[:, :, None]).logsumexp(1)

    def optimal_scaling(self, sums: Tensor) -> Tensor:
        """Return the logarithm of the optimal scaling."""
        return -self.power * sums

    def error(self, u: Tensor, sums: Tensor) -> Tensor:
        """Return the same distance from the logarithms."""
        return (self.a * ((u + sums).exp() - (u * (1 - 1 / self.power)).exp())).abs().sum(1)

    def plan(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the plan, not its logarithm."""
        return self.a[:, :, None] * (u[:, :, None] + self.kernel + v[:, None, :]).exp() * self.b[:, None, :]


Solved: TypeAlias = tuple[Tensor, Tensor, Tensor]


def solve_entropic(cost: Tensor, real: Tensor, a: Tensor, b: Tensor, solver: Solver) -> Solved:
    """Return plan, error and iterations by scaling, each problem in the cheapest domain that is safe for it."""
    cost = subtract_row_minimum(cost, real) if solver.method == "sinkhorn" else cost
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
        parts.append((index, *iterate_scalings(problems, solver.tolerance, solver.limit)))
    plan, error, iterations = join_parts(parts)
    return plan, error, iterations


def subtract_row_minimum(cost: Tensor, real: Tensor) -> Tensor:
    """Subtract from costs their row's minimum. With hard marginals the plans stay, and every row of the kernel has a 1."""
    lowest = cost.detach().masked_fill(~real, torch.inf).amin(2, keepdim=True)
    return torch.where(real, cost - lowest, 0.0)


def reach(cost: Tensor, eps: float, power: float) -> Tensor:
    """Return a bound R (B,) on |log u|, |log v| and |log K| in all iterations.

    With S = max C / eps, R is 2 S for hard marginals and 3 S for relaxed ones (power < 1). cost is non-negative, so log K is in
    [-S, 0], and a half step gives logarithms that span at most S. A half step is monotone and homogeneous of degree -power, so it
    never increases the largest distance between the logarithms of two points.

    Hard marginals: fixed points may be shifted, and one has |log v| <= S / 2. It is no further than that from the initial
    log v = 0, and therefore from every later v: |log v| <= S. Then log u = -log sum_j K_ij b_j v_j is in [-S, 2 S].
    Relaxed marginals: at the fixed point both sides have the plan's mass,
    sum_i a_i u_i^(-eps / rho) = sum_j b_j v_j^(-eps / rho), so the ranges of log u and log v intersect. With log u in
    power * [-max log v, S - min log v], and vice versa, both are in [-S, 1.5 S]. The initial and every later point are within
    1.5 S of the fixed point: |log u|, |log v| <= 3 S.
    """
    return (2 if power == 1 else 3) * cost.amax((1, 2)) / eps


def iterate_scalings(problems: Scalings, tolerance: float, most: int) -> Solved:
    """Iterate, and every few iterations drop the problems that have converged, so that one slow pair does not slow down all."""
    left = torch.arange(len(problems.a), device=problems.a.device)
    going = problems
    u, v = problems.start()
    parts = []
    for iteration in range(most + 1):
        sums = going.row_sums(v)
        if iteration == most or (iteration and iteration % ITERATIONS_A_CHECK == 0):
            error = going.error(u, sums)
            # NaN is dropped as well, since more iterations cannot mend it.
            more = (error > tolerance) & (iteration < most)
            if not bool(more.all()):
                done, rest = (~more).nonzero()[:, 0], more.nonzero()[:, 0]
                parts.append((left[done], u[done], v[done], error[done], torch.full_like(left[done], iteration)))
                if not len(rest):
                    break
                going, left, sums = going.take(rest), left[rest], sums[rest]
        u = going.optimal_scaling(sums)
        v = going.optimal_scaling(going.column_sums(u))
    u, v, error, iterations = join_parts(parts)
    return problems.plan(u, v), error, iterations


def join_parts(parts: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Join parts of a batch, each (positions in the batch, values, ...), to values in the order of the batch."""
    if len(parts) == 1:
        return list(parts[0][1:])
    places, *columns = (torch.cat(column) for column in zip(*parts, strict=True))
    order = places.argsort()
    return [column[order] for column in columns]


def solve_ipot(cost: Tensor, real: Tensor, a: Tensor, b: Tensor, solver: Solver) -> Solved:
    """Return plan, error and iterations by IPOT with one inner step and a fixed number of iterations, as UC2's `model/ot.py`.

    A = exp(-C / beta), T = 1, sigma = 1 / m; each iteration: Q = A * T, delta = a / (Q sigma), sigma = b / (Q' delta),
    T = diag(delta) Q diag(sigma).
    """
    check_finite(cost, solver)
    cost = subtract_row_minimum(cost, real)
    if bool((reach(cost.detach(), solver.beta, 1) > FLOAT32_REACH).any()):
        raise ValueError(f"beta {solver.beta} is too small for costs that differ by {float(cost.max()):.3g}")
    kernel = torch.exp(-cost / solver.beta) * real
    rows_gap, columns_gap = (a == 0).to(cost.dtype), (b == 0).to(cost.dtype)
    sigma = (b > 0).to(cost.dtype) / (b > 0).sum(1, keepdim=True)
    plan = real.to(cost.dtype)
    for _ in range(solver.limit):
        plan = kernel * plan
        # The gap makes padding 0 / 1 instead of 0 / 0.
        delta = a / ((plan * sigma[:, None, :]).sum(2) + rows_gap)
        sigma = b / ((plan * delta[:, :, None]).sum(1) + columns_gap)
        plan = delta[:, :, None] * plan * sigma[:, None, :]
    iterations = torch.full((len(cost),), solver.limit, device=cost.device)
    return plan, (plan.sum(2) - a).abs().sum(1), iterations


def solve_exact(cost: Tensor, _: Tensor, a: Tensor, b: Tensor, solver: Solver) -> Solved:
    """Return plan, error and 0 iterations by POT's network simplex in float64."""
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
    """Raise ValueError for an infinite cost, if the method cannot forbid a pair."""
    if bool(cost.isinf().any()):
        first = int(cost.isinf().any(2).any(1).nonzero()[0, 0])
        raise ValueError(f"problem {first} has an infinite cost, and {solver.method} cannot forbid a pair: expected finite costs")


METHODS: dict[Method, Callable[[Tensor, Tensor, Tensor, Tensor, Solver], Solved]] = {
    "sinkhorn": solve_entropic,
    "unbalanced": solve_entropic,
    "ipot": solve_ipot,
    "exact": solve_exact,
}
