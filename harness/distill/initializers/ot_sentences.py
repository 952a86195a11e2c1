"""The initializer `ot-sentences`: subword embeddings by transport between the tokens of each sentence pair."""

from __future__ import annotations

from harness.distill.initializers.alignment import (
    AlignedVocabulary,
    TokenizedBitext,
    realigned_weights,
    token_transport_plan,
)
from harness.distill.initializers.cooccurrence import Sparse


class OtSentences(AlignedVocabulary):
    """`ot-vocabulary` with the plan realigned by transport within each sentence pair."""

    def align(self, bitext: TokenizedBitext) -> Sparse:
        """Return the weights."""
        return realigned_weights(bitext.balanced(bitext.kernel), bitext.sorted_pairs, token_transport_plan)
