"""Equivalence, random effects, rates with few hits, and planning, against statsmodels and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import stdtrit
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from benchmarks.statistics import board_separates, draw_hits, rejections, seeded_values
from harness.core.errors import HarnessError
from harness.statistics.inference import PairedArms, bootstrap_mean, bootstrap_means, contrasts, paired_difference
from harness.statistics.methods.equivalence import OneSided, equivalence_to_best, one_sided_tests
from harness.statistics.methods.meta_analysis import random_effects
from harness.statistics.methods.planning import VarianceComponents, power, seeds_for_power, variance_components
from harness.statistics.methods.rates import wilson_interval
from harness.statistics.verdicts import verdict_text


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 2))
def test_one_sided_tests_are_those_of_statsmodels(seed: int, margin: float) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 12))
    differences = a - b
    ours = one_sided_tests(differences.mean(), differences.std(ddof=1) / math.sqrt(12), 11, margin)
    p_value, (_, below, _), (_, above, _) = ttost_paired(a, b, -margin, margin)
    assert (ours.p_value, ours.below, ours.above) == pytest.approx((p_value, below, above), abs=1e-9)


def test_equivalence_to_the_best_needs_every_rival_below_and_one_above() -> None:
    near, far = OneSided(0.001, 0.002), OneSided(0.0001, 0.9)  # clearly ahead of the second
    assert equivalence_to_best([near]) == 0.002
    assert equivalence_to_best([near, far]) == 0.004
    assert equivalence_to_best([near, OneSided(0.6, 0.0001)]) == 0.6


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0.1, 3)), min_size=2, max_size=8))
def test_random_effects_are_those_of_statsmodels(rows: list[tuple[float, float]]) -> None:
    effects, errors = zip(*rows, strict=True)
    with np.errstate(all="ignore"):
        theirs = combine_effects(np.array(effects), np.square(errors), method_re="dl", use_t=True)
    ours = random_effects(effects, errors)
    assert (ours.tau > 0) == (theirs.tau2 > 0)
    assume(theirs.tau2 > 1e-6)  # statsmodels does not cut negative variances off
    assert ours.estimate == pytest.approx(theirs.mean_effect_re, abs=1e-9)
    assert ours.tau**2 == pytest.approx(theirs.tau2, rel=1e-9)
    assert (ours.q, ours.i_squared) == pytest.approx((theirs.q, theirs.i2), rel=1e-9)
    half = max(theirs.sd_eff_w_re_hksj, theirs.sd_eff_w_re) * stdtrit(len(rows) - 1, 0.975)
    assert ours.high - ours.estimate == pytest.approx(half, rel=1e-9)


def test_one_language_has_no_random_effects() -> None:
    with pytest.raises(HarnessError, match="two or more differences"):
        random_effects([1.0], [0.5])


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_s_interval_is_that_of_statsmodels(hits: int, more: int) -> None:
    count = hits + more
    low, high = proportion_confint(hits, count, method="wilson")
    assert wilson_interval(hits / count, count, 1.959963984540054) == pytest.approx((low, high), abs=1e-12)


def test_no_hit_leaves_rates_of_three_in_n_possible() -> None:
    none = bootstrap_mean(np.zeros(300), np.arange(300), hit=100)
    assert (none.estimate, none.low) == (0, 0)
    assert none.high == pytest.approx(100 * 3.84 / (300 + 3.84), rel=0.01)
    # Five captions an image add nothing where no hit shows how they are correlated.
    again = bootstrap_mean(np.zeros(1500), np.repeat(np.arange(300), 5), hit=100)
    assert again.high == none.high
    every = bootstrap_mean(np.full(300, 100.0), np.arange(300), hit=100)
    assert (every.low, every.high) == pytest.approx((100 - none.high, 100))


def test_arms_with_few_hits_have_the_same_interval_alone_and_in_a_comparison() -> None:
    hits = np.where(np.arange(200) < 3, 100.0, 0.0)
    (found,) = contrasts([PairedArms(hits, hits, np.arange(200), hit=100)], [{0: 1.0}], resamples=500)
    alone = bootstrap_mean(hits, np.arange(200), hit=100, resamples=500)
    assert (found.a.low, found.a.high) == pytest.approx((alone.low, alone.high))
    assert (found.difference.low, found.difference.high) == pytest.approx((-1.88, 1.88), abs=0.01)
    assert paired_difference(hits, hits, np.arange(200), hit=100, resamples=500).error == pytest.approx(found.error)


@pytest.mark.parametrize(("images", "margin"), [(100, 1), (300, 1), (100, 2), (1000, 1)])
def test_towers_that_differ_by_the_margin_are_seldom_equivalent(images: int, margin: int) -> None:
    """One tower hits nothing, the other as many percent as the margin: few images or none show it."""
    random, equivalent, covered = np.random.default_rng(images), 0, 0
    for _ in range(300):
        hits = np.where(random.random(images) < margin / 100, 100.0, 0.0)
        found = paired_difference(hits, np.zeros(images), np.arange(images), hit=100, resamples=200)
        equivalent += one_sided_tests(found.estimate, found.error, math.inf, margin).p_value < 0.05
        covered += found.low <= margin <= found.high
    assert equivalent / 300 < 0.05 + 0.035
    assert covered / 300 > 0.95 - 0.05


@pytest.mark.parametrize(("rate", "icc", "captions"), [(0.01, 0, 1), (0.01, 0.7, 5), (0.05, 0.7, 5)])
def test_intervals_of_low_rates_cover_them(rate: float, icc: float, captions: int) -> None:
    hits = draw_hits(np.random.default_rng(4), rate, icc, 100, captions, 400)
    cluster = np.repeat(np.arange(100), captions)
    plain, ours = (
        np.mean([each.low <= rate <= each.high for each in bootstrap_means(hits, cluster, hit=hit, resamples=500)])
        for hit in (None, 1.0)
    )
    assert ours > 0.9
    assert ours > plain + 0.01


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 1.0), (5, 1.0)])
def test_planned_power_is_the_share_of_significant_data_sets(seeds: int, spread: float) -> None:
    components = VarianceComponents(25.0, spread, 30.0)
    values = seeded_values(np.random.default_rng(seeds), components, (400, seeds, 150), 7.0)
    planned = power(7.0, components, 150, seeds)
    assert rejections(values) == pytest.approx(planned, abs=3.5 * math.sqrt(planned * (1 - planned) / 400) + 0.02)


def test_components_are_found_again() -> None:
    asked = VarianceComponents(25.0, 4.0, 30.0)
    found = variance_components(list(seeded_values(np.random.default_rng(0), asked, (200, 4, 300), 1.0)))
    assert (found.image, found.seed, found.rest) == pytest.approx((25, 4, 30), rel=0.1)
    with pytest.raises(HarnessError, match="two or more seeds"):
        variance_components([np.zeros((1, 9))])


def test_more_seeds_do_not_help_where_images_limit_the_power() -> None:
    components = VarianceComponents(image=25.0, seed=0.0, rest=5.0)
    assert seeds_for_power(0.5, components, 1000) is None
    few = seeds_for_power(6.0, components, 1000)
    assert few is not None
    assert power(6.0, components, 1000, few) >= 0.8


def test_seeds_keep_a_board_from_separating_equal_methods() -> None:
    random = np.random.default_rng(3)
    alone, both = zip(*(board_separates(random, 3, 1.0, number) for number in range(40)), strict=True)
    assert np.mean(alone) > 0.25
    assert np.mean(both) < 0.25


def test_a_verdict_never_states_equality() -> None:
    assert verdict_text(0.2, -1.0, 2.0) == "inconclusive: compatible with -1.0 to +2.0 points"
    assert verdict_text(0.00001, 1.0, 2.0) == "differs (Holm-adjusted p < 0.001, 95 % CI [+1.0, +2.0])"
