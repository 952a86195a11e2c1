"""The initializer `focus` (Dobler and de Melo, EMNLP 2023): copies, and mixtures of copies.

    v_f = E_e if f and e have the same string; else v_f = sum_o W_fo E_o over the subwords o that have,
    W_f = sparsemax(cos(x_f, x_o)),

with E (e, width) the teacher's embeddings and x static vectors of the student's subwords. It reads no sentence pair as a pair. A
subword that is too rare for a vector keeps its random embedding.

Source: github.com/konstantinjdobler/focus. The vectors are those of `distributional_vectors` over the student's sentences, for
fastText's over tokens.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from harness.core.data import Doubles
from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.alignment.distributional import distributional_vectors
from harness.distill.data.token_strings import shared_tokens
from harness.distill.initializers.aligned import AlignedSubwords, AlignmentInput
from harness.distill.initializers.ofa import copied_weights


class Focus(AlignedSubwords):
    """New subwords: copies of the teacher's tokens, others mixtures of these."""

    rescales = False

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return weights (f, e)."""
        texts = given.unframed([*given.bitext.foreign, *given.text.foreign])
        return focus_weights(distributional_vectors(texts, given.subwords), shared_tokens(*given.strings), given.sizes)


def focus_weights(vectors: Doubles, shared: dict[int, int], sizes: tuple[int, int]) -> Sparse:
    """Return weights (f, e), from vectors (f, d) of length 1 or 0 and the English token of each shared subword."""
    occurring = np.asarray(vectors.any(1))
    known = np.array([f for f in shared if occurring[f]], dtype=np.int64)
    new = np.setdiff1d(np.flatnonzero(occurring), known)
    if not len(known) or not len(new):
        return copied_weights(shared, sparse.csr_array(sizes))
    mixtures = sparse.coo_array(sparsemax(vectors[new] @ vectors[known].T))
    english = np.array([shared[f] for f in known.tolist()])
    entries = (mixtures.data, (new[mixtures.row], english[mixtures.col]))
    return copied_weights(shared, sparse.csr_array(sparse.coo_array(entries, shape=sizes)))


def sparsemax(scores: Doubles) -> Doubles:
    """Return the nearest point of the probability simplex to each row of scores (n, m) (Martins and Astudillo, ICML 2016).

    p = max(s - tau, 0) with tau = (sum of the k largest scores - 1) / k, for the largest k whose k-th score is above tau.

    >>> sparsemax(np.array([[0.5, 0.25, -1.0], [3.0, 0.0, 0.0]])).tolist()
    [[0.625, 0.375, 0.0], [1.0, 0.0, 0.0]]
    """
    ordered = -np.sort(-scores, axis=1)
    number = np.arange(1, scores.shape[1] + 1)
    thresholds = (np.cumsum(ordered, axis=1) - 1) / number
    last = (ordered > thresholds).sum(1) - 1
    points: Doubles = np.maximum(scores - np.take_along_axis(thresholds, last[:, None], 1), 0.0)
    return points
