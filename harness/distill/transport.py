"""Optimal transport between the tokens of sentence pairs: many small ragged problems, solved at once.

`solve` takes costs, `token_transport` takes token states and is the faster way to a loss. Both work in float32, under autocast
too, on whatever device their input is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from harness.config import first_line

Method: TypeAlias = Literal["sinkhorn", "ipot", "unbalanced", "exact"]

ITERATIONS_A_CHECK = 8
IPOT_ITERATIONS = 50
# A state at most as long as the inverse of this has a square that float32 holds, and so have its products.
LEAST_SCALE = 1e-18
# A scaling is at most exp(this) in the plain domain: one that float32 (88.7) and float64 (709.7) can still hold.
FLOAT32_REACH, FLOAT64_REACH = 85.0, 700.0


@dataclass(frozen=True)
class Solver:
    """How a problem is solved. `a`, `b`: its marginals; P >= 0 its plan, P1 and P'1 the plan's row and column sums.

    - `sinkhorn`: min <P, C> + eps KL(P | a b'), P1 = a, P'1 = b (Cuturi, arXiv 1306.0895).
    - `unbalanced`: min <P, C> + eps KL(P | a b') + rho KL(P1 | a) + rho KL(P'1 | b) for C >= 0 (Chizat et al., arXiv 1607.05816):
      mass that is dear to carry is left where it is, so the plan's mass is less than 1.
    - `ipot`: `most` proximal steps of weight beta towards min <P, C> (Xie et al., arXiv 1802.04307), 50 as in the code of UNITER
      and UC2.
    - `exact`: min <P, C>, P1 = a, P'1 = b, by POT's network simplex, a problem at a time on the CPU: the reference.

    Iterates each problem until its marginal error is within `tolerance`, but no more than `most` times: `NotConverged` warns of
    those that it left.
    unrolled: let the gradient flow through the iterations; see `solve`.
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
            raise ValueError(f"at most {self.most} iterations solve nothing")
        if self.unrolled and self.method == "exact":
            raise ValueError("the exact solver has no iterations to unroll")

    @property
    def limit(self) -> int:
        """Most iterations."""
        return self.most or (IPOT_ITERATIONS if self.method == "ipot" else 1000)

    @property
    def power(self) -> float:
        """Exponent of each scaling step: 1 where marginals are kept, less where they are relaxed."""
        return self.rho / (self.rho + self.eps) if self.method == "unbalanced" else 1.0


class NotConverged(UserWarning):
    """That many problems are not within the tolerance; their plans are the best there is after the last iteration."""

    def __init__(self, problems: int, solver: Solver) -> None:
        super().__init__(f"{problems} transport problems did not come within {solver.tolerance} in {solver.limit} iterations")
        self.problems = problems


@dataclass(frozen=True)
class Transport:
    """Solved problems.

    plan: (B, n, m), exactly zero on padding. value: (B,), <P, C>. iterations: (B,), 0 for the exact solver.
    error: (B,), L1 distance of the plan's row sums from their marginal; with relaxed marginals, from what the scalings ask of
    them at the optimum, which is the same as rho grows. converged: (B,), whether that is within the tolerance.
    """

    plan: Tensor
    value: Tensor
    error: Tensor
    iterations: Tensor
    converged: Tensor


def cosine_cost(x: Tensor, y: Tensor) -> Tensor:
    """C_ij = 1 - cos(x_i, y_j), in [0, 2], for x (B, n, d) and y (B, m, d). A zero row is at distance 1 of everything.

    Rows of any length that is not zero count alike, those whose square overflows or underflows included.

    >>> cosine_cost(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]])).tolist()
    [[[0.0, 1.0, 2.0]]]
    """
    x, y = (functional.normalize(side * power_of_two(side), dim=-1) for side in (x, y))
    return 1 - x @ y.transpose(1, 2)


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


def token_transport(
    x: Tensor, y: Tensor, rows: Tensor, columns: Tensor, solver: Solver | None = None
) -> tuple[Tensor, Transport]:
    """<P, C> of each pair for C_ij = 1 - cos(x_i, y_j), tokens x (B, n, d) and y (B, m, d), any finite values on padding.

    The same as `solve` on `cosine_cost` (see there for masks, gradients and errors), in less time and memory: two matrix products
    for forward and backward, norms divided out of the product and not of the states. The gradient at a zero state is zero.
    On a GPU it waits for the answer twice, to tell whether float32 holds all states and whether all problems have converged.

    >>> states = torch.eye(3)[None]
    >>> value, solved = token_transport(states, states.flip(1), *[torch.ones(1, 3, dtype=torch.bool)] * 2)
    >>> value.round(decimals=3).tolist(), solved.plan[0].round(decimals=2).argmax(1).tolist()
    ([0.0], [2, 1, 0])
    """
    solver = solver or Solver()
    with torch.autocast(x.device.type, enabled=False):
        x, y = in_float(x), in_float(y)
        check_shapes((*x.shape[:2], y.shape[1]), rows, columns)
        if x.device.type == "cuda" and fits_gpu(x, y, solver):
            # As it stands: to look for wrong weights, or for padding to cut off, would be to wait for the GPU each time.
            value, *parts = HeldPlan.apply(x, y, rows.to(x.dtype), columns.to(x.dtype), solver, gpu_kernels())
            return value, Transport(*parts)
        a, b = marginals(rows, x.dtype), marginals(columns, x.dtype)
        n, m = extent(a), extent(b)
        rows_left, columns_left = x.shape[1] - n, y.shape[1] - m
        # A slice of all places is not free: its gradient is copied.
        x, y = (x[:, :n] if rows_left else x), (y[:, :m] if columns_left else y)
        a, b = a[:, :n], b[:, :m]
        if solver.unrolled:
            solved = solve_cropped(cosine_cost(x, y), a, b, solver)
            value = solved.value
        else:
            value, *parts = HeldPlan.apply(x, y, a, b, solver, kernels() if fits_kernels(x, solver) else None)
            solved = Transport(*parts)
        return value, uncropped(solved, rows_left, columns_left)


def batch_target(similarity: Tensor, eps: float = 0.15, iterations: int = 5) -> Tensor:
    """OTTER's soft target (arXiv 2112.09445) for each row of a batch's similarities (B, B'), in [-1, 1]; each row sums to 1.

    Q = exp(S / eps); `iterations` times: rows of Q to equal mass, then columns; at last each row is divided by its sum. For so
    few iterations the order of the half steps counts: the other side's target is `batch_target(similarity.T)`. An entry of
    -inf is a pair that is excluded. No gradient flows.

    >>> batch_target(torch.tensor([[0.9, 0.6], [0.6, 0.9]]))
    tensor([[0.8808, 0.1192],
            [0.1192, 0.8808]])
    """
    # Similarities span at most 2, so scalings reach exp(4 / eps) once the row maximum is taken out.
    precision = torch.float64 if 4 / eps > FLOAT32_REACH else torch.float32
    with torch.no_grad(), torch.autocast(similarity.device.type, enabled=False):
        scores = similarity.to(precision)
        # One matrix and no other: at 4,096 pairs each new one is 64 MB, which the kernel hands out page by page.
        kernel = (scores - scores.amax(1, keepdim=True)).div_(eps).exp_()
        v = kernel.new_ones(kernel.shape[1])
        for _ in range(iterations):
            u = 1 / (kernel @ v)
            v = 1 / (kernel.T @ u)
        kernel *= v
        return kernel.div_(kernel.sum(1, keepdim=True)).to(in_float(similarity).dtype)


class HeldPlan(torch.autograd.Function):
    """`token_transport` with the plan held: one product X Y' forward, one a side backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, solver: Solver, compiled: ModuleType | None
    ) -> tuple[Tensor, ...]:
        """The value, then the fields of Transport."""
        ctx.factors = None
        solved, *sides = carry_by(compiled, x, y, a, b, solver)
        if out_of_range((x, sides[0], a), (y, sides[1], b)):
            ctx.factors = power_of_two(x), power_of_two(y)
            x, y = x * ctx.factors[0], y * ctx.factors[1]
            solved, *sides = carry_by(compiled, x, y, a, b, solver)
        ctx.way = spread if compiled is None else compiled.spread
        ctx.save_for_backward(x, y, solved.plan, *sides)
        parts = solved.plan, solved.value.clone(), solved.error, solved.iterations, solved.converged
        ctx.mark_non_differentiable(*parts)
        # Or backward is handed zeros for each of these, as large as the plan.
        ctx.set_materialize_grads(False)
        return solved.value, *parts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """dC_ij/dx_i = (cos_ij x_i/|x_i| - y_j/|y_j|) / |x_i|, summed over j with weight P_ij; the same for y_j."""
        x, y, plan, scales_x, scales_y, lengths_x, lengths_y = ctx.saved_tensors
        to_x = to_y = None
        with torch.autocast(x.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                to_x = ctx.way(plan, gradients[0], (scales_x, scales_y), y, lengths_x, x)
            if ctx.needs_input_grad[1]:
                to_y = ctx.way(plan.transpose(1, 2), gradients[0], (scales_y, scales_x), x, lengths_y, y)
            if ctx.factors is not None:
                to_x, to_y = (None if to is None else to * by for to, by in zip((to_x, to_y), ctx.factors, strict=True))
        return to_x, to_y, None, None, None, None


@cache
def kernels() -> ModuleType | None:
    """The way compiled for a processor, `harness.distill.kernels`, where numba is installed."""
    return import_module("harness.distill.kernels") if find_spec("numba") else None


@cache
def gpu_kernels() -> ModuleType | None:
    """The way compiled for a GPU, `harness.distill.gpu_kernels`, where Triton is installed and works.

    Triton asks for a C compiler and Python's headers, of which it says nothing before it has something to compile.
    """
    if not find_spec("triton"):
        return None
    module = import_module("harness.distill.gpu_kernels")
    try:
        module.works()
    except Exception as error:  # of Triton, of the C compiler that it calls, of the driver
        reason = first_line(error)
        warnings.warn(f"token transport is slower than it could be: Triton cannot compile for this GPU ({reason})", stacklevel=2)
        return None
    return module


def fits_kernels(x: Tensor, solver: Solver) -> bool:
    """Whether the way compiled for a processor serves."""
    return plain(x, solver) and x.device.type == "cpu" and kernels() is not None


def fits_gpu(x: Tensor, y: Tensor, solver: Solver) -> bool:
    """Whether the way compiled for a GPU serves states on one: pairs of a length that a program can hold."""
    compiled = gpu_kernels() if plain(x, solver) and not solver.unrolled else None
    return compiled is not None and max(x.shape[1], y.shape[1]) <= compiled.longest(x.device)


def plain(x: Tensor, solver: Solver) -> bool:
    """Whether states are float32, and scalings ones that float64 can hold whatever the costs."""
    return (
        x.dtype == torch.float32
        and solver.method in {"sinkhorn", "unbalanced"}
        and farthest(solver.eps, solver.power) <= FLOAT64_REACH
    )


def farthest(eps: float, power: float) -> float:
    """`reach` for costs of cosines, whatever they are."""
    return (2 if power == 1 else 3) * 2 / eps


def carry_by(
    compiled: ModuleType | None, x: Tensor, y: Tensor, a: Tensor, b: Tensor, solver: Solver
) -> tuple[Transport, Tensor, Tensor, Tensor, Tensor]:
    """`carry`, by a compiled module if there is one."""
    if compiled is None:
        return carry(x, y, a, b, solver)
    terms = solver.eps, solver.power, solver.tolerance, solver.limit, ITERATIONS_A_CHECK, FLOAT32_REACH
    plan, value, error, iterations, *sides = compiled.carry(x, y, a, b, terms)
    return judged(plan, value, error, iterations, solver, a, b), *sides


def carry(x: Tensor, y: Tensor, a: Tensor, b: Tensor, solver: Solver) -> tuple[Transport, Tensor, Tensor, Tensor, Tensor]:
    """The transport between x (B, n, d) and y (B, m, d), and, for each side, what its gradient is made of.

    scales (B, n), 1 / |x_i|, then (B, m) of y; lengths (B, n), sum_j P_ij cos_ij / |x_i|^2: what the length of x_i has to do with
    the cost; then (B, m) of y.
    """
    scales_x, scales_y = inverse_norms(x), inverse_norms(y)
    cosines = torch.bmm(x, y.transpose(1, 2)).mul_(scales_x[:, :, None]).mul_(scales_y[:, None, :])
    solved = solve_cropped(1 - cosines, a, b, solver)
    agreement = solved.plan * cosines
    return solved, scales_x, scales_y, agreement.sum(2) * scales_x.square(), agreement.sum(1) * scales_y.square()


def spread(plan: Tensor, outer: Tensor, scales: tuple[Tensor, Tensor], y: Tensor, lengths: Tensor, x: Tensor) -> Tensor:
    """The gradient (B, n, d) for x of outer (B,) times the values: outer (l_i x_i - s_i sum_j P_ij s'_j y_j).

    scales: s (B, n) and s' (B, m), and lengths: l (B, n), as of `carry`.
    """
    weights = plan * (-outer[:, None] * scales[0])[:, :, None] * scales[1][:, None, :]
    return torch.bmm(weights, y).addcmul_(x, (outer[:, None] * lengths)[:, :, None])


def inverse_norms(x: Tensor) -> Tensor:
    """1 / |x_i| for x (B, n, d), and 0 for a zero row, so that its cosines and its gradient are 0."""
    norms = torch.linalg.vector_norm(x, dim=-1)
    return torch.where(norms > 1e-12, norms.reciprocal(), 0.0)


def out_of_range(*sides: tuple[Tensor, Tensor, Tensor]) -> bool:
    """Whether float32 does not hold the square of some state that has mass. sides: states, their scales, their masses."""
    suspects = [(scales < LEAST_SCALE) & (masses > 0) for _, scales, masses in sides]
    if not bool(torch.cat([each.flatten() for each in suspects]).any()):
        return False
    # A scale of zero is right for a state of zeros.
    return any(bool(states[each].any()) for (states, _, _), each in zip(sides, suspects, strict=True))


def power_of_two(x: Tensor) -> Tensor:
    """Factors (B, n, 1) that bring the largest entry of each state to [0.5, 1) without rounding; 1 for zeros and non-numbers."""
    largest = x.detach().abs().amax(-1, keepdim=True)
    # An exponent past 126 has no inverse that is a normal float32.
    exponent = torch.frexp(largest).exponent.clamp(-126, 126)
    return torch.ldexp(torch.ones_like(largest), torch.where(largest.isfinite(), -exponent, 0))


def in_float(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
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
    """Masses (B, n) that sum to 1, in proportion to weights; those of a mask are all 1."""
    weights = given.to(dtype)
    total = weights.sum(1, keepdim=True)
    right = (total > 0) & total.isfinite() & (weights >= 0).all(1, keepdim=True)
    if not bool(right.all()):
        first = int((~right).nonzero()[0, 0])
        raise ValueError(f"problem {first} has no token, a weight that is negative, or weights whose sum is not finite")
    return weights / total


def extent(masses: Tensor) -> int:
    """Places up to the last that has mass in any problem."""
    return int((masses > 0).any(0).nonzero()[-1]) + 1


def uncropped(solved: Transport, rows: int, columns: int) -> Transport:
    """The plan with as many empty rows and columns at its end."""
    if not rows and not columns:
        return solved
    plan = functional.pad(solved.plan, (0, columns, 0, rows))
    return Transport(plan, solved.value, solved.error, solved.iterations, solved.converged)


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
