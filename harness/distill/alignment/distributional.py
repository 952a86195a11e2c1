"""Distributional contexts: which tokens of two languages correspond, from monolingual text of both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from harness.core.data import Doubles, Ints
from harness.distill.alignment.cooccurrence import Sparse, balance, divide_rows, occurrences, safe_ratio
from harness.distill.model.tower import Tokens

DIMENSIONS, WINDOW = 100, 4
POWER_ITERATIONS = 8
# Chosen by the retrieval of val images with untrained towers (docs/decisions.md).
EPS = 1 / 16
# Rarer tokens occur in too few contexts.
SMALLEST_COUNT = 4
# An anchor that is more frequent than this weighs no more.
LARGEST_COUNT = 50
# Smaller entries, relative to the largest of their row, are dropped before the plan is balanced.
SMALLEST_ENTRY = 3e-4
ROWS_A_BATCH = 1000


def distributional_vectors(texts: Tokens, size: int) -> Doubles:
    """Return vectors (size, d) of length 1 that are similar for tokens with similar contexts.

    They are U S^(1/2) of the DIMENSIONS largest singular values of the positive pointwise mutual information with the tokens up
    to WINDOW positions away (Levy, Goldberg and Dagan 2015). A token at distance k counts 1 / k, and context counts are smoothed
    by the power 0.75. A token that does not occur has the vector 0.
    """
    from sklearn.utils.extmath import randomized_svd

    near = neighbour_counts(texts, size)
    contexts = near.sum(0) ** 0.75
    counts = near.tocoo()
    pmi = np.log(counts.data * contexts.sum() / (near.sum(1)[counts.row] * contexts[counts.col]))
    matrix = sparse.csr_array((np.maximum(pmi, 0), (counts.row, counts.col)), shape=counts.shape)
    left, values, _ = randomized_svd(matrix, min(DIMENSIONS, size), n_iter=POWER_ITERATIONS, random_state=0)
    scaled = left * np.sqrt(values)
    lengths = np.linalg.norm(scaled, axis=1)
    vectors: Doubles = scaled * np.where(matrix.sum(1) > 0, safe_ratio(np.ones(size), lengths), 0.0)[:, None]
    return vectors


def neighbour_counts(texts: Tokens, size: int) -> Sparse:
    """Return symmetric counts (size, size) of tokens near each other: 1 / k for each time that they are k <= WINDOW apart.

    >>> neighbour_counts([[0, 1, 2]], 3).toarray().tolist()
    [[0.0, 1.0, 0.5], [1.0, 0.0, 1.0], [0.5, 1.0, 0.0]]
    """
    # All texts in one line, with gaps that no window spans.
    line = np.concatenate([np.append(text, np.full(WINDOW, -1)) for text in texts]).astype(np.int64)
    counts_at = sparse.csr_array((size, size))
    for apart in range(1, WINDOW + 1):
        before, after = line[:-apart], line[apart:]
        both = (before >= 0) & (after >= 0)
        weights = np.full(int(both.sum()), 1 / apart)
        counts_at += sparse.csr_array(sparse.coo_array((weights, (before[both], after[both])), shape=counts_at.shape))
    return sparse.csr_array(counts_at + counts_at.T)


def content_token_counts(texts: Tokens, size: int) -> Doubles:
    """Return the count of each token in the texts, and 0 for tokens that occur in all of them.

    >>> content_token_counts([[0, 1, 1], [0, 2]], 4).tolist()
    [0.0, 2.0, 1.0, 0.0]
    """
    counts_at = occurrences(texts, size)
    counts: Doubles = np.where(counts_at.sign().sum(0) < len(texts), counts_at.sum(0), 0.0)
    return counts


@dataclass(frozen=True)
class DistributionalContext:
    """Texts of two languages as ids of f foreign subwords and e English tokens. They need not be translations of each other."""

    foreign: Tokens
    english: Tokens
    sizes: tuple[int, int]

    @cached_property
    def counts(self) -> tuple[Doubles, Doubles]:
        """The count of each token, 0 for the framing tokens, which occur in every text and align with nothing."""
        of_foreign, of_english = map(content_token_counts, (self.foreign, self.english), self.sizes)
        return of_foreign, of_english

    @cached_property
    def vectors(self) -> tuple[Doubles, Doubles]:
        """The vectors of all tokens of each side."""
        return distributional_vectors(self.foreign, self.sizes[0]), distributional_vectors(self.english, self.sizes[1])

    @cached_property
    def known(self) -> tuple[Ints, Ints]:
        """The ids of the tokens that are frequent enough, of each side."""
        of_foreign, of_english = (np.flatnonzero(counts >= SMALLEST_COUNT) for counts in self.counts)
        return of_foreign, of_english

    def transport_plan(self, weights: Sparse) -> Sparse:
        """Return a plan (f, e) between tokens with similar contexts, from initial weights W (f, e). Row maxima are 1.

        It is the plan of unbalanced transport with the kernel of `similarity_kernel` and the tokens' counts as marginals.
        Alternating it with the rotation is the alignment of Grave, Joulin and Berthet (arXiv 1805.11222), here initialized by
        sentence pairs. The plan is empty if all tokens are too rare.
        """
        (rows, columns), (of_foreign, of_english) = self.known, self.counts
        if not (len(rows) and len(columns)):
            return sparse.csr_array(self.sizes)
        return self.in_vocabulary(balance(self.similarity_kernel(weights), of_foreign[rows], of_english[columns]))

    def similarity_kernel(self, weights: Sparse) -> Sparse:
        """Return exp((cos(F Q, E) - its row maximum) / EPS) between the frequent tokens, without entries below SMALLEST_ENTRY.

        F and E are the foreign and English vectors. Q is the rotation that minimises the distance of F Q from W E (orthogonal
        Procrustes; Schönemann 1966), with tokens weighted by the square root of their counts.
        """
        (foreign, english), (rows, columns) = self.vectors, self.known
        counted = np.sqrt(np.minimum(self.counts[0], LARGEST_COUNT))
        left, _, right = np.linalg.svd((foreign * counted[:, None]).T @ (weights @ english), full_matrices=False)
        rotated, others = foreign[rows] @ (left @ right), english[columns].T
        parts = []
        for first in range(0, len(rows), ROWS_A_BATCH):
            cosines = rotated[first : first + ROWS_A_BATCH] @ others
            kernel = np.exp((cosines - cosines.max(1, keepdims=True)) / EPS)
            parts.append(sparse.coo_array(np.where(kernel > SMALLEST_ENTRY, kernel, 0.0)))
        return sparse.csr_array(sparse.vstack(parts))

    def in_vocabulary(self, plan: Sparse) -> Sparse:
        """Return a plan between the frequent tokens as one between all tokens (f, e), with row maxima scaled to 1."""
        rows, columns = self.known
        scaled = divide_rows(plan, plan.max(axis=1).toarray()).tocoo()
        return sparse.csr_array((scaled.data, (rows[scaled.row], columns[scaled.col])), shape=self.sizes)
