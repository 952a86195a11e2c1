"""The rule `ibm1`: IBM's Model 1, without transport."""

from __future__ import annotations

import numpy as np

from harness.core.data import Doubles
from harness.distill.alignment.cooccurrence import Sparse, safe_ratio
from harness.distill.alignment.realignment import realigned_weights
from harness.distill.alignment.token_bitext import TokenizedBitext


def model1_weights(bitext: TokenizedBitext) -> Sparse:
    """Return the expected counts of IBM's Model 1, sharpened (f, e): the control of `sentence_transport_weights`."""
    return realigned_weights(bitext.kernel, bitext.sorted_pairs, model1_posterior)


def model1_posterior(lifts: Doubles) -> Doubles:
    """Return the posterior of each foreign token's English token under IBM's Model 1 (Brown et al. 1993, eq. 13).

    It is a token's lifts (B, n, m) over their sum. The model's t(f | e) is P_fe / sum_k P_ke. A foreign token's own frequency,
    by which a lift differs from it, cancels.
    """
    sums: Doubles = lifts.sum(2, keepdims=True)
    return safe_ratio(lifts, np.broadcast_to(sums, lifts.shape))
