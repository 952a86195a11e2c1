"""Aligners of sentence pairs against their published rules: fast_align, symmetrisation, Model 1 with agreement, and SimAlign."""

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma

from harness.distill.alignment import fast_align
from harness.distill.alignment.fast_align import (
    DIRICHLET,
    NULL_PROBABILITY,
    DiagonalFit,
    best_cells,
    diagonal_prior,
    estimate_table,
    fast_align_links,
    fast_align_weights,
    joint_probabilities,
    make_cells,
    posteriors,
    token_probabilities,
    uniform_table,
)
from harness.distill.alignment.ibm1 import agreed_model1_weights, agreed_posterior
from harness.distill.alignment.links import count_links, grow_diag_final_and, link_weights
from harness.distill.alignment.simalign import LINK_RULES, argmax_links, itermax_links, match_links, state_similarities
from harness.distill.alignment.token_bitext import TokenizedBitext, TokenPairs

SENTENCES = st.lists(st.integers(0, 6), min_size=1, max_size=6).map(tuple)
PAIRS = st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=12)


def random_pairs(count: int, seed: int = 0) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return pairs in which each token translates the one with the same number, in nearly the same order."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        ids = rng.integers(0, 12, rng.integers(2, 8))
        pairs.append((tuple(ids.tolist()), tuple(np.where(rng.random(len(ids)) < 0.1, 12, ids).tolist())))
    return pairs


