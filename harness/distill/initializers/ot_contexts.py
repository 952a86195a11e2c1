"""The initializer `ot-contexts`: `ot-sentences` with distributional contexts of monolingual text."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from harness.distill.initializers.alignment import (
    ROUND_SHARPENING,
    AlignedVocabulary,
    TokenizedBitext,
    realigned_weights,
    sharpen,
    token_transport_plan,
)
from harness.distill.initializers.cooccurrence import Sparse

# What remains of the association of two tokens whose contexts differ.
DIFFERENT_CONTEXTS = 1e-6


class OtContexts(AlignedVocabulary):
    """`ot-sentences` with distributional contexts of monolingual text.

    Its plan is realigned once more, from the association kernel times the plan between the tokens' contexts. Subwords that
    occur in no sentence pair have their weights from that plan alone.
    """

    reads_contexts = True

    def align(self, bitext: TokenizedBitext) -> Sparse:
        """Return the weights; those of `ot-sentences` for a bitext without contexts."""
        pairs, kernel = bitext.sorted_pairs, bitext.kernel
        weights = realigned_weights(bitext.balanced(kernel), pairs, token_transport_plan)
        if bitext.context is None:
            return weights
        plan = bitext.context.transport_plan(weights)
        kernel = kernel * (plan + DIFFERENT_CONTEXTS * kernel.sign())
        weights = realigned_weights(bitext.balanced(kernel), pairs, token_transport_plan)
        unseen = np.diff(weights.indptr) == 0
        return sparse.csr_array(weights + sparse.diags_array(unseen.astype(float)) @ sharpen(plan, ROUND_SHARPENING))
