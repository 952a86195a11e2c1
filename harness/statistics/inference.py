"""Confidence intervals and tests: cluster bootstrap, paired tests, seeds as a second source of variance, Holm's correction.

Captions of one image are correlated. The resampled unit is therefore the image (the cluster), never the caption. Values are first
summed within each cluster. A resample is then one row of counts, and all resamples of all statistics are one matrix product.

Every function is pure. A seed determines the result bit by bit, and the order of the rows does not matter, because clusters are
sorted by id and the values of a cluster are summed in ascending order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, ndtri, stdtr, stdtrit

from harness.core.data import Doubles, Ints
from harness.core.errors import HarnessError
from harness.statistics.methods.rates import FEW, HitCounts, difference_interval, effective_queries, wilson_interval

Counts = npt.NDArray[np.uint16]

ALPHA = 0.05

_DRAWS = 1 << 20  # random draws in one block in memory; another block size changes the results of a seed
_EXACT = 16  # largest number of differing clusters for which all 2^k sign flips are enumerated


@dataclass(frozen=True)
class Interval:
    """An estimate and its percentile interval, NaN if there is none."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A paired difference of means.

    p_value: two-sided, from sign flips over clusters. error: standard error from the choice of clusters, NaN for a single one;
    where few clusters differ, as in `ArmContrast`.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    error: float


def cluster_weights(clusters: int, resamples: int, seed: int) -> Iterator[Counts]:
    """Yield how often each cluster is drawn in each resample, in blocks (b, clusters) of (resamples, clusters).

    Each row sums to `clusters`. Blocks bound memory: all 10,000 resamples of 31,783 images would take 636 MB.

    >>> [block.sum(axis=1).tolist() for block in cluster_weights(4, 3, seed=0)]
    [[4, 4, 4]]
    """
    draw = np.random.Generator(np.random.PCG64(seed))
    rows = max(_DRAWS // clusters, 1)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        # Shifting row r's draws by r * clusters allows one bincount for the complete block.
        drawn = draw.integers(clusters, size=(count, clusters)) + clusters * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * clusters).astype(np.uint16).reshape(count, clusters)


def bootstrap_means(
    values: npt.ArrayLike,
    cluster: npt.ArrayLike,
    *,
    hit: float | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Interval]:
    """Return the mean of each column with a confidence interval from resampling clusters. Columns share the resamples.

    values: (q, s), s values of each of q queries. cluster: (q,), the image of each query. The mean is the ratio of the sum of
    values to the number of drawn queries, so clusters may differ in size. The interval is the percentile interval at `level`. It
    is NaN for fewer than two clusters, because one cluster has no variance. hit: the value of a hit, if all values are this or 0;
    rates with few hits or few misses then have Wilson's interval (`harness.statistics.methods.rates`).
    Raises HarnessError if shapes do not match or a value is not finite.

    >>> means = bootstrap_means(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), np.array([7, 7, 9]))
    >>> [round(mean.estimate, 3) for mean in means]
    [0.667, 0.333]
    """
    sums, sizes = _cluster_sums(values, cluster)
    estimates = sums.sum(axis=0) / sizes.sum()
    resampled = _resample(np.column_stack([sums, sizes]), resamples, seed)
    means = resampled[:, :-1] / resampled[:, -1:]
    low, high = _cluster_interval(means, len(sizes), level)
    found = [Interval(float(e), float(a), float(b)) for e, a, b in zip(estimates, low, high, strict=True)]
    if hit is None or len(sizes) < 2:
        return found
    counts = [count_hits(sums[:, [column]], sizes[:, None], hit) for column in range(sums.shape[1])]
    quantile = float(ndtri((1 + level) / 2))
    return [
        each if of.rare >= FEW else few_hits_interval(each.estimate, float(np.var(drawn, ddof=1)), of, hit, quantile)
        for each, of, drawn in zip(found, counts, means.T, strict=True)
    ]


