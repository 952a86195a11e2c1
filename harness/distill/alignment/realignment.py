"""Realignment: the plan between two vocabularies, re-estimated within each sentence pair."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse

from harness.core.data import Doubles, Ints
from harness.distill.alignment.cooccurrence import MARGINAL_EXPONENT, Sparse, divide_rows, safe_ratio
from harness.distill.alignment.token_bitext import TokenPairs
from harness.distill.model.tower import Tokens
from harness.distill.transport.problem import Solver
from harness.distill.transport.solvers import solve

# Chosen before any training step: by translation retrieval on held-out pairs; ROUNDS and POWER_OF_ROUNDS on val images
# (docs/decisions.md).
SHARPENING = 3.0
ROUNDS, ROUND_SHARPENING = 4, 2.0
LOOSE_MARGINALS = Solver("unbalanced", eps=1.0, rho=MARGINAL_EXPONENT / (1 - MARGINAL_EXPONENT))
# The largest cost, of tokens of a sentence pair that are associated with others of it but not with each other: exp(-25) is 0.
LARGEST_COST = 25.0
# Smaller shares of a token's mass are dropped.
SMALLEST_MASS = 1e-4
PAIRS_A_BATCH = 256


def realigned_weights(plan: Sparse, pairs: TokenPairs, shared: Callable[[Doubles], Doubles]) -> Sparse:
    """Return the weights (f, e) of a plan that is realigned ROUNDS times; none for an empty plan."""
    if not plan.nnz:
        return plan
    for _ in range(ROUNDS):
        plan = realign(plan, pairs, shared)
    return sharpen(plan, ROUND_SHARPENING)


def realign(plan: Sparse, pairs: TokenPairs, shared: Callable[[Doubles], Doubles]) -> Sparse:
    """Return the mass that foreign and English tokens share (f, e), summed over the sentence pairs.

    shared: maps the lifts of the tokens of B pairs (B, n, m) to the masses that they share (B, n, m). The lift of tokens under
    the plan P (f, e) is lift_ij = P_ij / (sum_k P_ik sum_k P_kj). A lift of 0 shares no mass.
    """
    lift = divide_rows(plan, plan.sum(1))
    lift = sparse.csr_array(lift @ sparse.diags_array(safe_ratio(np.ones(plan.shape[1]), plan.sum(0))))
    entries, parts = entry_lookup(lift), []
    for first in range(0, len(pairs), PAIRS_A_BATCH):
        x, y = (pad_ids(side) for side in zip(*pairs[first : first + PAIRS_A_BATCH], strict=True))
        lifts = entries(x, y)
        some = lifts.any((1, 2))
        if not some.any():
            continue
        x, y, masses = x[some], y[some], shared(lifts[some])
        pair, i, j = np.nonzero(masses > SMALLEST_MASS)
        parts.append((masses[pair, i, j], x[pair, i], y[pair, j]))
    masses, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sparse.csr_array(sparse.coo_array((masses, (rows, columns)), shape=plan.shape))


def token_transport_plan(lifts: Doubles, solver: Solver = LOOSE_MARGINALS) -> Doubles:
    """Return transport plans (B, n, m) at `lift_costs`, by default unbalanced at eps 1 with marginals relaxed as in `balance`.

    Tokens compete for each other within their sentence, as in IBM's Model 1, but on both sides. Marginals are uniform over the
    tokens with a positive lift. The mass of a pair is the number of such tokens on its shorter side.
    """
    rows, columns = lifts.any(2), lifts.any(1)
    sides = torch.from_numpy(rows), torch.from_numpy(columns)
    plans: Doubles = solve(torch.from_numpy(lift_costs(lifts)), *sides, solver).plan.numpy()
    shorter: Ints = np.minimum(rows.sum(1), columns.sum(1))
    return plans * shorter[:, None, None]


def lift_costs(lifts: Doubles) -> Doubles:
    """Return -log lift (B, n, m) minus the minimum of each pair, at most LARGEST_COST."""
    with np.errstate(divide="ignore"):
        cost: Doubles = np.minimum(-np.log(lifts / lifts.max((1, 2), keepdims=True)), LARGEST_COST)
    return cost


def pad_ids(texts: Tokens) -> Ints:
    """Return the token ids (B, L) of B texts, padded with -1."""
    out = np.full((len(texts), max(map(len, texts))), -1)
    for row, text in zip(out, texts, strict=True):
        row[: len(text)] = text
    return out


def entry_lookup(matrix: Sparse) -> Callable[[Ints, Ints], Doubles]:
    """Return a function of rows (B, n) and columns (B, m) to a csr matrix's entries (B, n, m), 0 for rows or columns of -1.

    >>> entries = entry_lookup(sparse.csr_array(np.array([[1.0, 2.0], [0.0, 3.0]])))
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
    """Return weights W_ij = P_ij^power / sum_k P_ik^power. Rows without entries stay empty."""
    # Dividing by the row's maximum first avoids underflow of the power.
    weights = divide_rows(plan, plan.max(axis=1).toarray())
    weights.data **= power
    return divide_rows(weights, weights.sum(1))
