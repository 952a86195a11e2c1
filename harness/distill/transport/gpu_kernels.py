"""Token transport compiled for a GPU by Triton.

The functions compute what `tokens.cosine_transport` and `tokens.cosine_transport_gradient` compute for a padded batch, in one
launch each. The padded computation launches hundreds of small steps, which bound a GPU. One program solves each pair, and keeps
its costs and scalings in registers throughout. The rest of the batch changes a pair's result by rounding alone, since sums run
over as many positions as the longest pair has.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.distill.transport.problem import FLOAT32_REACH, ITERATIONS_A_CHECK, cosine_reach

# Entries of a state that one step reads, entries that a program writes, and states of the other side that one step adds.
TILE, ENTRIES_A_PROGRAM, STATES_A_STEP = 32, 128, 16


def cosine_transport(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, terms: tuple[float, float, float, int, int, float]
) -> tuple[Tensor, ...]:
    """Return plan, value, error, iterations, scales and lengths of both sides, as `tokens.cosine_transport`, in float32.

    a (B, n) and b (B, m) are weights, proportional to the masses. A pair of invalid weights (see `problem.marginals`) has an
    error of NaN. terms: as of `cpu_kernels.cosine_transport`. If some costs could exceed the range of float32, all problems are
    solved in float64. Nothing here waits for the GPU.
    """
    eps, power, tolerance, most, every, reach = terms
    (count, n, width), m = x.shape, y.shape[1]
    x, y, a, b = (part.contiguous() for part in (x, y, a, b))
    plan = x.new_empty(count, n, m)
    scales_x, lengths_x, scales_y, lengths_y = (x.new_empty(count, size) for size in (n, n, m, m))
    value, error = x.new_empty(count), x.new_empty(count)
    iterations = torch.empty(count, dtype=torch.long, device=x.device)
    out = plan, value, error, iterations, scales_x, scales_y, lengths_x, lengths_y
    rows, columns = padded_size(n), padded_size(m)
    cosine_transport_kernel[(count,)](
        *(x, y, a, b, *out),
        *(n, m, width, eps, power, tolerance, most),
        ROWS=rows,
        COLUMNS=columns,
        TILE=TILE,
        EVERY=every,
        KEPT=power == 1,
        WIDE=cosine_reach(eps, power) > reach,
        num_warps=warps(rows, columns),
    )
    return out


def cosine_transport_gradient(
    plan: Tensor, outer: Tensor, scales: tuple[Tensor, Tensor], y: Tensor, lengths: Tensor, x: Tensor
) -> Tensor:
    """Return the gradient (B, n, d), as `tokens.cosine_transport_gradient`, in float32."""
    (count, n, width), m = x.shape, y.shape[1]
    x, y, outer = x.contiguous(), y.contiguous(), outer.contiguous()
    out = torch.empty_like(x)
    rows = padded_size(n)
    gradient_kernel[(count, triton.cdiv(width, ENTRIES_A_PROGRAM))](
        *(plan, outer, *scales, y, lengths, x, out),
        *(n, m, width, *plan.stride()),
        ROWS=rows,
        WIDTH=ENTRIES_A_PROGRAM,
        AT_ONCE=STATES_A_STEP,
        num_warps=warps(rows, ENTRIES_A_PROGRAM),
    )
    return out


def longest_text(device: torch.device) -> int:
    """Return the most tokens of a side that a program can hold on this GPU, whose shared memory their costs pass through."""
    # torch has this property from 2.7 on.
    shared = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    return 128 if shared >= 160 << 10 else 64


def check_compiler() -> None:
    """Compile the kernel and solve the smallest problem. Raises any error of Triton, the C compiler or the driver."""
    state, weight = torch.ones(1, 1, 1, device="cuda"), torch.ones(1, 1, device="cuda")
    cosine_transport(state, state, weight, weight, (1.0, 1.0, 1e-3, 1, ITERATIONS_A_CHECK, FLOAT32_REACH))


def padded_size(tokens: int) -> int:
    """Return the positions that a program has for so many tokens: a power of two, at least the 16 of a matrix product."""
    return max(16, int(triton.next_power_of_2(tokens)))


def warps(rows: int, columns: int) -> int:
    """Warps of a program, so that a thread holds 32 entries of a matrix at the most where that can be."""
    return min(16, max(4, rows * columns // 1024))


@triton.jit(do_not_specialize=["n", "m", "most"])
def cosine_transport_kernel(
    x,
    y,
    a,
    b,
    plan,
    value,
    error,
    iterations,
    scales_x,
    scales_y,
    lengths_x,
    lengths_y,
    n,
    m,
    width,
    eps,
    power,
    tolerance,
    most,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    EVERY: tl.constexpr,
    KEPT: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Solve one pair of `cosine_transport`."""
    pair = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    a_i, right_a = masses(a + pair * n, i, n)
    b_j, right_b = masses(b + pair * m, j, m)
    cosine, of_x, of_y = cosines(x + pair * n * width, y + pair * m * width, a_i, b_j, i, j, width, TILE)
    real = (a_i > 0)[:, None] & (b_j > 0)[None, :]
    cost = 1 - cosine
    low = cost
    if KEPT:
        low = cost - tl.min(tl.where(real, cost, float("inf")), 1)[:, None]
    if WIDE:
        low, a_i, b_j = low.to(tl.float64), a_i.to(tl.float64), b_j.to(tl.float64)
    kernel = tl.where(real, tl.exp(-tl.where(real, low, 0.0) / eps), 0.0)
    au, bv, left, done = iterate_scalings(kernel, a_i, b_j, power, tolerance, most, EVERY, KEPT)
    solved = (au[:, None] * kernel * bv[None, :]).to(tl.float32)
    carried = solved * cosine
    in_x, in_y = i < n, j < m
    tl.store(plan + pair * n * m + i[:, None] * m + j[None, :], solved, mask=in_x[:, None] & in_y[None, :])
    tl.store(value + pair, tl.sum(tl.sum(solved * cost, 1), 0))
    tl.store(error + pair, tl.where(right_a & right_b, left, float("nan")).to(tl.float32))
    tl.store(iterations + pair, done)
    tl.store(scales_x + pair * n + i, of_x, mask=in_x)
    tl.store(scales_y + pair * m + j, of_y, mask=in_y)
    tl.store(lengths_x + pair * n + i, tl.sum(carried, 1) * of_x * of_x, mask=in_x)
    tl.store(lengths_y + pair * m + j, tl.sum(carried, 0) * of_y * of_y, mask=in_y)


