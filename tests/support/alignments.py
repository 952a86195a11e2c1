"""Alignments of a student's vocabulary by the name of their initializer."""

from __future__ import annotations

from collections.abc import Callable

from harness.distill.alignment.association import associated_weights
from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.alignment.distributional import DistributionalContext
from harness.distill.alignment.ibm1 import agreed_model1_weights, model1_weights
from harness.distill.alignment.orthography import Spelling
from harness.distill.alignment.ot_contexts import context_transport_weights
from harness.distill.alignment.ot_sentences import sentence_transport_weights
from harness.distill.alignment.ot_vocabulary import vocabulary_transport_weights
from harness.distill.alignment.token_bitext import TokenizedBitext
from harness.distill.model.tower import Tokens

RULES: dict[str, Callable[[TokenizedBitext], Sparse]] = {
    "association": associated_weights,
    "ibm1": model1_weights,
    "ibm1-agreed": agreed_model1_weights,
    "ot-vocabulary": vocabulary_transport_weights,
    "ot-sentences": sentence_transport_weights,
    "ot-contexts": context_transport_weights,
}


def alignment(
    foreign: Tokens,
    english: Tokens,
    sizes: tuple[int, int],
    init: str,
    context: DistributionalContext | None = None,
    spelling: Spelling | None = None,
) -> Sparse:
    """Weights of the English tokens in each foreign subword's embedding."""
    return RULES[init](TokenizedBitext(foreign, english, sizes, spelling, context))
