"""Intervals and p-values against scipy, against hand-computed numbers, and against what they promise: coverage and uniformity."""

from __future__ import annotations

import math
import time
from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from harness.core.errors import HarnessError
from harness.statistics.inference import (
    PairedArms,
    bootstrap_mean,
    bootstrap_means,
    cluster_weights,
    contrasts,
    gap_recovered,
    holm,
    mcnemar,
    paired_difference,
)


def hits(random: np.random.Generator, clusters: int, each: int, rate: float = 0.4, icc: float = 0.3) -> Any:
    """Beta-binomial 0/1 values, (clusters * each,): correlation `icc` within a cluster."""
    spread = 1 / icc - 1
    return (
        (random.random((clusters, each)) < random.beta(rate * spread, (1 - rate) * spread, (clusters, 1))).ravel().astype(float)
    )


def test_weights_are_draws_with_replacement() -> None:
    weights = np.concatenate(list(cluster_weights(50, 4000, seed=1)))
    assert weights.shape == (4000, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.var(axis=0).mean() == pytest.approx(1 - 1 / 50, rel=0.02)
    assert np.corrcoef(weights[:, 0], weights[:, 1])[0, 1] == pytest.approx(-1 / 49, abs=0.05)


def test_weights_come_in_bounded_blocks() -> None:
    blocks = list(cluster_weights(5000, 450, seed=0))
    assert sum(len(block) for block in blocks) == 450
    assert max(block.size for block in blocks) <= 1 << 20
    assert (np.concatenate(blocks).sum(axis=1) == 5000).all()


@given(seed=st.integers(0, 2**32 - 1), clusters=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_same_seed_same_bytes_whatever_the_order_of_rows(seed: int, clusters: int) -> None:
    random = np.random.default_rng(seed)
    cluster = random.integers(clusters, size=30) * 7 - 3
    values = random.standard_normal((30, 3))
    order = random.permutation(30)

    def everything(rows: Any) -> str:  # as text, so that NaN equals NaN and nothing else is forgiven
        a, b, c = values[rows].T
        return repr(
            [
                bootstrap_means(values[rows], cluster[rows], resamples=200, seed=seed),
                paired_difference(a, b, cluster[rows], resamples=200, seed=seed),
                gap_recovered(a, b, c, cluster[rows], resamples=200, seed=seed),
            ]
        )

    assert everything(np.arange(30)) == everything(np.arange(30)) == everything(order)


def test_mean_is_the_ratio_over_queries_and_columns_share_resamples() -> None:
    cluster = np.array([0, 0, 0, 1, 2, 2])
    values = np.array([1.0, 1, 1, 0, 0, 1])
    both = bootstrap_means(np.column_stack([values, 1 - values]), cluster)
    assert both[0] == bootstrap_mean(values, cluster)
    assert both[0].estimate == pytest.approx(4 / 6)
    assert bootstrap_mean(np.ones(6), cluster).low == 1
    # All resamples of three clusters, each as likely: the interval's ends are order statistics of their ratio means.
    sums, sizes = np.array([3.0, 0, 1]), np.array([3, 1, 2])
    means = sorted(sums[list(drawn)].sum() / sizes[list(drawn)].sum() for drawn in product(range(3), repeat=3))
    assert (both[0].low, both[0].high) == (means[0], means[-1])
    narrow = bootstrap_mean(values, cluster, level=0.5)
    assert (narrow.low, narrow.high) == pytest.approx((means[6], means[20]))


def test_interval_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    values, cluster = hits(random, 150, 5), np.repeat(np.arange(150), 5)
    ours = bootstrap_mean(values, cluster, seed=1)
    per_image = values.reshape(150, 5).mean(axis=1)  # clusters of one size: the ratio is the mean of cluster means
    theirs = scipy.stats.bootstrap((per_image,), np.mean, n_resamples=10_000, method="percentile", rng=random).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.06 * width)


def test_interval_covers_the_truth_and_a_naive_one_does_not() -> None:
    random = np.random.default_rng(20)
    clusters, each, trials = 150, 5, 1500
    cluster = np.repeat(np.arange(clusters), each)
    values = np.column_stack([hits(random, clusters, each) for _ in range(trials)])

    def coverage(of: Any) -> float:
        # Trials are independent, so sharing one set of resamples over them leaves each interval's coverage as it is.
        return float(np.mean([i.low <= 0.4 <= i.high for i in bootstrap_means(values, of, resamples=2000, seed=3)]))

    assert 0.93 <= coverage(cluster) <= 0.97
    assert coverage(np.arange(len(cluster))) < 0.90


def test_one_cluster_shows_no_spread() -> None:
    of = bootstrap_mean(np.array([1.0, 0.0]), np.array([4, 4]))
    assert of.estimate == 0.5
    assert math.isnan(of.low)
    assert math.isnan(of.high)
    assert math.isnan(paired_difference(np.ones(2), np.zeros(2), np.zeros(2, int)).error)


@pytest.mark.parametrize("clusters", [10, 60])
def test_sign_flips_agree_with_scipy(clusters: int) -> None:
    """Ten clusters are enumerated, sixty are drawn."""
    random = np.random.default_rng(clusters)
    cluster = np.repeat(np.arange(clusters), 5)
    a, b = random.normal(0.12, 1, len(cluster)), random.normal(0, 1, len(cluster))
    sums = (a - b).reshape(clusters, 5).sum(axis=1)
    theirs = scipy.stats.permutation_test(
        (sums,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=20_000, vectorized=True, rng=random
    )
    assert paired_difference(a, b, cluster).p_value == pytest.approx(theirs.pvalue, abs=1e-12 if clusters == 10 else 0.015)


def test_exact_p_by_hand() -> None:
    cluster = np.arange(6)

    def p(differences: list[float]) -> float:
        return paired_difference(np.array(differences), np.zeros(6), cluster).p_value

    assert p([1, 1, 1, 0, 0, 0]) == 2 / 8  # +++ and ---
    assert p([1, 1, -1, 0, 0, 0]) == 1  # no pattern of three odd numbers sums to less than 1
    assert p([1, 1, 1, 1, -1, 0]) == 12 / 32  # |sum| >= 3: no sign or one sign apart
    assert p([0.8, -0.4, 0.6, 0.3, -0.9, 0]) == p([8, -4, 6, 3, -9, 0]) == 28 / 32  # rounding loses no pattern of the same sum
    assert p([0] * 6) == 1


def test_p_is_never_zero() -> None:
    assert paired_difference(np.ones(40), np.zeros(40), np.arange(40), resamples=999).p_value == 1 / 1000


def test_p_is_uniform_when_nothing_differs() -> None:
    random = np.random.default_rng(11)
    cluster = np.repeat(np.arange(40), 5)
    ps = []
    for seed in range(400):
        shared = random.normal(size=(40, 1))  # both towers find the same images hard
        a, b = ((shared + random.normal(size=(40, 5)) + random.normal(size=(40, 1))).ravel() for _ in range(2))
        ps.append(paired_difference(a, b, cluster, resamples=500, seed=seed).p_value)
    assert scipy.stats.kstest(ps, "uniform").pvalue > 0.01
    assert np.mean(np.array(ps) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_difference_is_paired() -> None:
    random = np.random.default_rng(12)
    cluster = np.repeat(np.arange(100), 5)
    hard = np.repeat(random.normal(size=100), 5)
    a, b = hard + 0.1 + random.normal(0, 0.2, 500), hard
    of, turned = paired_difference(a, b, cluster), paired_difference(b, a, cluster)
    assert of.estimate == pytest.approx(0.1, abs=0.03)
    assert 0 < of.low < of.estimate < of.high < 0.2
    assert of.p_value == turned.p_value < 0.001
    assert (of.estimate, of.error) == pytest.approx((-turned.estimate, turned.error))
    assert bootstrap_mean(a - b, cluster).low == of.low


def test_the_standard_error_is_that_of_a_mean() -> None:
    values = np.random.default_rng(13).normal(size=200)
    error = paired_difference(values, np.zeros(200), np.arange(200)).error
    assert error == pytest.approx(values.std() / math.sqrt(200), rel=0.03)


def test_gap_recovered_by_hand_and_under_resampling() -> None:
    random = np.random.default_rng(14)
    cluster = np.repeat(np.arange(300), 5)
    floor, ceiling = hits(random, 300, 5, rate=0.1), hits(random, 300, 5, rate=0.7)
    student = np.where(random.random(1500) < 0.5, ceiling, floor)
    of = gap_recovered(student, floor, ceiling, cluster)
    assert of.estimate == pytest.approx((student.mean() - floor.mean()) / (ceiling.mean() - floor.mean()))
    assert of.low < of.estimate < of.high
    draws = (random.integers(300, size=300) for _ in range(2000))
    means = ([v.reshape(300, 5)[d].mean() for v in (student, floor, ceiling)] for d in draws)
    slow = np.quantile([(s - f) / (c - f) for s, f, c in means], [0.025, 0.975])
    assert (of.low, of.high) == pytest.approx(tuple(slow), abs=0.1 * (slow[1] - slow[0]))
    assert gap_recovered(floor, floor, ceiling, cluster) == type(of)(0.0, 0.0, 0.0)
    assert gap_recovered(ceiling, floor, ceiling, cluster) == type(of)(1.0, 1.0, 1.0)


def test_no_gap_no_share() -> None:
    q, random = np.arange(100), np.random.default_rng(15)
    none = gap_recovered(np.ones(100), np.full(100, 0.5), np.full(100, 0.5), q)
    assert all(math.isnan(x) for x in (none.estimate, none.low, none.high))
    noise = random.normal(size=100)
    unsure = gap_recovered(np.ones(100), np.zeros(100), noise - noise.mean() + 0.1, q)  # a gap of one standard error
    assert unsure.estimate == pytest.approx(10)
    assert math.isnan(unsure.low)
    assert math.isnan(unsure.high)
    rare = gap_recovered(np.ones(100), np.zeros(100), noise - noise.mean() + 0.25, q)  # of two and a half: closed in under 2.5 %
    assert 0 < rare.low < 4 < rare.high < math.inf


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9, 0.4]) == pytest.approx([1, 1, 1])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    with pytest.raises(HarnessError, match="between 0 and 1"):
        holm([0.2, math.nan])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_only_raises_and_keeps_the_order(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(p <= q <= 1 for p, q in zip(ps, adjusted, strict=True))
    assert adjusted[int(np.argmin(ps))] == pytest.approx(min(1, len(ps) * min(ps)))
    in_order = [q for _, q in sorted(zip(ps, adjusted, strict=True))]
    assert in_order == sorted(in_order)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(HarnessError, match="2 of 3 values"):
        bootstrap_mean(np.array([1, np.nan, np.inf]), np.arange(3))
    with pytest.raises(HarnessError, match="one id"):
        bootstrap_mean(np.ones(3), np.arange(2))
    with pytest.raises(HarnessError, match="one or more queries"):
        bootstrap_mean(np.ones(0), np.arange(0))
    with pytest.raises(HarnessError, match="paired values need equal shapes"):
        paired_difference(np.ones(3), np.ones(4), np.arange(3))
    with pytest.raises(HarnessError, match="paired values need equal shapes"):
        gap_recovered(np.ones(3), np.ones(3), np.ones(1), np.arange(3))


def paired_hits(random: np.random.Generator, clusters: int, each: int, rates: tuple[float, float]) -> tuple[Any, Any, Any]:
    """Hits of two towers that find the same images hard: one latent ease an image, ICC 0.3 in each tower."""
    ease = random.random((clusters, 1))
    spread = 1 / 0.3 - 1
    chances = [scipy.stats.beta.ppf(ease, rate * spread, (1 - rate) * spread) for rate in rates]
    a, b = ((random.random((clusters, each)) < chance).ravel().astype(float) for chance in chances)
    return a, b, np.repeat(np.arange(clusters), each)


def test_one_seed_is_the_paired_difference() -> None:
    a, b, cluster = paired_hits(np.random.default_rng(1), 80, 5, (0.5, 0.4))
    (of,), plain = contrasts([PairedArms(a, b, cluster)], [{0: 1.0}]), paired_difference(a, b, cluster)
    assert (of.p_value, of.p_sign_flip) == (plain.p_value, plain.p_value)
    ours = (of.difference.estimate, of.difference.low, of.difference.high, of.error)
    assert ours == pytest.approx((plain.estimate, plain.low, plain.high, plain.error), abs=1e-12)
    assert of.freedom == math.inf
    assert of.a.low == bootstrap_mean(a, cluster).low
    assert math.isnan(of.seed_error)


def test_difference_covers_a_known_effect() -> None:
    """500 data sets of 150 images x 5 captions, hits with ICC 0.3, true difference 5 points."""
    random = np.random.default_rng(30)
    sets = [PairedArms(*paired_hits(random, 150, 5, (0.45, 0.40))) for _ in range(500)]
    found = contrasts(sets, [{i: 1.0} for i in range(500)], resamples=1000)
    assert 0.93 <= np.mean([of.difference.low <= 0.05 <= of.difference.high for of in found]) <= 0.97
    assert np.mean([of.difference.estimate for of in found]) == pytest.approx(0.05, abs=0.003)


def test_no_effect_gives_uniform_p() -> None:
    """500 data sets, ICC 0.3, with values that have no ties: hits are counts, and a difference of 0 has p = 1 by itself."""
    random = np.random.default_rng(31)
    shared, own = random.normal(size=(500, 1, 150, 1)), random.normal(size=(500, 2, 150, 1))
    values = np.sqrt(0.15) * (shared + own) + np.sqrt(0.7) * random.normal(size=(500, 2, 150, 5))
    cluster = np.repeat(np.arange(150), 5)
    sets = [PairedArms(a, b, cluster) for a, b in values.reshape(500, 2, 750)]
    ps = [of.p_value for of in contrasts(sets, [{i: 1.0} for i in range(500)], resamples=1000)]
    assert scipy.stats.kstest(ps, "uniform").pvalue > 0.01


def test_no_effect_on_hits_is_never_found_too_often_and_holm_keeps_the_familywise_error() -> None:
    """75 families of 8 languages; a family errs if any of its languages is told apart."""
    random = np.random.default_rng(31)
    families = 75
    sets = [PairedArms(*paired_hits(random, 150, 5, (0.4, 0.4))) for _ in range(8 * families)]
    ps = [of.p_value for of in contrasts(sets, [{i: 1.0} for i in range(len(sets))], resamples=1000)]
    assert scipy.stats.kstest(ps, "uniform", alternative="greater").pvalue > 0.01  # no more small ones than uniform p would have
    uniform = random.random((4000, 8))
    erring = [min(holm(row)) <= 0.05 for row in [*np.reshape(ps, (families, 8)).tolist(), *uniform.tolist()]]
    assert np.mean(erring[:families]) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / families)
    assert np.mean(erring[families:]) == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 4000))


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.0), (3, 0.15), (5, 0.05)])
def test_with_seeds_the_interval_covers_a_method_s_difference(seeds: int, spread: float) -> None:
    """Seeds, images and their interaction vary; the sign flip, which knows only images, errs where seeds differ."""
    random, trials, images = np.random.default_rng(seeds), 400, 150
    image = random.normal(0, 0.5, (trials, 1, images))
    values = image + random.normal(0, spread, (trials, seeds, 1)) + random.normal(0, 1, (trials, seeds, images))
    names = [tuple(f"{trial}-{seed}" for seed in range(seeds)) for trial in range(trials)]  # no two trials share their draws
    arms = [PairedArms(of, np.zeros_like(of), np.arange(images), name, name) for of, name in zip(values, names, strict=True)]
    found = contrasts(arms, [{i: 1.0} for i in range(trials)], resamples=600)
    assert 0.925 <= np.mean([of.difference.low <= 0 <= of.difference.high for of in found]) <= 0.985
    assert np.mean([of.p_value <= 0.05 for of in found]) <= 0.075
    naive = np.mean([of.p_sign_flip <= 0.05 for of in found])
    assert naive > 0.15 if spread == 0.15 else naive < 0.11
    assert np.mean([of.seed_error**2 for of in found]) == pytest.approx(spread**2 / seeds, abs=0.0025)


