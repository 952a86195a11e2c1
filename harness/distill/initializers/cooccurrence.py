"""Tokens of sentence pairs counted, and what the counts make: a kernel of association, and a plan that is balanced."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from harness.core.data import Doubles
from harness.distill.model.tower import Tokens

# A `scipy.sparse.csr_array` of float64: scipy has no types.
Sparse: TypeAlias = Any

# Chosen by translation retrieval on held-out pairs, before any training step (docs/decisions.md).
FIRMNESS = 0.8
ITERATIONS, TOLERANCE = 1000, 1e-9


def occurrences(texts: Tokens, vocabulary: int) -> Sparse:
    """How often each token stands in each text: (n, vocabulary)."""
    rows = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    ids = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
    return sparse.csr_array((np.ones(len(ids)), (rows, ids)), shape=(len(texts), vocabulary))


def association(foreign: Sparse, english: Sparse) -> Sparse:
    """How strongly tokens of n sentence pairs go together, from their occurrences (n, f) and (n, e): a kernel (f, e).

    K = Dice * max(PMI, 0), with Dice = 2 c / (c_f + c_e) and PMI = log(n c / (c_f c_e)), where c_f and c_e count the pairs in
    which a token stands, and c those in which both stand. Tokens that stand in every pair (the framing) go with none.
    PMI after Church and Hanks (1990), Dice after Smadja et al. (1996).
    """
    pairs = foreign.shape[0]
    foreign, english = foreign.sign(), english.sign()
    both = sparse.coo_array(foreign.T @ english)
    of_foreign, of_english = foreign.sum(0)[both.row], english.sum(0)[both.col]
    dice = 2 * both.data / (of_foreign + of_english)
    # Products of whole numbers are exact, and so is their ratio's logarithm where it is 0.
    pmi = np.log(pairs * both.data / (of_foreign * of_english))
    kernel = sparse.csr_array((dice * np.maximum(pmi, 0), (both.row, both.col)), shape=both.shape)
    kernel.eliminate_zeros()
    return kernel


def balance(kernel: Sparse, rows: Doubles, columns: Doubles, firmness: float = FIRMNESS) -> Sparse:
    """The plan P = diag(u) K diag(v) of a kernel K (f, e) whose row and column sums are held to the given ones.

    P minimises KL(P | K) + m KL(P 1 | a) + m KL(P' 1 | b), a and b being `rows` (f,) and `columns` (e,) in proportion, without
    those that K has no entries in: u = (a / K v)^r, v = (b / K' u)^r, r = `firmness` = m / (m + 1) (Chizat et al. 2018). At 1
    the sums are met (Sinkhorn; Cuturi 2013), wherever K's zeros leave a plan that does; below 1 there always is one limit.
    """
    by_column = sparse.csr_array(kernel.T)
    rows, columns = (np.where(sums > 0, wanted, 0.0) for sums, wanted in ((kernel.sum(1), rows), (kernel.sum(0), columns)))
    rows, columns = rows / rows.sum(), columns / columns.sum()
    v, sums = np.ones(len(columns)), np.zeros(len(rows))
    for _ in range(ITERATIONS):
        u = ratio(rows, kernel @ v) ** firmness
        v = ratio(columns, by_column @ u) ** firmness
        before, sums = sums, u * (kernel @ v)
        if np.abs(sums - before).sum() < TOLERANCE * sums.sum():
            break
    return sparse.csr_array(sparse.diags_array(u) @ kernel @ sparse.diags_array(v))


def divided(matrix: Sparse, amounts: Doubles) -> Sparse:
    """Each row of a matrix (f, e) over its amount (f,); nothing where that is 0."""
    return sparse.csr_array(sparse.diags_array(ratio(np.ones(len(amounts)), amounts)) @ matrix)


def ratio(part: Doubles, whole: Doubles) -> Doubles:
    """part / whole, and 0 where the whole is."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