@triton.jit
def masses(weights, places, count):
    """Return masses that sum to 1, proportional to weights, and whether these are valid: none negative, a finite positive sum."""
    given = tl.load(weights + places, mask=places < count, other=0.0)
    total = tl.sum(given, 0)
    return given / total, (tl.min(given, 0) >= 0) & (total > 0) & (total < float("inf"))


@triton.jit
def cosines(x, y, a_i, b_j, i, j, width, TILE: tl.constexpr):
    """Return the cosines of one pair's tokens, and the inverse norms of both sides, 0 for a token without mass or length."""
    product = tl.zeros((i.shape[0], j.shape[0]), tl.float32)
    squares_x, squares_y = tl.zeros((i.shape[0],), tl.float32), tl.zeros((j.shape[0],), tl.float32)
    for start in range(0, width, TILE):
        at = start + tl.arange(0, TILE)
        inside = (at < width)[None, :]
        of_x = tl.load(x + i[:, None] * width + at[None, :], mask=(a_i > 0)[:, None] & inside, other=0.0)
        of_y = tl.load(y + j[:, None] * width + at[None, :], mask=(b_j > 0)[:, None] & inside, other=0.0)
        # Three TF32 products on the tensor cores are as accurate as a float32 product, and faster.
        product = tl.dot(of_x, tl.trans(of_y), product, input_precision="tf32x3")
        squares_x += tl.sum(of_x * of_x, 1)
        squares_y += tl.sum(of_y * of_y, 1)
    scale_x, scale_y = inverse_norms(squares_x), inverse_norms(squares_y)
    return product * scale_x[:, None] * scale_y[None, :], scale_x, scale_y


