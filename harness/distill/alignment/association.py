"""The rule `association`: the association kernel itself, without transport."""

from __future__ import annotations

from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.alignment.realignment import SHARPENING, sharpen
from harness.distill.alignment.token_bitext import TokenizedBitext


def associated_weights(bitext: TokenizedBitext) -> Sparse:
    """Return the sharpened association kernel (f, e): the control of `vocabulary_transport_weights`."""
    return sharpen(bitext.kernel, SHARPENING)
