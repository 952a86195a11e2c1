"""Ranks against their definition written out over the whole float64 score matrix, and what degenerate encoders must score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import ranking
from harness.api import HarnessError
from harness.ranking import TOLERANCE, Ranks, chance, hit_rate, rank, scores

WIDTHS = (1, 2, 8, 33)


def world(seed: int, *, n: int = 12, extra: int = 20, width: int = 8, noise: float = 1.0) -> tuple[Any, Any, Any]:
    """Random images, captions near them, and owners in random order; every image has one caption at least."""
    random = np.random.default_rng(seed)
    owner = random.permutation(np.concatenate([np.arange(n), random.integers(n, size=extra)]))
    images = random.standard_normal((n, width)).astype(np.float32)
    texts = images[owner] + noise * random.standard_normal((len(owner), width)).astype(np.float32)
    return images, texts.astype(np.float32), owner


def by_definition(images: Any, texts: Any, owner: Any) -> Ranks:
    """One plus the number of others that score at least as high as the best relevant one, less the tolerance."""

    def unit(rows: Any) -> Any:
        norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        return (rows / np.where(norms > 0, norms, 1)).astype(np.float32).astype(np.float64)

    matrix = unit(texts) @ unit(images).T
    t2i, i2t = [], []
    for row, image in zip(matrix, owner, strict=True):
        others = np.delete(row, image)
        t2i.append(1 + np.count_nonzero(others >= row[image] - TOLERANCE))
    for image, column in enumerate(matrix.T):
        relevant = owner == image
        i2t.append(1 + np.count_nonzero(column[~relevant] >= column[relevant].max() - TOLERANCE))
    return Ranks(np.array(t2i), np.array(i2t))


def assert_same(got: Ranks, want: Ranks) -> None:
    np.testing.assert_array_equal(got.t2i, want.t2i)
    np.testing.assert_array_equal(got.i2t, want.i2t)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    extra=st.integers(0, 300),
    width=st.sampled_from(WIDTHS),
    noise=st.sampled_from([0.0, 0.3, 3.0]),
    chunk=st.sampled_from([1, 160, 4096, 64 << 20]),
)
@settings(max_examples=120, deadline=None)
def test_fast_path_is_the_definition(*, seed: int, n: int, extra: int, width: int, noise: float, chunk: int) -> None:
    images, texts, owner = world(seed, n=n, extra=extra, width=width, noise=noise)
    assert_same(rank(images, texts, owner, chunk=chunk), by_definition(images, texts, owner))


@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_embeddings_on_a_grid_tie_often_and_are_counted_right(seed: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    _, _, owner = world(seed)
    images = random.integers(-levels, levels + 1, (12, 3)).astype(np.float32)
    texts = random.integers(-levels, levels + 1, (len(owner), 3)).astype(np.float32)
    assert_same(rank(images, texts, owner), by_definition(images, texts, owner))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_order_of_rows_does_not_matter(seed: int) -> None:
    images, texts, owner = world(seed)
    random = np.random.default_rng(seed)
    to, order = random.permutation(len(images)), random.permutation(len(texts))
    moved = np.empty_like(images)
    moved[to] = images
    shuffled = rank(moved, texts[order], to[owner[order]])
    straight = rank(images, texts, owner)
    assert_same(Ranks(shuffled.t2i, shuffled.i2t[to]), Ranks(straight.t2i[order], straight.i2t))


def test_scores_in_doubt_are_settled_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a product made a hundred times as coarse as float32, and a bound to match, no rank changes."""
    images, texts, owner = world(5, n=300, extra=900, width=32, noise=2.0)
    want = by_definition(images, texts, owner)
    assert_same(rank(images, texts, owner), want)
    compare = ranking._compare

    def coarse(product: Any, bars: Any, slack: float) -> Any:
        return compare(product + np.random.default_rng(0).uniform(-1e-4, 1e-4, product.shape).astype(np.float32), bars, slack)

    monkeypatch.setattr(ranking, "_compare", coarse)
    monkeypatch.setattr(ranking, "_slack", lambda width: 2e-4 + width * 2.0**-23)
    assert_same(rank(images, texts, owner), want)
    monkeypatch.setattr(ranking, "_DENSE", 10**9)  # now every block is scored in float64 as a whole
    assert_same(rank(images, texts, owner), want)


def test_the_bound_on_float32_products_holds() -> None:
    random = np.random.default_rng(3)
    for width in (64, 512, 1024):
        # All products positive: the partial sums, and so the errors, are largest.
        rows = np.abs(random.standard_normal((200, width)))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        error = np.abs((rows @ rows.T).astype(np.float64) - rows.astype(np.float64) @ rows.astype(np.float64).T)
        assert error.max() < ranking._slack(width)


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_constant_encoder_scores_zero(noise: float) -> None:
    """Noise of 1e-8 leaves a few distinct score values: near-ties count against the encoder as ties do."""
    random = np.random.default_rng(0)
    images = (1 + noise * random.standard_normal((100, 64))).astype(np.float32)
    texts = (1 + noise * random.standard_normal((500, 64))).astype(np.float32)
    of = rank(images, texts, np.repeat(np.arange(100), 5))
    assert set(of.t2i) == {100}
    assert set(of.i2t) == {496}
    assert scores(of)["mean_recall"] == 0


