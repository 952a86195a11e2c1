"""How sure a number is: cluster bootstrap, paired sign-flip test, gap recovered, Holm's correction.

The captions of one image are correlated, so the unit that is resampled is the image (the cluster), never the caption. Values are
first added up per cluster; after that a resample is one row of counts, and all resamples of all statistics are one matrix
product.

Everything is a pure function of its arguments: one seed gives the same bytes, and the order of the rows does not matter, because
clusters are taken in ascending order of id and the values of a cluster are added in ascending order of value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from harness.api import HarnessError, Ints

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint16]

POWER, ALPHA = 0.8, 0.05

_DRAWS = 1 << 20  # random draws held at once; part of what a seed means, for a generator is read block by block
_EXACT = 16  # up to so many clusters that differ, all 2^k sign flips are enumerated


@dataclass(frozen=True)
class Interval:
    """An estimate and its percentile interval; NaN where none can be given."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A paired difference of means.

    p_value: two-sided, from sign flips over clusters. minimal_detectable: the true difference that a two-sided test at 0.05 would
    find with 80 % power, given the spread seen here, in the unit of the values.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    minimal_detectable: float


def cluster_weights(clusters: int, resamples: int, seed: int) -> Iterator[Counts]:
    """How often each cluster is drawn in each bootstrap resample, in blocks of (b, clusters) that make up (resamples, clusters).

    Each row sums to `clusters`. Blocks keep memory bounded: all 10,000 resamples of 31,783 images would take 636 MB.

    >>> [block.sum(axis=1).tolist() for block in cluster_weights(4, 3, seed=0)]
    [[4, 4, 4]]
    """
    draw = np.random.Generator(np.random.PCG64(seed))
    rows = max(_DRAWS // clusters, 1)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        # Shifting row r's draws by r * clusters lets one bincount serve the whole block.
        drawn = draw.integers(clusters, size=(count, clusters)) + clusters * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * clusters).astype(np.uint16).reshape(count, clusters)