def count_hits(sums: Doubles, sizes: Doubles | Ints, hit: float) -> HitCounts:
    """Count images with a hit and with a miss. sums, sizes: (c, s), hits and queries of each image; a column a tower."""
    missed = (sums < hit * sizes * (1 - 1e-9)).any(axis=1)
    return HitCounts(int((sums > 0).any(axis=1).sum()), int(missed.sum()), int((sizes > 0).any(axis=1).sum()), int(sizes.sum()))


def few_hits_interval(estimate: float, variance: float, counts: HitCounts, hit: float, quantile: float) -> Interval:
    """Return Wilson's interval of a rate in units of `hit`."""
    rate = min(max(estimate / hit, 0.0), 1.0)
    low, high = wilson_interval(rate, effective_queries(rate, variance / hit**2, counts), quantile)
    return Interval(estimate, hit * low, hit * high)


def bootstrap_mean(
    values: npt.ArrayLike,
    cluster: npt.ArrayLike,
    *,
    hit: float | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean of values (q,) with a confidence interval from resampling clusters. See `bootstrap_means`.

    >>> hits = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    >>> bootstrap_mean(hits, np.array([0, 0, 1, 1, 2, 2]))
    Interval(estimate=0.5, low=0.0, high=1.0)
    """
    return bootstrap_means(np.asarray(values)[:, None], cluster, hit=hit, resamples=resamples, seed=seed, level=level)[0]


def few_differences_interval(
    shares: Doubles, clusters: int, hit: float, level: float, freedom: float = np.inf
) -> Interval | None:
    """Return the interval of a difference of hit rates where fewer than `FEW` images differ, None otherwise.

    The bootstrap cannot see what no sampled image shows: its interval for two towers that hit the same images is [0, 0].
    shares: (c,), contribution of each image to the difference. freedom: of the standard error, by which the interval is widened.
    """
    shares = shares[np.abs(shares) > 1e-12 * hit] / hit
    if len(shares) >= FEW or clusters < 2:
        return None
    ahead, behind = float(shares[shares > 0].sum()), float(-shares[shares < 0].sum())
    quantile = float(ndtri((1 + level) / 2)) * expansion(freedom, level)
    low, high = difference_interval(min(ahead, 1.0), min(behind, 1.0), clusters, quantile)
    return Interval(hit * (ahead - behind), hit * low, hit * high)


def few_differences_error(interval: Interval | None, error: float, level: float) -> float:
    """Return a standard error that is not below the longer half of an interval without widening, if there is one."""
    if interval is None:
        return error
    half = max(interval.estimate - interval.low, interval.high - interval.estimate)
    return max(error, half / float(ndtri((1 + level) / 2)))


def paired_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    cluster: npt.ArrayLike,
    *,
    hit: float | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Return the mean of a minus the mean of b over the same queries, with interval, p-value and standard error.

    a, b: (q,), one value a query for each of two towers. cluster: (q,), the image of each query.
    The interval comes from the cluster bootstrap, and from Wilson's intervals where few clusters differ in hit rates (hit: as in
    `bootstrap_means`). The p-value tests the hypothesis that the towers are interchangeable: the sign
    of each cluster's summed difference is flipped at random, and p = (b+1)/(m+1), which is never 0 (Phipson and Smyth 2010). If
    at most 16 clusters differ, all sign patterns are enumerated instead.
    Raises HarnessError if shapes do not match or a value is not finite.

    >>> d = paired_difference(np.array([1.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0]), np.arange(3))
    >>> round(d.estimate, 4), d.p_value
    (0.6667, 0.5)
    """
    columns = _paired(a, b)
    sums, sizes = _cluster_sums(columns[:, :1] - columns[:, 1:], cluster)
    resampled = _resample(np.column_stack([sums, sizes]), resamples, seed)
    means = resampled[:, 0] / resampled[:, 1]
    low, high = _cluster_interval(means, len(sizes), level)
    few = None if hit is None else few_differences_interval(sums[:, 0] / sizes.sum(), len(sizes), hit, level)
    error = float(np.std(means, ddof=1)) if len(sizes) > 1 else np.nan
    return Difference(
        estimate=float(sums.sum() / sizes.sum()),
        low=few.low if few else float(low),
        high=few.high if few else float(high),
        p_value=_sign_flip(sums[:, 0], resamples, seed),
        error=few_differences_error(few, error, level),
    )


@dataclass(frozen=True)
class McNemar:
    """Discordant pairs and the two-sided exact p. Only the first tower gets b queries right, only the second gets c right."""

    b: int
    c: int
    p_value: float


def mcnemar(a: npt.ArrayLike, b: npt.ArrayLike) -> McNemar:
    """Return McNemar's exact test of two towers on the same queries (McNemar 1947): b of b + c is binomial with 1/2.

    a, b: (q,), whether each tower gets each query right. The p-value assumes independent queries, which captions of one image are
    not. It is 1 if the towers never disagree.
    Raises HarnessError if shapes do not match.

    >>> mcnemar([True, True, True, False], [False, False, True, True])
    McNemar(b=2, c=1, p_value=1.0)
    """
    first, second = _paired(a, b).astype(bool).T
    only_a, only_b = int(np.count_nonzero(first & ~second)), int(np.count_nonzero(second & ~first))
    tail = float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, min(2 * tail, 1.0))


