"""From which of the teacher's tokens the first embedding of each foreign subword is made, told by the bitext alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from scipy import sparse

from harness.core.data import Doubles, Ints
from harness.distill.initializers.cooccurrence import (
    FIRMNESS,
    Sparse,
    association,
    balance,
    divided,
    occurrences,
    ratio,
)
from harness.distill.initializers.distributional import DistributionalContext
from harness.distill.initializers.orthography import Spelling
from harness.distill.model.tower import Tokens
from harness.distill.transport.problem import Solver
from harness.distill.transport.solvers import solve

Alignment: TypeAlias = Literal["association", "ibm1", "ot-vocabulary", "ot-sentences", "ot-contexts"]
Pairs: TypeAlias = Sequence[tuple[Sequence[int], Sequence[int]]]

# Chosen before any training step: by translation retrieval on held-out pairs, ROUNDS and what they end in on val images
# (docs/decisions.md).
POWER = 3.0
ROUNDS, POWER_OF_ROUNDS = 4, 2.0
LOOSELY = Solver("unbalanced", eps=1.0, rho=FIRMNESS / (1 - FIRMNESS))
# Of tokens in a sentence pair that are associated with others of it, but not with each other: exp(-25) is nothing.
FARTHEST = 25.0
# Of a token's mass; what is less is left out.
LEAST = 1e-4
PAIRS_AT_ONCE = 256
# What is left of the association of two tokens that keep quite different company.
UNHEARD = 1e-6


def alignment(
    foreign: Tokens,
    english: Tokens,
    sizes: tuple[int, int],
    way: Alignment,
    company: DistributionalContext | None = None,
    spelling: Spelling | None = None,
) -> Sparse:
    """Weights W (f, e) of the teacher's e tokens in the embedding of each of f subwords, from n sentence pairs of token ids.

    A row sums to 1, or is empty where the bitext associates its subword with nothing. The order of the pairs makes no difference.

    - `association`: the kernel of that name, sharpened by POWER.
    - `ot-vocabulary`: the kernel is first scaled to how often the tokens stand in the texts (`balance`): an English token that
      many subwords are associated with is then taken by those that have nothing better.
    - `ot-sentences`: that plan is made anew ROUNDS times, by transport within each sentence pair (`realigned`), and sharpened by
      POWER_OF_ROUNDS.
    - `ot-contexts`: the same again, from a kernel that is held to the plan of `Company.carried`, by texts without translations.
      Subwords that stand in no pair have their weights from that plan alone.
    - `ibm1`: the same rounds without transport, from the kernel as it is and by IBM's Model 1 within each pair.

    company: the texts of `ot-contexts`, those of the pairs among them.
    spelling: strengthens the kernel that all ways start from.
    """
    counts = [occurrences(texts, size) for texts, size in zip((foreign, english), sizes, strict=True)]
    kernel = association(*counts)
    if spelling:
        kernel = spelling.strengthened(kernel)
    if not kernel.nnz or way == "association":
        return sharpen(kernel, POWER)

    def balanced(kernel: Sparse) -> Sparse:
        return balance(kernel, counts[0].sum(0), counts[1].sum(0))

    if way == "ot-vocabulary":
        return sharpen(balanced(kernel), POWER)
    # The order decides how sums are rounded.
    pairs = sorted(zip(map(tuple, foreign), map(tuple, english), strict=True), key=lambda pair: (len(pair[0]), pair))
    if way == "ibm1":
        return by_rounds(kernel, pairs, posterior)
    weights = by_rounds(balanced(kernel), pairs, token_transport_plan)
    if company is None:
        return weights
    carried = company.carried(weights)
    weights = by_rounds(balanced(kernel * (carried + UNHEARD * kernel.sign())), pairs, token_transport_plan)
    unseen = np.diff(weights.indptr) == 0
    return sparse.csr_array(weights + sparse.diags_array(unseen.astype(float)) @ sharpen(carried, POWER_OF_ROUNDS))


def by_rounds(plan: Sparse, pairs: Pairs, shared: Callable[[Doubles], Doubles]) -> Sparse:
    """Weights (f, e) of a plan that is made anew ROUNDS times."""
    for _ in range(ROUNDS):
        plan = realigned(plan, pairs, shared)
    return sharpen(plan, POWER_OF_ROUNDS)


def realigned(plan: Sparse, pairs: Pairs, shared: Callable[[Doubles], Doubles]) -> Sparse:
    """How much mass each foreign token shares with each English one, added up over the sentence pairs that they stand in.

    shared: what the tokens of B pairs share with each other, (B, n, m), from how often they go together by a plan P (f, e) over
    the vocabulary against chance, lift_ij = P_ij / (sum_k P_ik sum_k P_kj), (B, n, m). 0 stays 0.
    """
    lift = divided(plan, plan.sum(1))
    lift = sparse.csr_array(lift @ sparse.diags_array(ratio(np.ones(plan.shape[1]), plan.sum(0))))
    entries, parts = looked_up(lift), []
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        x, y = (padded(side) for side in zip(*pairs[first : first + PAIRS_AT_ONCE], strict=True))
        lifts = entries(x, y)
        some = lifts.any((1, 2))
        if not some.any():
            continue
        x, y, masses = x[some], y[some], shared(lifts[some])
        pair, i, j = np.nonzero(masses > LEAST)
        parts.append((masses[pair, i, j], x[pair, i], y[pair, j]))
    masses, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sparse.csr_array(sparse.coo_array((masses, (rows, columns)), shape=plan.shape))


def token_transport_plan(lifts: Doubles, solver: Solver = LOOSELY) -> Doubles:
    """Plans (B, n, m) of transport at `costs`: by default unbalanced, at eps 1, with marginals as loose as in `balance`.

    So tokens compete for each other within their sentence, as in IBM's Model 1, but on both sides. Marginals are even over the
    tokens that go with any of the other side. A pair weighs as much as its shorter side has such tokens.
    """
    rows, columns = lifts.any(2), lifts.any(1)
    sides = torch.from_numpy(rows), torch.from_numpy(columns)
    plans: Doubles = solve(torch.from_numpy(costs(lifts)), *sides, solver).plan.numpy()
    shorter: Ints = np.minimum(rows.sum(1), columns.sum(1))
    return plans * shorter[:, None, None]


def costs(lifts: Doubles) -> Doubles:
    """-log lift (B, n, m), less the lowest of each pair, FARTHEST at most."""
    with np.errstate(divide="ignore"):
        cost: Doubles = np.minimum(-np.log(lifts / lifts.max((1, 2), keepdims=True)), FARTHEST)
    return cost


def posterior(lifts: Doubles) -> Doubles:
    """Which English token each foreign one translates by IBM's Model 1: its lifts over their sum (Brown et al. 1993, eq. 13).

    The model's t(f | e) is P_fe / sum_k P_ke; a foreign token's own frequency, by which a lift differs from it, cancels.
    """
    sums: Doubles = lifts.sum(2, keepdims=True)
    return ratio(lifts, np.broadcast_to(sums, lifts.shape))


def padded(texts: Tokens) -> Ints:
    """Token ids (B, L) of B texts, and -1 after their ends."""
    out = np.full((len(texts), max(map(len, texts))), -1)
    for row, text in zip(out, texts, strict=True):
        row[: len(text)] = text
    return out


def looked_up(matrix: Sparse) -> Callable[[Ints, Ints], Doubles]:
    """What gives the entries (B, n, m) of a csr matrix at all pairs of rows (B, n) and columns (B, m); 0 where either is -1.

    >>> entries = looked_up(sparse.csr_array(np.array([[1.0, 2.0], [0.0, 3.0]])))
    >>> entries(np.array([[1, 0]]), np.array([[0, 1, -1]])).tolist()
    [[[0.0, 3.0, 0.0], [1.0, 2.0, 0.0]]]
    """
    matrix, width = matrix.sorted_indices(), matrix.shape[1]
    keys = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)) * width + matrix.indices

    def entries(rows: Ints, columns: Ints) -> Doubles:
        rows, columns = rows[:, :, None], columns[:, None, :]
        wanted = np.where((rows < 0) | (columns < 0), -1, rows * width + columns)
        places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[places] == wanted, matrix.data[places], 0.0)

    return entries


def sharpen(plan: Sparse, power: float) -> Sparse:
    """Weights W_ij = P_ij^power / sum_k P_ik^power. Rows without an entry stay empty."""
    # Relative to the row's largest, so that no power of a small number is lost.
    weights = divided(plan, plan.max(axis=1).toarray())
    weights.data **= power
    return divided(weights, weights.sum(1))


def embed(weights: Sparse, known: Doubles) -> Doubles:
    """Embeddings (f, width) of subwords with weights W (f, e), none of them empty, over known ones X (e, width).

    A mean of many lies near the mean of all, mu. Each is therefore moved along its own line from mu, to the known ones' median
    distance: mu + (W X - mu) * median_j |X_j - mu| / |W X - mu|.
    """
    centre = known.mean(0)
    usual = np.median(np.linalg.norm(known - centre, axis=1))
    offsets = weights @ known - centre
    distances = np.linalg.norm(offsets, axis=1)
    moved: Doubles = centre + offsets * ratio(np.full_like(distances, usual), distances)[:, None]
    return moved