class PlainModel:
    """fast_align's expectation and maximisation for one direction, token by token: the target is the first side of a pair."""

    def __init__(self, pairs: TokenPairs) -> None:
        self.pairs = pairs
        self.table: dict[tuple[int | None, int], float] = defaultdict(lambda: 1.0)

    def posterior(self, tension: float) -> list[list[tuple[float, list[float]]]]:
        """Return p(NULL) and p(i) for each target token of each pair."""
        out = []
        for target, source in self.pairs:
            row = []
            for j, t in enumerate(target, 1):
                near = [math.exp(-tension * abs(i / len(source) - j / len(target))) for i in range(1, len(source) + 1)]
                null = NULL_PROBABILITY * self.table[None, t]
                joint = [(1 - NULL_PROBABILITY) * n / sum(near) * self.table[s, t] for n, s in zip(near, source, strict=True)]
                whole = null + sum(joint)
                row.append((null / whole, [p / whole for p in joint]))
            out.append(row)
        return out

    def maximise(self, tension: float) -> None:
        counts: dict[int | None, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for (target, source), row in zip(self.pairs, self.posterior(tension), strict=True):
            for t, (null, places) in zip(target, row, strict=True):
                counts[None][t] += null
                for s, p in zip(source, places, strict=True):
                    counts[s][t] += p
        for s, own in counts.items():
            whole = digamma(sum(count + DIRICHLET for count in own.values()))
            for t, count in own.items():
                self.table[s, t] = math.exp(digamma(count + DIRICHLET) - whole)


def test_fast_align_is_expectation_maximisation_token_by_token() -> None:
    pairs = random_pairs(20)
    plain, grid = PlainModel(pairs), make_cells(pairs).forward
    table = uniform_table(grid)
    for _ in range(3):
        posterior = posteriors(grid, joint_probabilities(grid, table, diagonal_prior(grid, 4.0), NULL_PROBABILITY))
        table = estimate_table(grid, posterior, DIRICHLET)
        rows = [row for text in plain.posterior(4.0) for row in text]
        np.testing.assert_allclose(posterior.null, [null for null, _ in rows], rtol=1e-9)
        np.testing.assert_allclose(posterior.cells, [p for _, places in rows for p in places], rtol=1e-9)
        plain.maximise(4.0)


def test_the_backward_grid_is_the_forward_grid_of_turned_pairs() -> None:
    pairs = random_pairs(15)
    backward, turned = make_cells(pairs).backward, make_cells([(english, foreign) for foreign, english in pairs]).forward
    joint, other = (
        joint_probabilities(grid, uniform_table(grid), diagonal_prior(grid, 3.0), NULL_PROBABILITY) for grid in (backward, turned)
    )
    np.testing.assert_array_equal(backward.tokens, turned.tokens)
    np.testing.assert_allclose(np.sort(joint.cells), np.sort(other.cells))
    np.testing.assert_allclose(token_probabilities(backward, joint), token_probabilities(turned, other))


@settings(max_examples=30, deadline=None)
@given(PAIRS, st.sampled_from([0.1, 4.0, 14.0]))
def test_without_the_dirichlet_prior_the_likelihood_never_falls(pairs: TokenPairs, tension: float) -> None:
    grid = make_cells(pairs).forward
    prior, before = diagonal_prior(grid, tension), -math.inf
    # The table that training starts from is no distribution: the first likelihood is that of the second.
    joint = joint_probabilities(grid, uniform_table(grid), prior, NULL_PROBABILITY)
    for _ in range(6):
        joint = joint_probabilities(grid, estimate_table(grid, posteriors(grid, joint)), prior, NULL_PROBABILITY)
        likelihood = float(np.log(token_probabilities(grid, joint)).sum())
        assert likelihood >= before - 1e-9
        before = likelihood


@settings(max_examples=30, deadline=None)
@given(PAIRS)
def test_a_prior_and_a_posterior_sum_to_one(pairs: TokenPairs) -> None:
    grid = make_cells(pairs).forward
    prior = diagonal_prior(grid, 4.0)
    np.testing.assert_allclose(np.bincount(grid.token, prior), 1 - NULL_PROBABILITY)
    posterior = posteriors(grid, joint_probabilities(grid, uniform_table(grid), prior, NULL_PROBABILITY))
    np.testing.assert_allclose(token_probabilities(grid, posterior), 1)


def test_the_prior_mean_is_the_derivative_of_the_logarithm_of_z() -> None:
    shapes = np.array([[3, 5], [2, 2], [3, 5]])

    def mean_log_z(tension: float) -> float:
        logs = []
        for m, n in shapes.tolist():
            for j in range(1, m + 1):
                logs.append(math.log(sum(math.exp(-tension * abs(i / n - j / m)) for i in range(1, n + 1))))
        return float(np.mean(logs))

    slope = (mean_log_z(4 + 1e-5) - mean_log_z(4 - 1e-5)) / 2e-5
    assert DiagonalFit.of_shapes(shapes).prior_mean(4.0) == pytest.approx(slope, rel=1e-6)


def test_the_tension_rises_for_sentences_in_order_and_falls_for_others() -> None:
    fit = DiagonalFit.of_shapes(np.array([[8, 8]] * 5))
    assert fit.refit(4.0, -0.02) > 4 > fit.refit(4.0, -0.3)
    assert fit.refit(4.0, 0.0) == fast_align.LARGEST_TENSION
    assert fit.refit(4.0, -1.0) == fast_align.SMALLEST_TENSION


def test_links_of_identical_sentences_are_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    texts = [tuple(rng.permutation(30)[: rng.integers(1, 9)].tolist()) for _ in range(60)]
    assert fast_align_links(list(zip(texts, texts, strict=True))) == [{(i, i) for i in range(len(text))} for text in texts]


def test_translations_are_linked_whatever_their_order() -> None:
    rng = np.random.default_rng(1)
    texts = [rng.permutation(12)[: rng.integers(2, 6)] for _ in range(200)]
    pairs = [(tuple(rng.permutation(text).tolist()), tuple(text.tolist())) for text in texts]
    links = zip(pairs, fast_align_links(pairs), strict=True)
    right = [foreign[i] == english[j] for (foreign, english), own in links for i, j in own]
    assert np.mean(right) > 0.97


def test_the_best_source_may_be_null_and_is_the_first_of_equal_ones() -> None:
    grid = make_cells([((0, 1, 2), (5, 6))]).forward
    joint = fast_align.Joint(np.array([0.2, 0.2, 0.1, 0.3, 0.1, 0.2]), np.array([0.1, 0.4, 0.2]))
    assert best_cells(grid, joint).tolist() == [0]


def test_pairs_with_an_empty_side_have_no_links() -> None:
    assert fast_align_links([((1,), ()), ((), (2,)), ((1,), (2,))])[:2] == [set(), set()]
    assert fast_align_links([((1,), ()), ((), ())]) == [set(), set()]
    empty = TokenizedBitext([[1], []], [[], [2]], (3, 3))
    assert fast_align_weights(empty).nnz == agreed_model1_weights(empty).nnz == 0


@pytest.mark.parametrize("rule", [fast_align_weights, agreed_model1_weights])
def test_weights_sum_to_one_and_the_order_of_pairs_changes_no_bit(rule) -> None:  # type: ignore[no-untyped-def]
    pairs = random_pairs(60)
    weights = rule(TokenizedBitext(*zip(*pairs, strict=True), (14, 14)))
    sums = weights.sum(1)
    np.testing.assert_allclose(sums[sums > 0], 1)
    assert (weights.toarray()[:12].argmax(1) == np.arange(12)).mean() > 0.9
    shuffled = [pairs[i] for i in np.random.default_rng(3).permutation(len(pairs))]
    assert (rule(TokenizedBitext(*zip(*shuffled, strict=True), (14, 14))) != weights).nnz == 0


def test_symmetrisation_by_hand() -> None:
    """(1, 1) is diagonal to (0, 0), and (2, 0) to (1, 1): then (2, 1) has no free token. (4, 4) is added last, and frees none."""
    one, other = {(0, 0), (1, 1), (2, 1), (4, 4)}, {(0, 0), (2, 0), (4, 5)}
    assert grow_diag_final_and(one, other) == {(0, 0), (1, 1), (2, 0), (4, 4)}


LINKS = st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)))