@dataclass(frozen=True)
class PairedArms:
    """Two arms over the same queries, for example in one language.

    a: (s, q) and b: (t, q), one value a query, one row a training seed; (q,) is one seed. cluster: (q,), the image of each query,
    in a numbering shared by all arms of a call. seeds_a, seeds_b: s and t names. Equal lists are resampled together, within these
    arms and with those of other languages. Unequal lists are resampled independently. hit: as in `bootstrap_means`.
    """

    a: npt.ArrayLike
    b: npt.ArrayLike
    cluster: npt.ArrayLike
    seeds_a: tuple[str, ...] = ("",)
    seeds_b: tuple[str, ...] = ("",)
    hit: float | None = None


@dataclass(frozen=True)
class ArmContrast:
    """Arm a, arm b, and a minus b, in the unit of the values.

    p_value: two-sided, of the difference. p_sign_flip: with the seeds held fixed; equal to p_value for one seed.
    error: standard error of the difference; where fewer than 20 images differ in hits, not below the longer half of Wilson's
    interval over 1.96. freedom: its degrees of freedom, infinite for one seed. image_error: its part from the choice of images.
    seed_error: addition from the choice of seeds; NaN if no arm has two. gain: a / b - 1; NaN if b is 0, and without an interval
    if b is not clearly above 0.
    """

    a: Interval
    b: Interval
    difference: Interval
    p_value: float
    p_sign_flip: float
    error: float
    freedom: float
    image_error: float
    seed_error: float
    gain: Interval


