"""Token counts of sentence pairs, their association kernel, and a balanced plan."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from harness.core.data import Doubles
from harness.distill.model.tower import Tokens

# A `scipy.sparse.csr_array` of float64: scipy has no types.
Sparse: TypeAlias = Any

# Chosen by translation retrieval on held-out pairs, before any training step (docs/decisions.md).
MARGINAL_EXPONENT = 0.8
BALANCE_ITERATIONS, BALANCE_TOLERANCE = 1000, 1e-9


def occurrences(texts: Tokens, vocabulary: int) -> Sparse:
    """Return the counts (n, vocabulary) of each token in each text."""
    rows = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    ids = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
    return sparse.csr_array((np.ones(len(ids)), (rows, ids)), shape=(len(texts), vocabulary))


def association(foreign: Sparse, english: Sparse) -> Sparse:
    """Return the association kernel K (f, e) of the tokens of n sentence pairs, from their occurrences (n, f) and (n, e).

    K = Dice * max(PMI, 0), with Dice = 2 c / (c_f + c_e) and PMI = log(n c / (c_f c_e)). c_f and c_e count the pairs that
    contain a token, and c those that contain both. Tokens that occur in every pair (the framing) are associated with none.
    PMI after Church and Hanks (1990), Dice after Smadja et al. (1996).
    """
    pairs = foreign.shape[0]
    foreign, english = foreign.sign(), english.sign()
    both = sparse.coo_array(foreign.T @ english)
    of_foreign, of_english = foreign.sum(0)[both.row], english.sum(0)[both.col]
    dice = 2 * both.data / (of_foreign + of_english)
    # Products of integers are exact, so the logarithm of a ratio of 1 is exactly 0.
    pmi = np.log(pairs * both.data / (of_foreign * of_english))
    kernel = sparse.csr_array((dice * np.maximum(pmi, 0), (both.row, both.col)), shape=both.shape)
    kernel.eliminate_zeros()
    return kernel


def balance(kernel: Sparse, rows: Doubles, columns: Doubles, exponent: float = MARGINAL_EXPONENT) -> Sparse:
    """Return the plan P = diag(u) K diag(v) of a kernel K (f, e), with marginals relaxed towards the given ones.

    P minimises KL(P | K) + m KL(P 1 | a) + m KL(P' 1 | b). a and b are proportional to `rows` and `columns`,
    and 0 where K has no entries: u = (a / K v)^r, v = (b / K' u)^r, r = `exponent` = m / (m + 1) (Chizat et al. 2018). At r = 1
    the marginals are met (Sinkhorn; Cuturi 2013), if K's zeros allow it. Below 1 there is always one limit.
    """
    by_column = sparse.csr_array(kernel.T)
    rows, columns = (np.where(sums > 0, wanted, 0.0) for sums, wanted in ((kernel.sum(1), rows), (kernel.sum(0), columns)))
    rows, columns = rows / rows.sum(), columns / columns.sum()
    v, sums = np.ones(len(columns)), np.zeros(len(rows))
    for _ in range(BALANCE_ITERATIONS):
        u = safe_ratio(rows, kernel @ v) ** exponent
        v = safe_ratio(columns, by_column @ u) ** exponent
        before, sums = sums, u * (kernel @ v)
        if np.abs(sums - before).sum() < BALANCE_TOLERANCE * sums.sum():
            break
    return sparse.csr_array(sparse.diags_array(u) @ kernel @ sparse.diags_array(v))


def divide_rows(matrix: Sparse, amounts: Doubles) -> Sparse:
    """Divide each row of a matrix (f, e) by its amount (f,). A row with the amount 0 becomes 0."""
    return sparse.csr_array(sparse.diags_array(safe_ratio(np.ones(len(amounts)), amounts)) @ matrix)


def safe_ratio(part: Doubles, whole: Doubles) -> Doubles:
    """Return part / whole, and 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
