"""The initializer `association`: subword embeddings from associated English tokens, without transport."""

from __future__ import annotations

from harness.distill.initializers.alignment import SHARPENING, AlignedVocabulary, TokenizedBitext, sharpen
from harness.distill.initializers.cooccurrence import Sparse


class Association(AlignedVocabulary):
    """The teacher's layers under means of associated English embeddings: the control of `ot-vocabulary`."""

    def align(self, bitext: TokenizedBitext) -> Sparse:
        """Return the weights."""
        return sharpen(bitext.kernel, SHARPENING)