def contrasts(
    arms: Sequence[PairedArms],
    rows: Sequence[Mapping[int, float]],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> list[ArmContrast]:
    """Return weighted means of arms and their differences, all from one set of resamples of the images.

    rows: for each result, the weights of its arms by index. {i: 1.0} is arms[i] alone. {0: 0.5, 1: 0.5} is the mean of two
    languages, in which a drawn image is drawn in both.

    With one seed a side this is `paired_difference`. With several seeds their means are compared, and each resample of images
    comes with one of seeds: s - 1 of s seeds are drawn with replacement, so that their variance is unbiased (Rao and Wu 1988).
    The drawn effects are shrunk by the part of the variance that finite images alone cause (the interaction in an ANOVA of seeds
    and images), because the images' variance contains it already. Few seeds estimate their variance poorly, so percentiles are
    widened by t/z (the expanded percentile interval of Hesterberg 2015) with Satterthwaite's degrees of freedom (1946), and the
    p-value is the larger one of the sign flips and of that t-test.
    Raises HarnessError if shapes do not match or a value is not finite.

    >>> twice = [PairedArms([[1.0, 1.0, 1.0]], [[0.0, 0.0, 1.0]], [0, 1, 2]), PairedArms([[1.0]], [[1.0]], [0])]
    >>> [round(row.difference.estimate, 4) for row in contrasts(twice, [{0: 1.0}, {0: 0.5, 1: 0.5}])]
    [0.6667, 0.3333]
    """
    gallery = np.unique(np.concatenate([np.asarray(each.cluster) for each in arms]))
    tables = [_arm_tables(each, gallery) for each in arms]
    columns = [column for sides in tables for side in sides for column in side.columns()]
    drawn = _resample(np.column_stack(columns), resamples, seed).reshape(resamples, len(arms), 2, 2)
    means = np.divide(drawn[..., 0], drawn[..., 1], out=np.full(drawn.shape[:-1], np.nan), where=drawn[..., 1] > 0)
    results = []
    for row in rows:
        sides = [[tables[i][side].scaled(weight, means[:, i, side]) for i, weight in row.items()] for side in (0, 1)]
        first, second = (_Pool.of(side, seed) for side in sides)
        both = _Pool.of([*sides[0], *(term.negated() for term in sides[1])], seed)
        results.append(_contrasted(first, second, both, level, (resamples, seed)))
    return results


@dataclass(frozen=True)
class _Term:
    """One arm in a weighted mean.

    sums: (c, s), a column a seed. sizes: (c,). drawn: (resamples,), the mean over seeds in each resample. hit: the value of a hit
    of hit rates, None for other values and for differences.
    """

    seeds: tuple[str, ...]
    sums: Doubles
    sizes: Doubles
    weight: float
    drawn: Doubles
    hit: float | None = None

    def columns(self) -> tuple[Doubles, Doubles]:
        """Return the resampled columns: the mean sums over seeds, and the sizes."""
        return self.sums.mean(axis=1), self.sizes

    def scaled(self, weight: float, drawn: Doubles) -> _Term:
        """Return a copy with another weight."""
        return replace(self, weight=self.weight * weight, drawn=drawn)

    def negated(self) -> _Term:
        """Return a copy that is subtracted."""
        return replace(self, weight=-self.weight, hit=None)

    def shares(self) -> Doubles:
        """Return the contribution of each image to the weighted mean of each seed, (c, s)."""
        shares: Doubles = self.weight * self.sums / self.sizes.sum()
        return shares

    def influence(self) -> Doubles:
        """Return the contributions without the effect of the number of queries, (c, s). They sum to 0 over images."""
        mean = self.sums.sum(axis=0) / self.sizes.sum()
        influence: Doubles = self.weight * (self.sums - mean * self.sizes[:, None]) / self.sizes.sum()
        return influence


def _arm_tables(arms: PairedArms, gallery: Ints) -> tuple[_Term, _Term]:
    """Sum both arms within each image of the gallery."""

    def table(values: npt.ArrayLike, seeds: tuple[str, ...]) -> _Term:
        by_seed = np.atleast_2d(np.asarray(values, np.float64))
        if len(by_seed) != len(seeds):
            raise HarnessError(f"{len(by_seed)} rows of values need {len(by_seed)} seeds, not {seeds}")
        sums, sizes = _cluster_sums(by_seed.T, arms.cluster)
        rows = np.searchsorted(gallery, np.unique(np.asarray(arms.cluster)))
        everywhere = np.zeros((len(gallery), len(seeds) + 1))
        everywhere[rows] = np.column_stack([sums, sizes])
        return _Term(seeds, everywhere[:, :-1], everywhere[:, -1], 1.0, np.empty(0), arms.hit)

    return table(arms.a, arms.seeds_a), table(arms.b, arms.seeds_b)


@dataclass(frozen=True)
class _Pool:
    """A weighted sum of arms.

    images: (resamples,), with images resampled. seeds: (resamples,), the addition from resampled seeds. shares: (c,),
    contribution of each image to the estimate. clusters: images with a query. seed_variances: for each list of two or more seeds,
    the variance net of images, the gross variance, and the degrees of freedom. hit, counts: of a rate, its unit and its hits.
    """

    estimate: float
    images: Doubles
    seeds: Doubles
    shares: Doubles
    clusters: int
    seed_variances: tuple[tuple[float, float, int], ...]
    hit: float | None = None
    counts: HitCounts | None = None

    @classmethod
    def of(cls, terms: Sequence[_Term], seed: int) -> _Pool:
        """Sum terms. Terms with equal seeds share their draws."""
        images = np.sum([term.weight * term.drawn for term in terms], axis=0)
        shares = np.sum([term.shares().mean(axis=1) for term in terms], axis=0)
        asked = int(np.count_nonzero(np.sum([term.sizes for term in terms], axis=0)))
        added, variances = np.zeros_like(images), []
        for seeds in sorted({term.seeds for term in terms if len(term.seeds) > 1}):
            alike = [term for term in terms if term.seeds == seeds]
            effects = np.sum([term.shares().sum(axis=0) for term in alike], axis=0)
            net, gross = seed_variance(effects, np.sum([term.influence() for term in alike], axis=0))
            variances.append((net, gross, len(seeds) - 1))
            if net > 0:
                added += np.sqrt(net / gross) * resampled_seeds(effects, seeds, len(images), seed)
        hits = {term.hit for term in terms}
        hit = next(iter(hits)) if len(hits) == 1 else None
        counts = None
        if hit is not None:
            sizes = [np.tile(term.sizes[:, None], len(term.seeds)) for term in terms]
            counts = count_hits(np.concatenate([term.sums for term in terms], axis=1), np.concatenate(sizes, axis=1), hit)
        return cls(float(shares.sum()), images, added, shares, asked, tuple(variances), hit, counts)

    def interval(self, level: float) -> Interval:
        """Return the percentile interval, expanded for few seeds, or Wilson's of a rate with few hits or misses."""
        if self.hit is not None and self.counts is not None and self.counts.rare < FEW and self.clusters > 1:
            quantile = ndtri((1 + level) / 2) * (expansion(self.freedom(), level) if self.seed_variances else 1.0)
            variance = float(np.var(self.images, ddof=1)) + sum(net for net, _, _ in self.seed_variances)
            return few_hits_interval(self.estimate, variance, self.counts, self.hit, float(quantile))
        low, high = _cluster_interval(self.images + self.seeds, self.clusters, level)
        if not self.seed_variances:
            return Interval(self.estimate, float(low), float(high))
        out = expansion(self.freedom(), level)
        return Interval(self.estimate, *(float(self.estimate + out * (end - self.estimate)) for end in (low, high)))

    def freedom(self) -> float:
        """Return the degrees of freedom of the standard error."""
        return degrees_of_freedom(float(np.var(self.images, ddof=1)), self.clusters, self.seed_variances)


def degrees_of_freedom(images: float, clusters: int, seeds: Sequence[tuple[float, float, int]]) -> float:
    """Return Satterthwaite's degrees of freedom of a standard error over images and seeds.

    images: the variance from the choice of `clusters` images. seeds: net and gross variance and degrees of freedom of each list
    of seeds (`seed_variance`).
    """
    spread = images**2 / max(clusters - 1, 1) + sum(gross**2 / free for _, gross, free in seeds)
    return (images + sum(net for net, _, _ in seeds)) ** 2 / spread if spread else np.inf


def expansion(freedom: float, level: float) -> float:
    """Return t / z, by which percentiles of few seeds are widened (Hesterberg 2015)."""
    return float(stdtrit(freedom, (1 + level) / 2) / ndtri((1 + level) / 2)) if np.isfinite(freedom) else 1.0


def seed_variance(effects: Doubles, influence: Doubles) -> tuple[float, float]:
    """Return the variance of the mean of effects (s,), net of the images' variance, and gross.

    influence: (c, s), of each image on each effect. Its variation between seeds is interaction: it makes seeds differ on any
    finite set of images, and the images' variance contains it already.
    """
    count = len(effects)
    gross = float(np.var(effects, ddof=1)) / count
    interaction = float(np.square(influence - influence.mean(axis=1, keepdims=True)).sum()) / (count * (count - 1))
    return max(gross - interaction, 0.0), gross


def resampled_seeds(effects: Doubles, seeds: tuple[str, ...], resamples: int, seed: int) -> Doubles:
    """Return the changes of the mean of effects (s,) under resampled seeds, (resamples,). Equal seeds have equal draws."""
    stream = [ord(letter) for letter in "\0".join(seeds)]
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(2, *stream))))
    chosen = draw.integers(len(effects), size=(resamples, len(effects) - 1))
    moved: Doubles = effects[chosen].mean(axis=1) - effects.mean()
    return moved


