"""Optimal transport between the token states of sentence pairs, with its gradient.

The fast way to a loss: compiled for a processor or a GPU where that serves, the padded way otherwise.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from harness.core.error_messages import first_line
from harness.distill.transport.problem import (
    FLOAT32_REACH,
    FLOAT64_REACH,
    ITERATIONS_A_CHECK,
    LEAST_SCALE,
    Solver,
    Transport,
    check_shapes,
    cosine_cost,
    extent,
    farthest,
    in_float,
    marginals,
    power_of_two,
    uncropped,
)
from harness.distill.transport.solvers import judged, solve_cropped


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
    """The way compiled for a processor, `harness.distill.transport.cpu_kernels`, where numba is installed."""
    return import_module("harness.distill.transport.cpu_kernels") if find_spec("numba") else None


@cache
def gpu_kernels() -> ModuleType | None:
    """The way compiled for a GPU, `harness.distill.transport.gpu_kernels`, where Triton is installed and works.

    Triton asks for a C compiler and Python's headers, of which it says nothing before it has something to compile.
    """
    if not find_spec("triton"):
        return None
    module = import_module("harness.distill.transport.gpu_kernels")
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
