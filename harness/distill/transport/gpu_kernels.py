"""Token transport compiled for a GPU: a program for each pair, which keeps its costs and scalings in registers to the end.

The same as `transport.carry` and `transport.spread` do for a padded batch, by Triton, in one launch each; step by step, a GPU
is bound by launching the hundreds of small steps. What comes out for a pair hangs on nothing else in the batch, but for rounding:
its sums are taken over as many places as the longest pair has.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.distill.transport.problem import FLOAT32_REACH, ITERATIONS_A_CHECK, farthest

# Entries of a state that are read at once, and that a program writes; states of the other side that go into it at once.
TILE, WIDTH, AT_ONCE = 32, 128, 16


def carry(x: Tensor, y: Tensor, a: Tensor, b: Tensor, terms: tuple[float, float, float, int, int, float]) -> tuple[Tensor, ...]:
    """Plan, value, error, iterations, scales and lengths of both sides, as `transport.carry` has them, in float32.

    a (B, n) and b (B, m) are weights, to which the masses are in proportion; a pair of which those are wrong (see
    `transport.marginals`) has an error that is not a number. terms: as of `kernels.carry`; if float32 cannot hold what may come,
    whatever the costs, all is done in float64. Nothing here waits for the GPU.
    """
    eps, power, tolerance, most, every, reach = terms
    (count, n, width), m = x.shape, y.shape[1]
    x, y, a, b = (part.contiguous() for part in (x, y, a, b))
    plan = x.new_empty(count, n, m)
    scales_x, lengths_x, scales_y, lengths_y = (x.new_empty(count, size) for size in (n, n, m, m))
    value, error = x.new_empty(count), x.new_empty(count)
    iterations = torch.empty(count, dtype=torch.long, device=x.device)
    out = plan, value, error, iterations, scales_x, scales_y, lengths_x, lengths_y
    rows, columns = tile(n), tile(m)
    carry_one[(count,)](
        *(x, y, a, b, *out),
        *(n, m, width, eps, power, tolerance, most),
        ROWS=rows,
        COLUMNS=columns,
        TILE=TILE,
        EVERY=every,
        KEPT=power == 1,
        WIDE=farthest(eps, power) > reach,
        num_warps=warps(rows, columns),
    )
    return out


def spread(plan: Tensor, outer: Tensor, scales: tuple[Tensor, Tensor], y: Tensor, lengths: Tensor, x: Tensor) -> Tensor:
    """The gradient (B, n, d), as `transport.spread` has it, in float32."""
    (count, n, width), m = x.shape, y.shape[1]
    x, y, outer = x.contiguous(), y.contiguous(), outer.contiguous()
    out = torch.empty_like(x)
    rows = tile(n)
    spread_one[(count, triton.cdiv(width, WIDTH))](
        *(plan, outer, *scales, y, lengths, x, out),
        *(n, m, width, *plan.stride()),
        ROWS=rows,
        WIDTH=WIDTH,
        AT_ONCE=AT_ONCE,
        num_warps=warps(rows, WIDTH),
    )
    return out


def longest(device: torch.device) -> int:
    """The most tokens of a side that a program can hold on this GPU: their costs go through the memory that its warps share."""
    # Which torch tells from 2.7 on.
    shared = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    return 128 if shared >= 160 << 10 else 64


def works() -> None:
    """Compile and solve the smallest problem; raises whatever stands in the way."""
    state, weight = torch.ones(1, 1, 1, device="cuda"), torch.ones(1, 1, device="cuda")
    carry(state, state, weight, weight, (1.0, 1.0, 1e-3, 1, ITERATIONS_A_CHECK, FLOAT32_REACH))


def tile(tokens: int) -> int:
    """The places that a program has for so many tokens: a power of two, and no fewer than a product takes."""
    return max(16, int(triton.next_power_of_2(tokens)))


def warps(rows: int, columns: int) -> int:
    """Warps of a program, so that a thread holds 32 entries of a matrix at the most where that can be."""
    return min(16, max(4, rows * columns // 1024))


@triton.jit(do_not_specialize=["n", "m", "most"])
def carry_one(
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
    """One pair of `carry`."""
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
    au, bv, left, done = scaled(kernel, a_i, b_j, power, tolerance, most, EVERY, KEPT)
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
    """Masses that sum to 1, in proportion to weights, and whether these are right: none negative, a sum that is finite, not 0."""
    given = tl.load(weights + places, mask=places < count, other=0.0)
    total = tl.sum(given, 0)
    return given / total, (tl.min(given, 0) >= 0) & (total > 0) & (total < float("inf"))


@triton.jit
def cosines(x, y, a_i, b_j, i, j, width, TILE: tl.constexpr):
    """Cosines of one pair's tokens, and the inverse norms of both sides: 0 where a token has no mass, or no length."""
    product = tl.zeros((i.shape[0], j.shape[0]), tl.float32)
    squares_x, squares_y = tl.zeros((i.shape[0],), tl.float32), tl.zeros((j.shape[0],), tl.float32)
    for start in range(0, width, TILE):
        at = start + tl.arange(0, TILE)
        inside = (at < width)[None, :]
        of_x = tl.load(x + i[:, None] * width + at[None, :], mask=(a_i > 0)[:, None] & inside, other=0.0)
        of_y = tl.load(y + j[:, None] * width + at[None, :], mask=(b_j > 0)[:, None] & inside, other=0.0)
        # In three parts on the cores for products: as near to float64 as a float32 product, and quicker.
        product = tl.dot(of_x, tl.trans(of_y), product, input_precision="tf32x3")
        squares_x += tl.sum(of_x * of_x, 1)
        squares_y += tl.sum(of_y * of_y, 1)
    scale_x, scale_y = inverse_norms(squares_x), inverse_norms(squares_y)
    return product * scale_x[:, None] * scale_y[None, :], scale_x, scale_y