def _contrasted(first: _Pool, second: _Pool, both: _Pool, level: float, draws: tuple[int, int]) -> ArmContrast:
    """Return the statistics of one row. both: first minus second. draws: number and seed of the sign flips."""
    images = float(np.std(both.images, ddof=1)) if both.clusters > 1 else np.nan
    seeds = float(np.sqrt(sum(net for net, _, _ in both.seed_variances))) if both.seed_variances else np.nan
    error = float(np.hypot(images, np.nan_to_num(seeds)))
    flips = _sign_flip(both.shares, *draws)
    free = both.freedom() if both.seed_variances else np.inf
    ours = 2 * float(stdtr(free, -abs(both.estimate) / error)) if both.seed_variances and error > 0 else 0.0
    hit = first.hit if first.hit == second.hit else None
    few, unwidened = (
        None if hit is None else few_differences_interval(both.shares, both.clusters, hit, level, each) for each in (free, np.inf)
    )
    return ArmContrast(
        a=first.interval(level),
        b=second.interval(level),
        difference=few or both.interval(level),
        p_value=max(flips, ours),
        p_sign_flip=flips,
        error=few_differences_error(unwidened, error, level),
        freedom=free,
        image_error=images,
        seed_error=seeds,
        gain=_relative_gain(first, second, both, level),
    )


