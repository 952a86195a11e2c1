"""Ranks against their definition written out over the whole float64 score matrix, and what degenerate encoders must score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.data import Ranks
from harness.core.errors import HarnessError
from harness.retrieval import ranking
from harness.retrieval.ranking import TOLERANCE, Bars, Biases, CandidateBias, chance_rates, hit_rate, rank, retrieval_scores
from harness.runtime.matmul import onednn_is_faster

WIDTHS = (1, 2, 8, 33)


def world(seed: int, *, n: int = 12, extra: int = 20, width: int = 8, noise: float = 1.0) -> tuple[Any, Any, Any]:
    """Random images, captions near them, and owners in random order; every image has one caption at least."""
    random = np.random.default_rng(seed)
    owner = random.permutation(np.concatenate([np.arange(n), random.integers(n, size=extra)]))
    images = random.standard_normal((n, width)).astype(np.float32)
    texts = images[owner] + noise * random.standard_normal((len(owner), width)).astype(np.float32)
    return images, texts.astype(np.float32), owner


def by_definition(images: Any, texts: Any, owner: Any, biases: Biases | None = None) -> Ranks:
    """One plus the number of others that score at least as high as the best relevant one, less the tolerance."""

    def biased(scores: Any, bias: CandidateBias | None) -> Any:
        if bias is None:
            return scores
        return scores + bias.values * (1 if bias.queries is None else bias.queries[:, None])

    def unit(rows: Any) -> Any:
        norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        return (rows / np.where(norms > 0, norms, 1)).astype(np.float32).astype(np.float64)

    matrix = unit(texts) @ unit(images).T
    t2i, i2t = [], []
    for row, image in zip(biased(matrix, biases and biases.t2i), owner, strict=True):
        others = np.delete(row, image)
        t2i.append(1 + np.count_nonzero(others >= row[image] - TOLERANCE))
    for image, column in enumerate(biased(matrix.T, biases and biases.i2t)):
        relevant = owner == image
        i2t.append(1 + np.count_nonzero(column[~relevant] >= column[relevant].max() - TOLERANCE))
    return Ranks(np.array(t2i), np.array(i2t))


def assert_same(got: Ranks, want: Ranks) -> None:
    np.testing.assert_array_equal(got.t2i, want.t2i)
    np.testing.assert_array_equal(got.i2t, want.i2t)


@pytest.fixture(params=["numba", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores counted by what numba compiled, and by torch."""
    if request.param == "numba":
        pytest.importorskip("numba", exc_type=ImportError)
    monkeypatch.setattr(ranking, "NUMBA_MIN_SCORES", 0 if request.param == "numba" else 1 << 62)