def bootstrap_means(
    values: npt.ArrayLike, cluster: npt.ArrayLike, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> list[Interval]:
    """Mean of each column with an interval from resampling clusters; all columns share the resamples.

    values: (q, s), s values of each of q queries. cluster: (q,), the image of each query. The mean is the ratio of the sum of
    values to the number of queries drawn, so clusters may differ in size. Percentile interval at `level`; NaN where there are
    fewer than two clusters, since one cluster shows no spread.
    Raises HarnessError if shapes do not fit or a value is not finite.

    >>> means = bootstrap_means(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), np.array([7, 7, 9]))
    >>> [round(mean.estimate, 3) for mean in means]
    [0.667, 0.333]
    """
    sums, sizes = _cluster_sums(values, cluster)
    estimates = sums.sum(axis=0) / sizes.sum()
    resampled = _resample(np.column_stack([sums, sizes]), resamples, seed)
    low, high = _percentiles(resampled[:, :-1] / resampled[:, -1:], len(sizes), level)
    return [Interval(float(e), float(a), float(b)) for e, a, b in zip(estimates, low, high, strict=True)]


def bootstrap_mean(
    values: npt.ArrayLike, cluster: npt.ArrayLike, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean of values (q,) with an interval from resampling clusters; see `bootstrap_means`.

    >>> hits = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    >>> bootstrap_mean(hits, np.array([0, 0, 1, 1, 2, 2]))
    Interval(estimate=0.5, low=0.0, high=1.0)
    """
    return bootstrap_means(np.asarray(values)[:, None], cluster, resamples=resamples, seed=seed, level=level)[0]


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, cluster: npt.ArrayLike, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Difference:
    """Mean of a less mean of b over the same queries: interval, p-value, and what could have been found at all.

    a, b: (q,), one value a query for each of two towers. cluster: (q,), the image of each query.
    The interval is the cluster bootstrap's. The p-value is of the hypothesis that the two towers are interchangeable: the sign of
    each cluster's summed difference is flipped at random, and p = (b+1)/(m+1), which is never 0 (Phipson and Smyth 2010); with at
    most 16 clusters that differ, all sign patterns are counted instead.
    Raises HarnessError if shapes do not fit or a value is not finite.

    >>> d = paired_difference(np.array([1.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0]), np.arange(3))
    >>> round(d.estimate, 4), d.p_value
    (0.6667, 0.5)
    """
    columns = _paired(a, b)
    sums, sizes = _cluster_sums(columns[:, :1] - columns[:, 1:], cluster)
    resampled = _resample(np.column_stack([sums, sizes]), resamples, seed)
    means = resampled[:, 0] / resampled[:, 1]
    low, high = _percentiles(means, len(sizes), level)
    error = float(np.std(means, ddof=1)) if len(sizes) > 1 else np.nan
    return Difference(
        estimate=float(sums.sum() / sizes.sum()),
        low=float(low),
        high=float(high),
        p_value=_sign_flip(sums[:, 0], resamples, seed),
        minimal_detectable=float(ndtri(1 - ALPHA / 2) + ndtri(POWER)) * error,
    )


def gap_recovered(
    student: npt.ArrayLike,
    floor: npt.ArrayLike,
    ceiling: npt.ArrayLike,
    cluster: npt.ArrayLike,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """How much of the way from floor to ceiling the student has come: (student - floor) / (ceiling - floor), 1 being all of it.

    student, floor, ceiling: (q,), over the same queries and resampled together. cluster: (q,), the image of each query.
    The share means nothing without a gap. Where the ceiling is not above the floor, all three numbers are NaN; where that is so
    in as many resamples as an interval leaves out on one side (2.5 % at 95 %), the interval is unbounded and low and high are
    NaN. In fewer resamples than that, they count as infinitely far out on the side of their numerator.
    Raises HarnessError if shapes do not fit or a value is not finite.

    >>> q = np.arange(4)
    >>> gap_recovered(np.array([1.0, 1, 0, 0]), np.zeros(4), np.ones(4), q).estimate
    0.5
    """
    sums, sizes = _cluster_sums(_paired(student, floor, ceiling), cluster)
    over, under = sums[:, 0] - sums[:, 1], sums[:, 2] - sums[:, 1]
    if under.sum() <= 0:
        return Interval(np.nan, np.nan, np.nan)
    estimate = float(over.sum() / under.sum())
    gains, gaps = _resample(np.column_stack([over, under]), resamples, seed).T
    closed = gaps <= 0
    if closed.mean() >= (1 - level) / 2:
        return Interval(estimate, np.nan, np.nan)
    shares = np.where(closed, np.copysign(np.inf, gains), gains / np.where(closed, 1, gaps))
    low, high = _percentiles(shares, len(sizes), level)
    return Interval(estimate, float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for having made all these comparisons (Holm 1979): reject where the adjusted value is below alpha.

    Raises HarnessError if one is not between 0 and 1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    raw = np.asarray(p_values, np.float64)
    if not ((raw >= 0) & (raw <= 1)).all():
        raise HarnessError(f"p-values must lie between 0 and 1: {raw.tolist()}")
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)), 1)
    return [float(p) for p in adjusted]


def _paired(*values: npt.ArrayLike) -> Doubles:
    """Values over the same queries as the columns of one table."""
    columns = [np.asarray(column, np.float64) for column in values]
    shapes = [column.shape for column in columns]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise HarnessError(f"paired values must be one number for each of the same queries, not {shapes}")
    return np.column_stack(columns)


def _cluster_sums(values: npt.ArrayLike, cluster: npt.ArrayLike) -> tuple[Doubles, Ints]:
    """Add up the columns of (q, s) per cluster: sums (c, s) and sizes (c,), clusters in ascending order of id."""
    table, ids = np.asarray(values, np.float64), np.asarray(cluster)
    if not table.size or table.ndim != 2 or ids.shape != table.shape[:1]:
        raise HarnessError(f"values {table.shape} need one row, and clusters {ids.shape} one id, for each of one or more queries")
    if not np.isfinite(table).all():
        raise HarnessError(f"{np.count_nonzero(~np.isfinite(table))} of {table.size} values are NaN or infinite")
    _, index, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    starts = np.cumsum(sizes) - sizes
    ordered = (column[np.lexsort((column, index))] for column in table.T)
    return np.column_stack([np.add.reduceat(column, starts) for column in ordered]), sizes


def _resample(sums: Doubles, resamples: int, seed: int) -> Doubles:
    """Totals of (c, s) cluster sums in each bootstrap resample, (resamples, s)."""
    return np.concatenate([weights @ sums for weights in cluster_weights(len(sums), resamples, seed)])


def _percentiles(resampled: Doubles, clusters: int, level: float) -> Doubles:
    """Both ends of the percentile interval along the first axis; NaN for fewer than two clusters."""
    # Of the resampled values themselves, never between two of them: one may be infinite, see gap_recovered.
    ends = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return ends if clusters > 1 else np.full_like(ends, np.nan)


def _sign_flip(differences: Doubles, flips: int, seed: int) -> float:
    """Two-sided p-value of a sum of differences (c,) under sign flips."""
    differences = differences[differences != 0]
    seen = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()  # equal sums may differ by rounding
    if len(differences) <= _EXACT:
        patterns = np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences)) & 1
        return float(np.mean(_reaches(patterns, differences, seen)))
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(1,))))  # apart from the bootstrap's stream
    rows, hits = max(_DRAWS // len(differences), 1), 0
    for start in range(0, flips, rows):
        patterns = draw.integers(2, size=(min(rows, flips - start), len(differences)), dtype=np.uint8)
        hits += int(np.count_nonzero(_reaches(patterns, differences, seen)))
    return (hits + 1) / (flips + 1)


def _reaches(patterns: npt.NDArray[np.integer], differences: Doubles, seen: float) -> npt.NDArray[np.bool_]:
    """Whether the absolute sum under each pattern of flips (1 keeps, 0 flips) is at least the one seen."""
    flipped: npt.NDArray[np.bool_] = np.abs(2 * (patterns @ differences) - differences.sum()) >= seen
    return flipped
