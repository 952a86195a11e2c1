"""The initializer `ofa`, one for all (Liu et al., Findings of NAACL 2024): `wechsel` with the tokens of both languages copied.

    v_f = E_e if f and e have the same string, upper and lower case aside; else as in `wechsel`,

with E (e, width) the teacher's embeddings. A token's vector is the plain mean of those of the words that contain it.

Source: github.com/cisnlp/ofa. The authors take one multilingual space of word vectors (ColexNet+); here those of the two
languages are rotated onto each other as in `wechsel`. Their factorised embedding, which saves memory, is left out: it would
change the layers.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.alignment.links import one_each
from harness.distill.data.token_strings import shared_tokens
from harness.distill.initializers.aligned import AlignedSubwords, AlignmentInput
from harness.distill.initializers.wechsel import neighbour_weights, token_vectors


class Ofa(AlignedSubwords):
    """New subwords: copies of the teacher's tokens, others aligned by static word vectors."""

    rescales = False

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return weights (f, e)."""
        foreign, english = token_vectors(given, counted=False)
        return copied_weights(shared_tokens(*given.strings, ignores_case=True), neighbour_weights(foreign, english))


def copied_weights(shared: dict[int, int], weights: Sparse) -> Sparse:
    """Return weights (f, e) with 1 for the shared tokens' own entry and nothing else in their rows."""
    others = np.ones(weights.shape[0])
    others[list(shared)] = 0
    kept = sparse.csr_array(sparse.diags_array(others) @ weights + one_each(shared, weights.shape))
    kept.eliminate_zeros()
    return kept
