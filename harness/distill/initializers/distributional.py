"""Which tokens of two languages go together by the company they keep, told by texts that nobody has translated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from harness.core.data import Doubles, Ints
from harness.distill.initializers.cooccurrence import Sparse, balance, divided, occurrences, ratio
from harness.distill.model.tower import Tokens

DIMENSIONS, WINDOW = 100, 4
POWER_ITERATIONS = 8
# Chosen by untrained towers on val images (docs/decisions.md).
EPS = 1 / 16
# What is rarer keeps too little company to be told by it.
LEAST_SEEN = 4
# An anchor that is seen more often than this counts no more.
MOST_COUNTED = 50
# Of the largest entry of a row before the plan is balanced; what is less is left out.
LEAST = 3e-4
ROWS_AT_ONCE = 1000


def vectors(texts: Tokens, size: int) -> Doubles:
    """A vector of length 1 for each of `size` token ids, (size, d), alike for tokens that stand among the same others.

    Positive pointwise mutual information with the tokens up to WINDOW places away, one at a distance of k counting 1 / k, and
    contexts smoothed by the power 0.75; of its singular value decomposition the DIMENSIONS largest, U S^(1/2) (Levy, Goldberg
    and Dagan 2015). A token that stands nowhere has the vector 0.
    """
    from sklearn.utils.extmath import randomized_svd

    together = neighbours(texts, size)
    contexts = together.sum(0) ** 0.75
    counts = together.tocoo()
    pmi = np.log(counts.data * contexts.sum() / (together.sum(1)[counts.row] * contexts[counts.col]))
    matrix = sparse.csr_array((np.maximum(pmi, 0), (counts.row, counts.col)), shape=counts.shape)
    left, values, _ = randomized_svd(matrix, min(DIMENSIONS, size), n_iter=POWER_ITERATIONS, random_state=0)
    scaled = left * np.sqrt(values)
    lengths = np.linalg.norm(scaled, axis=1)
    vectors: Doubles = scaled * np.where(matrix.sum(1) > 0, ratio(np.ones(size), lengths), 0.0)[:, None]
    return vectors


def neighbours(texts: Tokens, size: int) -> Sparse:
    """How often tokens stand near each other, (size, size), symmetric: 1 / k for each time that they are k <= WINDOW apart.

    >>> neighbours([[0, 1, 2]], 3).toarray().tolist()
    [[0.0, 1.0, 0.5], [1.0, 0.0, 1.0], [0.5, 1.0, 0.0]]
    """
    # Texts end to end, with a gap between any two that no window spans.
    line = np.concatenate([np.append(text, np.full(WINDOW, -1)) for text in texts]).astype(np.int64)
    found = sparse.csr_array((size, size))
    for apart in range(1, WINDOW + 1):
        before, after = line[:-apart], line[apart:]
        both = (before >= 0) & (after >= 0)
        weights = np.full(int(both.sum()), 1 / apart)
        found += sparse.csr_array(sparse.coo_array((weights, (before[both], after[both])), shape=found.shape))
    return sparse.csr_array(found + found.T)


def telling(texts: Tokens, size: int) -> Doubles:
    """How often each token stands in the texts, those that stand in all of them left out.

    >>> telling([[0, 1, 1], [0, 2]], 4).tolist()
    [0.0, 2.0, 1.0, 0.0]
    """
    found = occurrences(texts, size)
    counts: Doubles = np.where(found.sign().sum(0) < len(texts), found.sum(0), 0.0)
    return counts


@dataclass(frozen=True)
class DistributionalContext:
    """Texts of two languages, as token ids of f foreign subwords and e English tokens. No text need translate another."""

    foreign: Tokens
    english: Tokens
    sizes: tuple[int, int]

    @cached_property
    def counts(self) -> tuple[Doubles, Doubles]:
        """How often each token stands in them; never, if it stands in every one: that is the framing, which goes with nothing."""
        of_foreign, of_english = map(telling, (self.foreign, self.english), self.sizes)
        return of_foreign, of_english

    @cached_property
    def vectors(self) -> tuple[Doubles, Doubles]:
        """Of all tokens."""
        return vectors(self.foreign, self.sizes[0]), vectors(self.english, self.sizes[1])

    @cached_property
    def known(self) -> tuple[Ints, Ints]:
        """The tokens that are not too rare."""
        of_foreign, of_english = (np.flatnonzero(counts >= LEAST_SEEN) for counts in self.counts)
        return of_foreign, of_english

    def carried(self, weights: Sparse) -> Sparse:
        """A plan (f, e) between tokens that keep the same company, from first weights W (f, e); the largest in a row is made 1.

        It is that of unbalanced transport with the kernel of `likeness`, its sums held to how often tokens stand in the texts.
        Taken in turns with the rotation it is the alignment of Grave, Joulin and Berthet (arXiv 1805.11222), here from a start
        that sentence pairs give. Nothing, where all tokens are too rare.
        """
        (rows, columns), (of_foreign, of_english) = self.known, self.counts
        if not (len(rows) and len(columns)):
            return sparse.csr_array(self.sizes)
        return self.placed(balance(self.likeness(weights), of_foreign[rows], of_english[columns]))

    def likeness(self, weights: Sparse) -> Sparse:
        """exp((cos(F Q, E) - its largest in the row) / EPS) between the tokens that are not too rare, all but nothing left out.

        Q is the rotation that brings the foreign vectors F nearest to W E, E being the English ones (orthogonal Procrustes;
        Schönemann 1966), tokens counting by the root of how often they are seen.
        """
        (foreign, english), (rows, columns) = self.vectors, self.known
        counted = np.sqrt(np.minimum(self.counts[0], MOST_COUNTED))
        left, _, right = np.linalg.svd((foreign * counted[:, None]).T @ (weights @ english), full_matrices=False)
        turned, others = foreign[rows] @ (left @ right), english[columns].T
        parts = []
        for first in range(0, len(rows), ROWS_AT_ONCE):
            cosines = turned[first : first + ROWS_AT_ONCE] @ others
            kernel = np.exp((cosines - cosines.max(1, keepdims=True)) / EPS)
            parts.append(sparse.coo_array(np.where(kernel > LEAST, kernel, 0.0)))
        return sparse.csr_array(sparse.vstack(parts))

    def placed(self, plan: Sparse) -> Sparse:
        """A plan between the tokens that are not too rare as one between all (f, e), the largest in a row made 1."""
        rows, columns = self.known
        scaled = divided(plan, plan.max(axis=1).toarray()).tocoo()
        return sparse.csr_array((scaled.data, (rows[scaled.row], columns[scaled.col])), shape=self.sizes)
