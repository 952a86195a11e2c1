"""The rule `ot-vocabulary`: transport between the two vocabularies."""

from __future__ import annotations

from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.alignment.realignment import SHARPENING, sharpen
from harness.distill.alignment.token_bitext import TokenizedBitext


def vocabulary_transport_weights(bitext: TokenizedBitext) -> Sparse:
    """Return the association kernel balanced to the tokens' counts, sharpened by SHARPENING (f, e).

    An English token that many subwords are associated with goes to those that have no better one.
    """
    return sharpen(bitext.balanced(bitext.kernel), SHARPENING)
