"""Optimal transport between the token states of sentence pairs, with its gradient.

Compiled kernels for CPU and GPU solve the problems that they support. The padded computation of this module solves all others.
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

from harness.core.error_messages import short_message
from harness.distill.transport.problem import (
    FLOAT32_REACH,
    FLOAT64_REACH,
    ITERATIONS_A_CHECK,
    LEAST_SCALE,
    Solver,
    Transport,
    at_least_float32,
    check_shapes,
    cosine_cost,
    cosine_reach,
    marginals,
    occupied_length,
    power_of_two,
    restore_padding,
)
from harness.distill.transport.solvers import check_convergence, solve_cropped


def token_transport(
    x: Tensor, y: Tensor, rows: Tensor, columns: Tensor, solver: Solver | None = None
) -> tuple[Tensor, Transport]:
    """Return <P, C> (B,) of each pair for C_ij = 1 - cos(x_i, y_j), and the solved problems.

    x (B, n, d) and y (B, m, d) are token states, with any finite values on padding. The result is that of `solve` on
    `cosine_cost` (see there for masks, gradients and errors), in less time and memory: forward and backward pass take two matrix
    products, and norms divide the product instead of the states. The gradient at a zero state is zero. The function waits for a
    GPU twice: to check that float32 holds all states, and that all problems have converged.

    >>> states = torch.eye(3)[None]
    >>> value, solved = token_transport(states, states.flip(1), *[torch.ones(1, 3, dtype=torch.bool)] * 2)
    >>> value.round(decimals=3).tolist(), solved.plan[0].round(decimals=2).argmax(1).tolist()
    ([0.0], [2, 1, 0])
    """
    solver = solver or Solver()
    with torch.autocast(x.device.type, enabled=False):
        x, y = at_least_float32(x), at_least_float32(y)
        check_shapes((*x.shape[:2], y.shape[1]), rows, columns)
        if x.device.type == "cuda" and fits_gpu(x, y, solver):
            # Weights are not checked and padding is not cropped, since each would wait for the GPU.
            value, *parts = HeldPlan.apply(x, y, rows.to(x.dtype), columns.to(x.dtype), solver, gpu_kernel_module())
            return value, Transport(*parts)
        a, b = marginals(rows, x.dtype), marginals(columns, x.dtype)
        n, m = occupied_length(a), occupied_length(b)
        rows_left, columns_left = x.shape[1] - n, y.shape[1] - m
        # A slice of all positions is not free: its gradient is copied.
        x, y = (x[:, :n] if rows_left else x), (y[:, :m] if columns_left else y)
        a, b = a[:, :n], b[:, :m]
        if solver.unrolled:
            solved = solve_cropped(cosine_cost(x, y), a, b, solver)
            value = solved.value
        else:
            value, *parts = HeldPlan.apply(x, y, a, b, solver, cpu_kernel_module() if fits_kernels(x, solver) else None)
            solved = Transport(*parts)
        return value, restore_padding(solved, rows_left, columns_left)


class HeldPlan(torch.autograd.Function):
    """`token_transport` with a constant plan: one product X Y' forward, one a side backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, solver: Solver, compiled: ModuleType | None
    ) -> tuple[Tensor, ...]:
        """Return the value, then the fields of Transport."""
        ctx.factors = None
        solved, *sides = run_cosine_transport(compiled, x, y, a, b, solver)
        if out_of_range((x, sides[0], a), (y, sides[1], b)):
            ctx.factors = power_of_two(x), power_of_two(y)
            x, y = x * ctx.factors[0], y * ctx.factors[1]
            solved, *sides = run_cosine_transport(compiled, x, y, a, b, solver)
        ctx.gradient = cosine_transport_gradient if compiled is None else compiled.cosine_transport_gradient
        ctx.save_for_backward(x, y, solved.plan, *sides)
        parts = solved.plan, solved.value.clone(), solved.error, solved.iterations, solved.converged
        ctx.mark_non_differentiable(*parts)
        # Otherwise backward receives zeros for each of these, as large as the plan.
        ctx.set_materialize_grads(False)
        return solved.value, *parts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return sum_j P_ij dC_ij/dx_i with dC_ij/dx_i = (cos_ij x_i/|x_i| - y_j/|y_j|) / |x_i|, and the same for y_j."""
        x, y, plan, scales_x, scales_y, lengths_x, lengths_y = ctx.saved_tensors
        to_x = to_y = None
        with torch.autocast(x.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                to_x = ctx.gradient(plan, gradients[0], (scales_x, scales_y), y, lengths_x, x)
            if ctx.needs_input_grad[1]:
                to_y = ctx.gradient(plan.transpose(1, 2), gradients[0], (scales_y, scales_x), x, lengths_y, y)
            if ctx.factors is not None:
                to_x, to_y = (None if to is None else to * by for to, by in zip((to_x, to_y), ctx.factors, strict=True))
        return to_x, to_y, None, None, None, None


@cache
def cpu_kernel_module() -> ModuleType | None:
    """Return `harness.distill.transport.cpu_kernels`, or None without numba."""
    return import_module("harness.distill.transport.cpu_kernels") if find_spec("numba") else None


@cache
def gpu_kernel_module() -> ModuleType | None:
    """Return `harness.distill.transport.gpu_kernels`, or None where Triton is not installed or cannot compile.

    Triton needs a C compiler and Python's headers, and reports their absence only when it compiles.
    """
    if not find_spec("triton"):
        return None
    module = import_module("harness.distill.transport.gpu_kernels")
    try:
        module.check_compiler()
    except Exception as error:  # of Triton, of the C compiler that it calls, of the driver
        reason = short_message(error)
        warnings.warn(f"token transport is slower than it could be: Triton cannot compile for this GPU ({reason})", stacklevel=2)
        return None
    return module


def fits_kernels(x: Tensor, solver: Solver) -> bool:
    """Return whether the CPU kernels support a problem."""
    return is_compilable(x, solver) and x.device.type == "cpu" and cpu_kernel_module() is not None


def fits_gpu(x: Tensor, y: Tensor, solver: Solver) -> bool:
    """Return whether the GPU kernels support a problem: texts must be short enough for one program."""
    compiled = gpu_kernel_module() if is_compilable(x, solver) and not solver.unrolled else None
    return compiled is not None and max(x.shape[1], y.shape[1]) <= compiled.longest_text(x.device)


def is_compilable(x: Tensor, solver: Solver) -> bool:
    """Return whether states are float32, and float64 holds the scalings whatever the costs."""
    return (
        x.dtype == torch.float32
        and solver.method in {"sinkhorn", "unbalanced"}
        and cosine_reach(solver.eps, solver.power) <= FLOAT64_REACH
    )


def run_cosine_transport(
    compiled: ModuleType | None, x: Tensor, y: Tensor, a: Tensor, b: Tensor, solver: Solver
) -> tuple[Transport, Tensor, Tensor, Tensor, Tensor]:
    """Call `cosine_transport`, of a compiled module if there is one."""
    if compiled is None:
        return cosine_transport(x, y, a, b, solver)
    terms = solver.eps, solver.power, solver.tolerance, solver.limit, ITERATIONS_A_CHECK, FLOAT32_REACH
    plan, value, error, iterations, *sides = compiled.cosine_transport(x, y, a, b, terms)
    return check_convergence(plan, value, error, iterations, solver, a, b), *sides


def cosine_transport(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, solver: Solver
) -> tuple[Transport, Tensor, Tensor, Tensor, Tensor]:
    """Return the transport between x (B, n, d) and y (B, m, d), and the factors of its gradient.

    The factors are scales 1 / |x_i| (B, n) and 1 / |y_j| (B, m), and lengths sum_j P_ij cos_ij / |x_i|^2 (B, n), by which the
    gradient moves x_i along itself, and those of y (B, m).
    """
    scales_x, scales_y = inverse_norms(x), inverse_norms(y)
    cosines = torch.bmm(x, y.transpose(1, 2)).mul_(scales_x[:, :, None]).mul_(scales_y[:, None, :])
    solved = solve_cropped(1 - cosines, a, b, solver)
    agreement = solved.plan * cosines
    return solved, scales_x, scales_y, agreement.sum(2) * scales_x.square(), agreement.sum(1) * scales_y.square()


def cosine_transport_gradient(
    plan: Tensor, outer: Tensor, scales: tuple[Tensor, Tensor], y: Tensor, lengths: Tensor, x: Tensor
) -> Tensor:
    """Return the gradient (B, n, d) for x of outer (B,) times the values: outer (l_i x_i - s_i sum_j P_ij s'_j y_j).

    scales: s (B, n) and s' (B, m), lengths: l (B, n), as returned by `cosine_transport`.
    """
    weights = plan * (-outer[:, None] * scales[0])[:, :, None] * scales[1][:, None, :]
    return torch.bmm(weights, y).addcmul_(x, (outer[:, None] * lengths)[:, :, None])


def inverse_norms(x: Tensor) -> Tensor:
    """Return 1 / |x_i| for x (B, n, d), and 0 for a zero row, so that its cosines and its gradient are 0."""
    norms = torch.linalg.vector_norm(x, dim=-1)
    return torch.where(norms > 1e-12, norms.reciprocal(), 0.0)


def out_of_range(*sides: tuple[Tensor, Tensor, Tensor]) -> bool:
    """Return whether float32 overflows or underflows for the square of a state with mass. sides: states, scales, masses."""
    suspects = [(scales < LEAST_SCALE) & (masses > 0) for _, scales, masses in sides]
    if not bool(torch.cat([each.flatten() for each in suspects]).any()):
        return False
    # A zero state has a scale of zero.
    return any(bool(states[each].any()) for (states, _, _), each in zip(sides, suspects, strict=True))