@pytest.mark.usefixtures("way")
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 90),
    extra=st.integers(0, 300),
    width=st.sampled_from(WIDTHS),
    noise=st.sampled_from([0.0, 0.3, 3.0]),
    copies=st.integers(1, 3),
    side=st.sampled_from([25, 64, 100, 2048]),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fast_path_is_the_definition(*, seed: int, n: int, extra: int, width: int, noise: float, copies: int, side: int) -> None:
    """In tiles that divide neither side, with several captions an image, negative scores, and images that are there twice."""
    images, texts, owner = world(seed, n=n, extra=extra, width=width, noise=noise)
    images = images[np.arange(n) // copies]
    assert_same(rank(images, texts, owner, chunk=4 * side * side), by_definition(images, texts, owner))


@pytest.mark.usefixtures("way")
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 70),
    extra=st.integers(0, 200),
    spread=st.sampled_from([0.0, 1e-7, 0.1, 5.0]),
    copies=st.integers(1, 3),
    switched=st.booleans(),
    side=st.sampled_from([25, 64, 2048]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_biased_ranks_are_the_definition(
    *, seed: int, n: int, extra: int, spread: float, copies: int, switched: bool, side: int
) -> None:
    """Biases of any size, in both directions or for some queries, on images that are there twice with one bias."""
    images, texts, owner = world(seed, n=n, extra=extra)
    images, random = images[np.arange(n) // copies], np.random.default_rng(seed)
    switches = [random.random(size) < 0.5 if switched else None for size in (len(texts), n)]
    of_images = spread * random.standard_normal(n)[np.arange(n) // copies]
    biases = Biases(
        CandidateBias(7 + of_images, switches[0]), CandidateBias(spread * random.standard_normal(len(texts)), switches[1])
    )
    assert_same(rank(images, texts, owner, biases=biases, chunk=4 * side * side), by_definition(images, texts, owner, biases))


@pytest.mark.usefixtures("way")
def test_a_tile_of_one_score_will_do() -> None:
    images, texts, owner = world(10)
    assert_same(rank(images, texts, owner, chunk=1), by_definition(images, texts, owner))


def test_both_ways_of_counting_find_the_same_doubts() -> None:
    """More columns than a strip has, bars at scores, beside them, and at infinity."""
    counting = pytest.importorskip("harness.retrieval.ranking_numba", exc_type=ImportError)
    random = np.random.default_rng(11)
    scores = torch.from_numpy(random.integers(-9, 10, (37, 2 * counting.STRIP + 5)).astype(np.float32))
    scores[3, 5] = -torch.inf

    def side(length: int) -> Bars:
        sure = torch.from_numpy(random.integers(-9, 10, length).astype(np.float32))
        sure[0] = torch.inf
        return Bars(sure, sure, sure, sure - torch.from_numpy(random.integers(0, 3, length).astype(np.float32)))

    texts, images = side(scores.shape[0]), side(scores.shape[1])
    (*counts, rows, columns), (*others, their_rows, their_columns) = (
        count(scores, texts, images) for count in (counting.count_reached, ranking._count)
    )
    assert all(torch.equal(one.long(), other.long()) for one, other in zip(counts, others, strict=True))
    doubts = set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert doubts == set(zip(their_rows.tolist(), their_columns.tolist(), strict=True))
    assert 0 < len(doubts) == len(rows) == len(their_rows) < scores.numel()


@pytest.mark.usefixtures("way")
@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 3))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@pytest.mark.usefixtures("way")
def test_scores_in_doubt_are_settled_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a product made a hundred times as coarse as float32, and a bound to match, no rank changes."""
    images, texts, owner = world(5, n=300, extra=900, width=32, noise=2.0)
    want = by_definition(images, texts, owner)
    assert_same(rank(images, texts, owner), want)
    product, noise = torch.mm, torch.Generator().manual_seed(0)

    def coarse(one: torch.Tensor, other: torch.Tensor, *, out: torch.Tensor) -> None:
        product(one, other, out=out)
        out += 2e-4 * torch.rand(out.shape, generator=noise) - 1e-4

    monkeypatch.setattr(torch, "mm", coarse)
    assert not all(np.array_equal(*pair) for pair in zip(sides(rank(images, texts, owner)), sides(want), strict=True))
    monkeypatch.setattr(ranking, "float32_slack", lambda width: 2e-4 + width * 2.0**-23)
    assert_same(rank(images, texts, owner), want)
    monkeypatch.setattr(ranking, "PAIR_COST", 10**9)  # now every tile is scored in float64 as a whole
    assert_same(rank(images, texts, owner), want)


def sides(of: Ranks) -> tuple[Any, Any]:
    return of.t2i, of.i2t


def test_the_product_is_in_float32_whatever_the_process_is_set_to() -> None:
    """Where the setting would let it be less, the bound would not hold."""
    images, texts, owner = world(12)
    seen, product = [], torch.mm

    def watched(one: torch.Tensor, other: torch.Tensor, *, out: torch.Tensor) -> None:
        seen.append(torch.get_float32_matmul_precision())
        product(one, other, out=out)

    torch.set_float32_matmul_precision("high")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "mm", watched)
            rank(images, texts, owner)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"medium" if onednn_is_faster() else "highest"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_finds_the_same() -> None:
    images, texts, owner = world(13, n=333, extra=900, width=33)
    assert_same(rank(images, texts, owner, device="cuda"), by_definition(images, texts, owner))


def test_the_bound_on_float32_products_holds() -> None:
    random = np.random.default_rng(3)
    for width in (64, 512, 1024):
        # All products positive: the partial sums, and so the errors, are largest.
        rows = np.abs(random.standard_normal((200, width)))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        error = np.abs((rows @ rows.T).astype(np.float64) - rows.astype(np.float64) @ rows.astype(np.float64).T)
        assert error.max() < ranking.float32_slack(width)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_constant_encoder_scores_zero(noise: float) -> None:
    """Noise of 1e-8 leaves a few distinct score values: near-ties count against the encoder as ties do."""
    random = np.random.default_rng(0)
    images = (1 + noise * random.standard_normal((100, 64))).astype(np.float32)
    texts = (1 + noise * random.standard_normal((500, 64))).astype(np.float32)
    of = rank(images, texts, np.repeat(np.arange(100), 5))
    assert set(of.t2i) == {100}
    assert set(of.i2t) == {496}
    assert retrieval_scores(of)["mean_recall"] == 0


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
    of = retrieval_scores(rank(images, np.repeat(images, 5, axis=0), np.repeat(np.arange(100), 5)))
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
    of = retrieval_scores(Ranks(t2i=np.array([1, 4, 6, 11]), i2t=np.array([1, 2])))
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
    assert chance_rates(owner, n) == pytest.approx(hits, abs=0.6)


def test_chance_on_karpathys_test_split() -> None:
    of = chance_rates(np.repeat(np.arange(1000), 5), 1000)
    assert of["t2i_r10"] == pytest.approx(1.0)
    assert of["i2t_r1"] == pytest.approx(0.1)
    assert of["i2t_r10"] == pytest.approx(100 * (1 - np.prod((4995 - np.arange(10)) / (5000 - np.arange(10)))))
    assert chance_rates(np.arange(3), 3)["i2t_r10"] == 100
