"""The rule `ot-contexts`: `ot-sentences` with distributional contexts of monolingual text."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.alignment.ot_sentences import sentence_transport_weights
from harness.distill.alignment.realignment import ROUND_SHARPENING, realigned_weights, sharpen, token_transport_plan
from harness.distill.alignment.token_bitext import TokenizedBitext

# What remains of the association of two tokens whose contexts differ.
DIFFERENT_CONTEXTS = 1e-6


def context_transport_weights(bitext: TokenizedBitext) -> Sparse:
    """Return the weights (f, e) of `ot-sentences` with distributional contexts; without contexts, those of `ot-sentences`.

    The plan of `ot-sentences` is realigned once more, from the association kernel times the plan between the tokens' contexts.
    Subwords that occur in no sentence pair have their weights from that plan alone.
    """
    weights = sentence_transport_weights(bitext)
    if bitext.context is None or not weights.nnz:
        return weights
    plan = bitext.context.transport_plan(weights)
    kernel = bitext.kernel * (plan + DIFFERENT_CONTEXTS * bitext.kernel.sign())
    weights = realigned_weights(bitext.balanced(kernel), bitext.sorted_pairs, token_transport_plan)
    unseen = np.diff(weights.indptr) == 0
    return sparse.csr_array(weights + sparse.diags_array(unseen.astype(float)) @ sharpen(plan, ROUND_SHARPENING))
