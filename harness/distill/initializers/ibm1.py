"""The initializer `ibm1`: subword embeddings from the English tokens that IBM's Model 1 aligns with them, without transport."""

from __future__ import annotations

import numpy as np

from harness.core.data import Doubles
from harness.distill.initializers.alignment import AlignedVocabulary, TokenizedBitext, realigned_weights
from harness.distill.initializers.cooccurrence import Sparse, safe_ratio


class Ibm1(AlignedVocabulary):
    """The teacher's layers under means of English embeddings aligned by IBM's Model 1: the control of `ot-sentences`."""

    def align(self, bitext: TokenizedBitext) -> Sparse:
        """Return the weights."""
        return realigned_weights(bitext.kernel, bitext.sorted_pairs, posterior)


def posterior(lifts: Doubles) -> Doubles:
    """Return the posterior of each foreign token's English token under IBM's Model 1 (Brown et al. 1993, eq. 13).

    It is a token's lifts (B, n, m) over their sum. The model's t(f | e) is P_fe / sum_k P_ke. A foreign token's own frequency,
    by which a lift differs from it, cancels.
    """
    sums: Doubles = lifts.sum(2, keepdims=True)
    return safe_ratio(lifts, np.broadcast_to(sums, lifts.shape))
