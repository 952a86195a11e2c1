"""Token transport compiled for the CPU by numba.

The functions compute what `tokens.cosine_transport` and `tokens.cosine_transport_gradient` compute for a padded batch. Each pair
is solved on its own, on its real tokens, while it fits the cache. Neither the rest of the batch, nor padding, nor the number of
threads changes a pair's result.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from harness.runtime.numba_threads import Array, jit, parallel_for

FourWeights: TypeAlias = tuple[Any, Any, Any, Any]

LANES = 16  # the most float32 values in a vector register
PAIRS_A_TURN = 16


def cosine_transport(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, terms: tuple[float, float, float, int, int, float]
) -> tuple[Tensor, ...]:
    """Return plan, value, error, iterations, scales and lengths of both sides, as `tokens.cosine_transport`, in float32.

    terms: eps, power, tolerance, the most iterations, iterations between checks, and FLOAT32_REACH.
    """
    (count, n, _), m = x.shape, y.shape[1]
    plan, value, error, iterations = torch.empty(count, n, m), torch.zeros(count), torch.zeros(count), torch.zeros(count).long()
    scales_x, lengths_x, scales_y, lengths_y = (torch.zeros(count, size) for size in (n, n, m, m))
    out = plan, value, error, iterations, scales_x, scales_y, lengths_x, lengths_y
    inputs, outputs = arrays(x, y, a, b), arrays(*out)
    parallel_for(lambda first, last: cosine_transport_range(first, last, inputs, terms, outputs), count, PAIRS_A_TURN)
    return out


def cosine_transport_gradient(
    plan: Tensor, outer: Tensor, scales: tuple[Tensor, Tensor], y: Tensor, lengths: Tensor, x: Tensor
) -> Tensor:
    """Return the gradient (B, n, d), as `tokens.cosine_transport_gradient`, in float32."""
    out = torch.empty(x.shape)
    given = arrays(plan, outer, *scales, y, lengths, x, out)
    parallel_for(lambda first, last: gradient_range(first, last, *given), len(x), PAIRS_A_TURN)
    return out


def arrays(*tensors: Tensor) -> tuple[Array, ...]:
    """Return tensors as contiguous numpy arrays."""
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


@jit
def cosine_transport_range(
    first: int,
    last: int,
    inputs: tuple[Array, ...],
    terms: tuple[float, float, float, int, int, float],
    outputs: tuple[Array, ...],
) -> None:
    """Solve the pairs from first to last."""
    x, y, a, b = inputs
    eps, power, tolerance, most, every, reach = terms
    plan, value, error, iterations, scales_x, scales_y, lengths_x, lengths_y = outputs
    for pair in range(first, last):
        rows, columns = np.flatnonzero(a[pair]), np.flatnonzero(b[pair])
        of_x, of_y = inverse_norms(x[pair], rows), inverse_norms(y[pair], columns)
        cosines = products(x[pair], y[pair], rows, columns)
        cosines *= of_x.reshape(-1, 1) * of_y
        low, span = subtract_row_minimum(1 - cosines, power)
        if span <= reach * eps:
            kernel = np.exp(low / np.float32(-eps))
            solved, error[pair], iterations[pair] = iterate_scalings(
                kernel, a[pair][rows], b[pair][columns], power, tolerance, most, every
            )
        else:
            wide = np.exp(low / np.float64(-eps))
            masses = a[pair][rows].astype(np.float64), b[pair][columns].astype(np.float64)
            best, error[pair], iterations[pair] = iterate_scalings(wide, *masses, power, tolerance, most, every)
            solved = best.astype(np.float32)
        plan[pair] = 0
        cost, to_y = np.float32(0), np.zeros(len(columns), np.float32)
        for i, row in enumerate(rows):
            to_x = np.float32(0)
            for j in range(len(columns)):
                mass_cosine = solved[i, j] * cosines[i, j]
                cost += solved[i, j] * (1 - cosines[i, j])
                to_x += mass_cosine
                to_y[j] += mass_cosine
            for j, column in enumerate(columns):
                plan[pair, row, column] = solved[i, j]
            scales_x[pair, row], lengths_x[pair, row] = of_x[i], to_x * of_x[i] ** 2
        for j, column in enumerate(columns):
            scales_y[pair, column], lengths_y[pair, column] = of_y[j], to_y[j] * of_y[j] ** 2
        value[pair] = cost


@jit
def inverse_norms(x: Array, rows: Array) -> Array:
    """Return `tokens.inverse_norms` of the given rows."""
    out = np.zeros(len(rows), np.float32)
    for i, place in enumerate(rows):
        row, total = x[place], np.float32(0)
        for k in range(len(row)):
            total += row[k] * row[k]
        norm = math.sqrt(total)
        if norm > 1e-12:
            out[i] = 1 / norm
    return out


@jit
def products(x: Array, y: Array, rows: Array, columns: Array) -> Array:
    """Return the dot products of the given rows of x and y.

    Blocks of four by four read each state a quarter as often. Where fewer than four rows remain, the last row is repeated, and
    its products are written more than once.
    """
    n, m = len(rows), len(columns)
    out = np.empty((n, m), np.float32)
    for i in range(0, n, 4):
        i1, i2, i3 = min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
        x0, x1, x2, x3 = x[rows[i]], x[rows[i1]], x[rows[i2]], x[rows[i3]]
        for j in range(0, m, 4):
            j1, j2, j3 = min(j + 1, m - 1), min(j + 2, m - 1), min(j + 3, m - 1)
            y0, y1, y2, y3 = y[columns[j]], y[columns[j1]], y[columns[j2]], y[columns[j3]]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = np.float32(0)
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = np.float32(0)
            for k in range(x.shape[1]):
                a0, a1, a2, a3, b0, b1, b2, b3 = x0[k], x1[k], x2[k], x3[k], y0[k], y1[k], y2[k], y3[k]
                s00, s01, s02, s03 = s00 + a0 * b0, s01 + a0 * b1, s02 + a0 * b2, s03 + a0 * b3
                s10, s11, s12, s13 = s10 + a1 * b0, s11 + a1 * b1, s12 + a1 * b2, s13 + a1 * b3
                s20, s21, s22, s23 = s20 + a2 * b0, s21 + a2 * b1, s22 + a2 * b2, s23 + a2 * b3
                s30, s31, s32, s33 = s30 + a3 * b0, s31 + a3 * b1, s32 + a3 * b2, s33 + a3 * b3
            out[i, j], out[i, j1], out[i, j2], out[i, j3] = s00, s01, s02, s03
            out[i1, j], out[i1, j1], out[i1, j2], out[i1, j3] = s10, s11, s12, s13
            out[i2, j], out[i2, j1], out[i2, j2], out[i2, j3] = s20, s21, s22, s23
            out[i3, j], out[i3, j1], out[i3, j2], out[i3, j3] = s30, s31, s32, s33
    return out


@jit
def subtract_row_minimum(cost: Array, power: float) -> tuple[Array, float]:
    """Return `solvers.subtract_row_minimum` of hard-marginal problems (else the costs), and `solvers.reach` times eps."""
    if power < 1:
        return cost, 3 * cost.max()
    low = cost.copy()
    for i in range(len(low)):
        low[i] -= cost[i].min()
    return low, 2 * low.max()


@jit
def iterate_scalings(
    kernel: Array, a: Array, b: Array, power: float, tolerance: float, most: int, every: int
) -> tuple[Array, float, int]:
    """Return plan, error and iterations of one pair, as `solvers.iterate_scalings`.

    Both sums run along the rows of matrices whose width is a multiple of LANES, so that every loop is vectorised throughout.
    """
    n, m = kernel.shape
    across, down = pad_to_lanes(kernel), pad_to_lanes(kernel.T)
    au, bv = np.zeros_like(down[0]), np.zeros_like(across[0])
    au[:n], bv[:m] = a, b
    u, v = np.empty_like(a), np.empty_like(b)
    error, iteration = 0.0, 0
    while True:
        weighted_row_sums(across, bv, u)
        if iteration == most or (iteration and iteration % every == 0):
            error = 0.0
            for i in range(n):
                target = a[i] if power == 1 else a[i] * (au[i] / a[i]) ** (1 - 1 / power)
                error += abs(au[i] * u[i] - target)
            # NaN ends the loop as well, since more iterations cannot mend it.
            if iteration == most or not error > tolerance:
                break
        scaled_masses(a, u, power, au)
        weighted_row_sums(down, au, v)
        scaled_masses(b, v, power, bv)
        iteration += 1
    for i in range(n):
        for j in range(m):
            kernel[i, j] *= au[i] * bv[j]
    return kernel, error, iteration


@jit
def pad_to_lanes(kernel: Array) -> Array:
    """Pad the rows of a matrix with zeros to a multiple of LANES."""
    n, m = kernel.shape
    out = np.zeros((n, -(-m // LANES) * LANES), kernel.dtype)
    for i in range(n):
        for j in range(m):
            out[i, j] = kernel[i, j]
    return out


@jit
def weighted_row_sums(matrix: Array, weights: Array, out: Array) -> None:
    """Write out_i = sum_j w_j M_ij."""
    for i in range(len(out)):
        row, total = matrix[i], matrix.dtype.type(0)
        for j in range(len(row)):
            total += weights[j] * row[j]
        out[i] = total


@jit
def scaled_masses(masses: Array, sums: Array, power: float, out: Array) -> None:
    """Write out = a u, with the scaling u of `Scalings.optimal_scaling`."""
    for i in range(len(masses)):
        out[i] = masses[i] / sums[i] if power == 1 else masses[i] * sums[i] ** -power


@jit
def gradient_range(
    first: int,
    last: int,
    plan: Array,
    outer: Array,
    scales_x: Array,
    scales_y: Array,
    y: Array,
    lengths: Array,
    x: Array,
    out: Array,
) -> None:
    """Compute the gradient of the pairs from first to last, two states of x and four of y at a time."""
    for pair in range(first, last):
        mine, theirs, (n, m) = out[pair], y[pair], plan[pair].shape
        for i in range(n):
            row, own, length = mine[i], x[pair, i], outer[pair] * lengths[pair, i]
            # Padding has length 0 and is not read.
            if length == 0:
                row[:] = 0
            else:
                for k in range(len(row)):
                    row[k] = length * own[k]
        for j in range(0, m, 4):
            states = theirs[j], theirs[min(j + 1, m - 1)], theirs[min(j + 2, m - 1)], theirs[min(j + 3, m - 1)]
            for i in range(0, n, 2):
                other = min(i + 1, n - 1)
                one = four_weights(plan[pair, i], scales_y[pair], -outer[pair] * scales_x[pair, i], j)
                two = four_weights(plan[pair, other], scales_y[pair], -outer[pair] * scales_x[pair, other] * (other > i), j)
                # Padding has no weight.
                if any_nonzero(one) or any_nonzero(two):
                    add_weighted_states(one, two, states, mine[i], mine[other])


@jit
def four_weights(row: Array, scales: Array, scale: float, j: int) -> FourWeights:
    """Return four weights of a row of the plan from position j on, zero beyond its end."""
    m, none = len(row), np.float32(0)
    return (
        row[j] * scales[j] * scale,
        row[j + 1] * scales[j + 1] * scale if j + 1 < m else none,
        row[j + 2] * scales[j + 2] * scale if j + 2 < m else none,
        row[j + 3] * scales[j + 3] * scale if j + 3 < m else none,
    )


@jit
def any_nonzero(weights: FourWeights) -> bool:
    """Return whether one of the weights is not 0."""
    a, b, c, d = weights
    return bool(a != 0 or b != 0 or c != 0 or d != 0)


@jit
def add_weighted_states(
    one: FourWeights, two: FourWeights, states: tuple[Array, Array, Array, Array], row: Array, other: Array
) -> None:
    """Add sum_j one_j states_j to row, and sum_j two_j states_j to other."""
    a0, a1, a2, a3 = one
    b0, b1, b2, b3 = two
    y0, y1, y2, y3 = states
    for k in range(len(row)):
        row[k] += a0 * y0[k] + a1 * y1[k] + a2 * y2[k] + a3 * y3[k]
        other[k] += b0 * y0[k] + b1 * y1[k] + b2 * y2[k] + b3 * y3[k]