def test_near_tie_counts_against_but_a_clear_win_does_not() -> None:
    for gap, expected in ((1e-8, 2), (-1e-8, 2), (5e-7, 2), (2e-6, 1)):
        angle = np.arccos(0.5) + gap / np.sin(np.arccos(0.5))  # the wrong image scores `gap` less than the right one's 0.5
        images = np.array([[0.5, np.sqrt(0.75)], [np.cos(angle), np.sin(angle)]], np.float32)
        texts = np.array([[1, 0], [0, 1]], np.float32)
        assert rank(images, texts, np.array([0, 1])).t2i[0] == expected


def test_zero_text_ties_with_everything() -> None:
    images, texts, owner = world(1)
    of = rank(images, np.zeros_like(texts), owner)
    assert set(of.t2i) == {len(images)}
    assert (of.i2t == 1 + len(texts) - np.bincount(owner)).all()


def test_every_image_twice() -> None:
    """Perfect captions of doubled images: the twin always ties, so R@1 is 0 and R@5 is 100."""
    images = np.repeat(np.random.default_rng(2).standard_normal((50, 16)).astype(np.float32), 2, axis=0)
    of = scores(rank(images, np.repeat(images, 5, axis=0), np.repeat(np.arange(100), 5)))
    assert of["t2i_r1"] == of["i2t_r1"] == 0
    assert of["t2i_r5"] == of["i2t_r10"] == 100


def test_negative_scores_rank_like_any_others() -> None:
    images, texts, owner = world(4, n=30, extra=90, width=16)
    # One more coordinate, of opposite sign on the two sides, pushes all scores down; equal row norms keep their order.
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    low = np.column_stack([images, np.full(len(images), 3)]), np.column_stack([texts, np.full(len(texts), -3)])
    assert (low[1] @ low[0].T < 0).all()
    assert_same(rank(low[0].astype(np.float32), low[1].astype(np.float32), owner), by_definition(*low, owner))
    assert_same(rank(low[0], low[1], owner), rank(images, texts, owner))


def test_other_captions_of_the_image_never_count_against_it() -> None:
    images = np.eye(2, dtype=np.float32)
    texts = np.array([[1, 0], [1, 0.1], [1, 0.1], [0, 1]], np.float32)
    assert rank(images, texts, np.array([0, 0, 0, 1])).i2t.tolist() == [1, 1]
    assert rank(images, texts, np.array([1, 0, 0, 1])).i2t.tolist() == [2, 1]


def test_scale_of_embeddings_does_not_matter() -> None:
    images, texts, owner = world(6)
    assert_same(rank(images * np.float32(1e-30), texts * np.float32(1e30), owner), rank(images, texts, owner))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_finite_are_refused(value: float) -> None:
    images, texts, owner = world(7)
    texts[[3, 5], 2] = value
    with pytest.raises(HarnessError, match="2 of 32 text embeddings"):
        rank(images, texts, owner)
    images[1] = value
    with pytest.raises(HarnessError, match="1 of 12 image embeddings"):
        rank(images, texts, owner)


def test_what_does_not_fit_is_refused() -> None:
    images, texts, owner = world(8)
    with pytest.raises(HarnessError, match="one space"):
        rank(images[:, 1:], texts, owner)
    with pytest.raises(HarnessError, match="one integer for each of the 32"):
        rank(images, texts, owner[1:])
    with pytest.raises(HarnessError, match="numbered 0 to 11"):
        rank(images, texts, owner + 1)
    with pytest.raises(HarnessError, match=r"1 of 12 images have no caption, the first is number 3"):
        rank(images, texts, np.where(owner == 3, 4, owner))
    with pytest.raises(HarnessError, match="nothing to rank"):
        rank(images[:0], texts[:0], owner[:0])


def test_scores_by_hand() -> None:
    of = scores(Ranks(t2i=np.array([1, 4, 6, 11]), i2t=np.array([1, 2])))
    assert of == {
        "t2i_r1": 25.0,
        "t2i_r5": 50.0,
        "t2i_r10": 75.0,
        "i2t_r1": 50.0,
        "i2t_r5": 100.0,
        "i2t_r10": 100.0,
        "t2i_median_rank": 5.0,
        "i2t_median_rank": 1.5,
        "mean_recall": pytest.approx(400 / 6),
    }


def test_chance_is_what_random_rankings_score() -> None:
    random = np.random.default_rng(9)
    owner = np.array([0] * 5 + [1] + [2, 2] + list(range(3, 15)))
    n, m, trials = 15, len(owner), 4000
    hits = {f"{side}_r{k}": 0.0 for side in ("t2i", "i2t") for k in (1, 5, 10)}
    for _ in range(trials):
        t2i = random.integers(1, n + 1, m)
        place = random.permuted(np.tile(np.arange(1, m + 1), (n, 1)), axis=1)
        i2t = np.where(owner == np.arange(n)[:, None], place, m + 1).min(axis=1)
        for k in (1, 5, 10):
            hits[f"t2i_r{k}"] += hit_rate(t2i, k) / trials
            hits[f"i2t_r{k}"] += hit_rate(i2t, k) / trials
    assert chance(owner, n) == pytest.approx(hits, abs=0.6)


def test_chance_on_karpathys_test_split() -> None:
    of = chance(np.repeat(np.arange(1000), 5), 1000)
    assert of["t2i_r10"] == pytest.approx(1.0)
    assert of["i2t_r1"] == pytest.approx(0.1)
    assert of["i2t_r10"] == pytest.approx(100 * (1 - np.prod((4995 - np.arange(10)) / (5000 - np.arange(10)))))
    assert chance(np.arange(3), 3)["i2t_r10"] == 100
