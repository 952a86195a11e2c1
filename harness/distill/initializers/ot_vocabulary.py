"""The initializer `ot-vocabulary`: subword embeddings by transport between the two vocabularies."""

from __future__ import annotations

from harness.distill.initializers.alignment import SHARPENING, AlignedVocabulary, TokenizedBitext, sharpen
from harness.distill.initializers.cooccurrence import Sparse


class OtVocabulary(AlignedVocabulary):
    """The teacher's layers under means of English embeddings, weighted by transport between the vocabularies.

    The association kernel is balanced to the tokens' counts, and the plan is sharpened by POWER. An English token that many
    subwords are associated with goes to those that have no better one.
    """

    def align(self, bitext: TokenizedBitext) -> Sparse:
        """Return the weights."""
        return sharpen(bitext.balanced(bitext.kernel), SHARPENING)