def test_seed_variance_by_hand() -> None:
    """Every image moves alike between seeds: all of the spread is the seeds', none of it the images'."""
    base = np.tile([0.0, 1.0], 20)
    a = np.stack([base + shift for shift in (0.0, 0.3, 0.6)])
    names = ("0", "1", "2")
    (of,) = contrasts([PairedArms(a, np.stack([base] * 3), np.arange(40), names, names)], [{0: 1.0}])
    assert of.difference.estimate == pytest.approx(0.3)
    assert of.image_error == pytest.approx(0, abs=1e-9)
    assert of.seed_error == pytest.approx(0.3 / math.sqrt(3))
    assert of.difference.low < 0 < of.difference.high  # t with 2 degrees of freedom: 4.3 standard errors
    assert of.p_sign_flip < 0.001
    assert of.p_value == pytest.approx(scipy.stats.ttest_1samp([0, 0.3, 0.6], 0).pvalue)


def test_seeds_that_are_not_the_same_vary_apart() -> None:
    random = np.random.default_rng(5)
    shifts = random.normal(0, 0.3, (2, 4))
    a, b = (random.normal(size=100) * 0.01 + shift[:, None] for shift in shifts)
    (of,) = contrasts([PairedArms(a, b, np.arange(100), tuple("0123"), tuple("4567"))], [{0: 1.0}])
    assert of.seed_error == pytest.approx(math.sqrt(shifts.var(axis=1, ddof=1).sum() / 4), rel=0.01)