def _relative_gain(first: _Pool, second: _Pool, both: _Pool, level: float) -> Interval:
    """Return first / second - 1 with the percentile interval of its resamples, expanded for few seeds."""
    if second.estimate <= 0:
        return Interval(np.nan, np.nan, np.nan)
    estimate = first.estimate / second.estimate - 1
    drawn = second.images + second.seeds
    if both.clusters < 2 or (drawn <= 0).mean() >= (1 - level) / 2:
        return Interval(estimate, np.nan, np.nan)
    ratios = (first.images + first.seeds) / np.where(drawn <= 0, np.nan, drawn) - 1
    ends = percentile_interval(np.where(np.isnan(ratios), np.inf, ratios), level)
    out = expansion(both.freedom(), level) if both.seed_variances else 1.0
    return Interval(estimate, *(float(estimate + out * (end - estimate)) for end in ends))


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
    """Return the share of the gap that the student recovers: (student - floor) / (ceiling - floor).

    student, floor, ceiling: (q,), over the same queries and resampled together. cluster: (q,), the image of each query.
    If the ceiling is not above the floor, all three numbers are NaN. If that holds in at least the share of resamples that an
    interval omits on one side (2.5 % at 95 %), the interval is unbounded, and low and high are NaN. In a smaller share, these
    resamples count as infinite with the sign of their numerator.
    Raises HarnessError if shapes do not match or a value is not finite.

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
    low, high = _cluster_interval(shares, len(sizes), level)
    return Interval(estimate, float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple comparisons (Holm 1979): reject if the adjusted value is below alpha.

    Raises HarnessError if a p-value is not between 0 and 1.

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


def against_the_best(differences: Sequence[float], p_values: Sequence[float]) -> float:
    """Return the two-sided p-value of one arm against the best of k others, without selecting the best.

    differences: of the arm from each of the others. p_values: two-sided, of each. To be ahead of the best is to be ahead of each,
    so the p-value is the largest one (intersection-union test, Berger 1982). To be behind the best is to be behind at least one,
    so the p-value is the smallest of those times k (Bonferroni). Each direction has an error rate of at most alpha / 2.

    >>> against_the_best([3.0, 5.0], [0.04, 0.01]), against_the_best([-3.0, 5.0], [0.02, 0.01])
    (0.04, 0.04)
    """
    if min(differences) > 0:
        return max(p_values)
    behind = [p for difference, p in zip(differences, p_values, strict=True) if difference < 0]
    return min(1.0, len(differences) * min(behind, default=1.0))


def _paired(*values: npt.ArrayLike) -> Doubles:
    """Return values over the same queries as the columns of one table."""
    columns = [np.asarray(column, np.float64) for column in values]
    shapes = [column.shape for column in columns]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise HarnessError(f"paired values need equal shapes (queries,), not {shapes}")
    return np.column_stack(columns)


def _cluster_sums(values: npt.ArrayLike, cluster: npt.ArrayLike) -> tuple[Doubles, Ints]:
    """Sum the columns of (q, s) within each cluster: sums (c, s) and sizes (c,), clusters in ascending order of id."""
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
    """Return the totals of cluster sums (c, s) in each bootstrap resample, (resamples, s)."""
    return np.concatenate([weights @ sums for weights in cluster_weights(len(sums), resamples, seed)])


def percentile_interval(resampled: Doubles, level: float = 0.95) -> Doubles:
    """Return the lower and the upper end of the percentile interval of resamples (r, ...), (2, ...).

    Both ends are resampled values and never interpolated, because a value may be infinite (see `gap_recovered`).

    >>> percentile_interval(np.arange(1000.0)).tolist()
    [25.0, 974.0]
    """
    ends: Doubles = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return ends


def _cluster_interval(resampled: Doubles, clusters: int, level: float) -> Doubles:
    """Return the percentile interval of resampled clusters, or NaN for fewer than two clusters."""
    ends = percentile_interval(resampled, level)
    return ends if clusters > 1 else np.full_like(ends, np.nan)


def _sign_flip(differences: Doubles, flips: int, seed: int) -> float:
    """Return the two-sided p-value of a sum of differences (c,) under sign flips."""
    differences = differences[differences != 0]
    seen = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()  # equal sums may differ by rounding
    if len(differences) <= _EXACT:
        patterns = np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences)) & 1
        return float(np.mean(_reaches(patterns, differences, seen)))
    draw = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(1,)))
    )  # independent of the bootstrap's stream
    rows, hits = max(_DRAWS // len(differences), 1), 0
    for start in range(0, flips, rows):
        patterns = draw.integers(2, size=(min(rows, flips - start), len(differences)), dtype=np.uint8)
        hits += int(np.count_nonzero(_reaches(patterns, differences, seen)))
    return (hits + 1) / (flips + 1)


def _reaches(patterns: npt.NDArray[np.integer], differences: Doubles, seen: float) -> npt.NDArray[np.bool_]:
    """Return whether the absolute sum under each pattern of flips (1 keeps, 0 flips) reaches the observed one."""
    flipped: npt.NDArray[np.bool_] = np.abs(2 * (patterns @ differences) - differences.sum()) >= seen
    return flipped
