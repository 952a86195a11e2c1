"""The initializer `ramen` (Tran, arXiv 2002.07306): word translation probabilities from an aligner on subword bitext.

    v_f = sum_e W_fe E_e,   W_fe = c_fe / sum_k c_fk,

with E (e, width) the teacher's embeddings and c_fe the number of links of f and e in the pairs, by fast_align in both directions,
symmetrised. A subword without a link is drawn from N(0, 1 / width). It is the ancestor of `ot-sentences`.
Source: github.com/alexa/ramen (get_prob_para.py, init_weight.py).
"""

from __future__ import annotations

from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.alignment.fast_align import fast_align_weights
from harness.distill.initializers.aligned import AlignedSubwords, AlignmentInput
from harness.distill.initializers.vocabularies import NewSubwords


class Ramen(AlignedSubwords):
    """New subwords, aligned by fast_align."""

    rescales = False
    vocabulary = NewSubwords(standard=True)

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return `fast_align_weights`."""
        return fast_align_weights(given.content)