def test_a_macro_mean_weighs_languages_alike_and_resamples_their_images_together() -> None:
    random = np.random.default_rng(6)
    one, two = paired_hits(random, 60, 5, (0.5, 0.4)), paired_hits(random, 60, 1, (0.3, 0.4))
    pooled, *single = contrasts([PairedArms(*one), PairedArms(*two)], [{0: 0.5, 1: 0.5}, {0: 1.0}, {1: 1.0}])
    assert pooled.difference.estimate == pytest.approx(np.mean([of.difference.estimate for of in single]))
    same = contrasts(
        [PairedArms(*one), PairedArms(*one)], [{0: 0.5, 1: 0.5}, {0: 1.0}]
    )  # the same images twice tell nothing more
    assert (same[0].difference.low, same[0].p_value) == pytest.approx((same[1].difference.low, same[1].p_value))
    apart = PairedArms(*one[:2], one[2] + 1000)
    independent = contrasts([PairedArms(*one), apart], [{0: 0.5, 1: 0.5}])[0].image_error
    assert independent == pytest.approx(same[1].image_error / math.sqrt(2), rel=0.1)


def test_contrasts_do_not_depend_on_the_order_of_rows() -> None:
    random = np.random.default_rng(7)
    a, b, cluster = random.normal(size=(2, 60)), random.normal(size=(2, 60)), random.integers(12, size=60)
    order = random.permutation(60)
    seeds = ("0", "1")
    straight = contrasts([PairedArms(a, b, cluster, seeds, seeds)], [{0: 1.0}], resamples=200)
    assert repr(straight) == repr(contrasts([PairedArms(a, b, cluster, seeds, seeds)], [{0: 1.0}], resamples=200))
    mixed = contrasts([PairedArms(a[:, order], b[:, order], cluster[order], seeds, seeds)], [{0: 1.0}], resamples=200)
    assert repr(straight) == repr(mixed)