@triton.jit
def inverse_norms(squares):
    """Return `tokens.inverse_norms` from sums of squares."""
    norms = tl.sqrt(squares)
    return tl.where(norms > 1e-12, 1 / norms, 0.0)


@triton.jit
def iterate_scalings(kernel, a, b, power, tolerance, most, EVERY: tl.constexpr, KEPT: tl.constexpr):
    """Return masses times scalings of both sides, error and iterations of one pair, as `solvers.iterate_scalings`."""
    au, bv = a, b
    sums = tl.sum(kernel * bv[None, :], 1)
    left, done, going = tl.sum(a, 0), 0, most > 0
    while going:
        stretch = tl.minimum(EVERY, most - done)
        for _ in range(stretch):
            au = scaled_masses(a, sums, power, KEPT)
            bv = scaled_masses(b, tl.sum(kernel * au[:, None], 0), power, KEPT)
            sums = tl.sum(kernel * bv[None, :], 1)
        done += stretch
        left = tl.sum(tl.abs(au * sums - target_row_sums(a, au, power, KEPT)), 0)
        # NaN ends the loop as well, since more iterations cannot mend it.
        going = (left > tolerance) & (done < most)
    return au, bv, left, done


@triton.jit
def scaled_masses(a, sums, power, KEPT: tl.constexpr):
    """Return masses times the scalings of `Scalings.optimal_scaling`, 0 where there is no mass."""
    sums = tl.where(a > 0, sums, 1.0)
    return a / sums if KEPT else a * tl.exp(-power * tl.log(sums))


@triton.jit
def target_row_sums(a, au, power, KEPT: tl.constexpr):
    """Return the row sums at the optimum, as in `Scalings.error`."""
    return a if KEPT else a * tl.exp((1 - 1 / power) * tl.log(tl.where(a > 0, au / a, 1.0)))


@triton.jit(do_not_specialize=["n", "m", "a_pair", "a_row", "a_column"])
def gradient_kernel(
    plan,
    outer,
    scales_x,
    scales_y,
    y,
    lengths,
    x,
    out,
    n,
    m,
    width,
    a_pair,
    a_row,
    a_column,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Compute some entries of each state's gradient for one pair. a_pair, a_row, a_column: strides of the plan."""
    pair = tl.program_id(0).to(tl.int64)
    i, at = tl.arange(0, ROWS), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    in_x, inside = i < n, (at < width)[None, :]
    of_x = tl.load(scales_x + pair * n + i, mask=in_x, other=0.0)
    length = tl.load(lengths + pair * n + i, mask=in_x, other=0.0)
    scale = tl.load(outer + pair)
    # Padding has scales of 0, and its states are not read.
    mine = tl.load(x + pair * n * width + i[:, None] * width + at[None, :], mask=(of_x > 0)[:, None] & inside, other=0.0)
    gradient = scale * length[:, None] * mine
    for start in range(0, m, AT_ONCE):
        j = start + tl.arange(0, AT_ONCE)
        of_y = tl.load(scales_y + pair * m + j, mask=j < m, other=0.0)
        entries = plan + pair * a_pair + i[:, None] * a_row + j[None, :] * a_column
        carried = tl.load(entries, mask=in_x[:, None] & (j < m)[None, :], other=0.0)
        theirs = tl.load(y + pair * m * width + j[:, None] * width + at[None, :], mask=(of_y > 0)[:, None] & inside, other=0.0)
        weights = -scale * of_x[:, None] * carried * of_y[None, :]
        gradient = tl.dot(weights, theirs, gradient, input_precision="ieee")
    tl.store(out + pair * n * width + i[:, None] * width + at[None, :], gradient, mask=in_x[:, None] & inside)
