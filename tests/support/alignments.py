"""Alignments of a student's vocabulary by the name of their initializer."""

from __future__ import annotations

from harness.core.builtins import load_initializer
from harness.distill.initializers.alignment import AlignedVocabulary, TokenizedBitext
from harness.distill.initializers.cooccurrence import Sparse
from harness.distill.initializers.distributional import DistributionalContext
from harness.distill.initializers.orthography import Spelling
from harness.distill.model.tower import Tokens


def alignment(
    foreign: Tokens,
    english: Tokens,
    sizes: tuple[int, int],
    init: str,
    context: DistributionalContext | None = None,
    spelling: Spelling | None = None,
) -> Sparse:
    """Weights of the English tokens in each foreign subword's embedding."""
    initializer = load_initializer(init)
    assert isinstance(initializer, AlignedVocabulary)
    return initializer.weights(TokenizedBitext(foreign, english, sizes, spelling, context))