def test_difference_agrees_with_scipy_s_paired_bootstrap() -> None:
    random = np.random.default_rng(8)
    a, b, cluster = paired_hits(random, 150, 5, (0.5, 0.4))
    (ours,) = contrasts([PairedArms(a, b, cluster)], [{0: 1.0}])
    means = [values.reshape(150, 5).mean(axis=1) for values in (a, b)]
    theirs = scipy.stats.bootstrap(
        means,
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=10_000,
        rng=random,
    )
    assert ours.difference.low == pytest.approx(theirs.confidence_interval.low, abs=0.004)
    assert ours.difference.high == pytest.approx(theirs.confidence_interval.high, abs=0.004)
    assert ours.image_error == pytest.approx(theirs.standard_error, rel=0.03)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_mcnemar_agrees_with_statsmodels(pairs: list[tuple[bool, bool]]) -> None:
    a, b = np.array(pairs).T
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    of = mcnemar(a, b)
    assert (of.b, of.c) == (table[0][1], table[1][0])
    if of.b + of.c:
        assert of.p_value == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
    else:
        assert of.p_value == 1


def test_holm_agrees_with_statsmodels() -> None:
    random = np.random.default_rng(10)
    for count in range(1, 13):
        ps = np.round(random.random(count) ** 3, 2)  # rounded, so that some are equal
        assert holm(ps.tolist()) == pytest.approx(multipletests(ps, method="holm")[1].tolist())


def test_ten_thousand_resamples_take_under_a_second() -> None:
    """1,000 images x 5 captions x 2 towers, with the sign flips."""
    a, b, cluster = paired_hits(np.random.default_rng(9), 1000, 5, (0.42, 0.40))
    began = time.process_time()
    contrasts([PairedArms(a, b, cluster)], [{0: 1.0}], resamples=10_000)
    assert time.process_time() - began < 1