@triton.jit
def inverse_norms(squares):
    """As `transport.inverse_norms`, from sums of squares."""
    norms = tl.sqrt(squares)
    return tl.where(norms > 1e-12, 1 / norms, 0.0)


@triton.jit
def scaled(kernel, a, b, power, tolerance, most, EVERY: tl.constexpr, KEPT: tl.constexpr):
    """Masses times scalings of both sides, error and iterations of one pair, as `transport.scaled` has them."""
    au, bv = a, b
    sums = tl.sum(kernel * bv[None, :], 1)
    left, done, going = tl.sum(a, 0), 0, most > 0
    while going:
        stretch = tl.minimum(EVERY, most - done)
        for _ in range(stretch):
            au = answer(a, sums, power, KEPT)
            bv = answer(b, tl.sum(kernel * au[:, None], 0), power, KEPT)
            sums = tl.sum(kernel * bv[None, :], 1)
        done += stretch
        left = tl.sum(tl.abs(au * sums - asked(a, au, power, KEPT)), 0)
        # What is not a number ends it as well: more iterations will not mend it.
        going = (left > tolerance) & (done < most)
    return au, bv, left, done


@triton.jit
def answer(a, sums, power, KEPT: tl.constexpr):
    """Masses times the scalings of `transport.Scalings.answer`; 0 where there is no mass."""
    sums = tl.where(a > 0, sums, 1.0)
    return a / sums if KEPT else a * tl.exp(-power * tl.log(sums))


@triton.jit
def asked(a, au, power, KEPT: tl.constexpr):
    """What row sums ought to be, as `transport.Scalings.error` has it."""
    return a if KEPT else a * tl.exp((1 - 1 / power) * tl.log(tl.where(a > 0, au / a, 1.0)))


@triton.jit(do_not_specialize=["n", "m", "a_pair", "a_row", "a_column"])
def spread_one(
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
    """One pair of `spread`, some entries of each state. a_pair, a_row, a_column: strides of the plan."""
    pair = tl.program_id(0).to(tl.int64)
    i, at = tl.arange(0, ROWS), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    in_x, inside = i < n, (at < width)[None, :]
    of_x = tl.load(scales_x + pair * n + i, mask=in_x, other=0.0)
    length = tl.load(lengths + pair * n + i, mask=in_x, other=0.0)
    scale = tl.load(outer + pair)
    # Scales are 0 on padding, whose states need not be read.
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
