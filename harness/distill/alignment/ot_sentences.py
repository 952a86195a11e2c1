"""The rule `ot-sentences`: transport between the tokens of each sentence pair.

The nearest published relative is OTAlign (Arase, Bao and Yokoi, ACL 2023), which aligns the words of one sentence pair by
transport between their states in a pretrained encoder.
"""

from __future__ import annotations

from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.alignment.realignment import realigned_weights, token_transport_plan
from harness.distill.alignment.token_bitext import TokenizedBitext


def sentence_transport_weights(bitext: TokenizedBitext) -> Sparse:
    """Return the plan of `ot-vocabulary`, realigned by transport within each sentence pair and sharpened (f, e)."""
    return realigned_weights(bitext.balanced(bitext.kernel), bitext.sorted_pairs, token_transport_plan)