@settings(max_examples=60, deadline=None)
@given(LINKS, LINKS)
def test_symmetrised_links_lie_between_intersection_and_union(one: set[tuple[int, int]], other: set[tuple[int, int]]) -> None:
    links = grow_diag_final_and(one, other)
    assert one & other <= links <= one | other
    rows, columns = {i for i, _ in links}, {j for _, j in links}
    assert all(i in rows or j in columns for i, j in one | other)


def test_link_counts_become_shares() -> None:
    counts = count_links([((0, 1), (2, 3)), ((0,), (2,))], [{(0, 0), (1, 1), (0, 1)}, {(0, 0)}], (3, 4))
    np.testing.assert_allclose(link_weights(counts).toarray(), [[0, 0, 2 / 3, 1 / 3], [0, 0, 0, 1], [0, 0, 0, 0]])


def test_agreed_models_are_trained_on_the_product_of_their_posteriors() -> None:
    pairs, tables = random_pairs(15), ({}, {})
    for _ in range(fast_align.ITERATIONS):
        counts: list[dict[tuple[int | None, int], float]] = [defaultdict(float), defaultdict(float)]
        agreed = []
        for pair in pairs:
            ways, nulls = [], []
            for way, (target, source) in enumerate((pair, pair[::-1])):
                table = tables[way]
                null = np.array([table.get((None, t), 1.0) for t in target])
                each = np.array([[table.get((s, t), 0.0 if table else 1.0) for s in source] for t in target])
                sums = null + each.sum(1)
                ways.append(each / sums[:, None])
                nulls.append(null / sums)
            both = ways[0] * ways[1].T
            agreed.append(both)
            for way, (target, source) in enumerate((pair, pair[::-1])):
                for t, null in zip(target, nulls[way], strict=True):
                    counts[way][None, t] += null
                for (row, column), amount in np.ndenumerate(both if way == 0 else both.T):
                    counts[way][source[column], target[row]] += amount
        tables = tuple(  # type: ignore[assignment]
            {(s, t): amount / sum(other for (source, _), other in own.items() if source == s) for (s, t), amount in own.items()}
            for own in counts
        )
    cells = make_cells(pairs)
    found = agreed_posterior(cells.forward, cells.backward)
    np.testing.assert_allclose(found, np.concatenate([both.ravel() for both in agreed]), rtol=1e-8)


SIMILARITIES = np.array([[0.9, 0.8, 0.1, 0.2], [0.85, 0.3, 0.2, 0.1], [0.1, 0.2, 0.7, 0.65]])


def test_the_rules_of_simalign_by_hand() -> None:
    """Argmax links (0, 0) and (2, 2). In the second round (0, 1), (1, 0) and (2, 3) are each other's best at nine tenths."""
    assert argmax_links(SIMILARITIES) == {(0, 0), (2, 2)}
    assert itermax_links(SIMILARITIES) == {(0, 0), (2, 2), (0, 1), (1, 0), (2, 3)}
    assert match_links(SIMILARITIES) == {(0, 1), (1, 0), (2, 2)}


def test_itermax_has_one_round_for_short_sentences() -> None:
    assert itermax_links(SIMILARITIES[:, :2]) == argmax_links(SIMILARITIES[:, :2])


@pytest.mark.parametrize("rule", LINK_RULES.values())
def test_simalign_links_the_diagonal_of_identical_sentences(rule) -> None:  # type: ignore[no-untyped-def]
    states = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    similarities = state_similarities(states, states)
    np.testing.assert_allclose(similarities.diagonal(), 1)
    assert 0 <= similarities.min() <= similarities.max() <= 1 + 1e-12
    assert rule(similarities) == {(i, i) for i in range(5)}
