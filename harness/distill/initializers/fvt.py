"""The initializer `fvt`, fast vocabulary transfer (Gee et al., EMNLP 2022 industry track; arXiv 2402.09977).

    v_f = mean of E_e over the pieces e into which the teacher's tokenizer splits the string of f,

with E (e, width) the teacher's embeddings. A token with the same string as one of the teacher's is that one piece. It reads no
sentence pair: only strings that both languages share carry meaning over.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from harness.distill.alignment.cooccurrence import Sparse, divide_rows
from harness.distill.data.token_strings import WORD_START, shared_tokens
from harness.distill.initializers.aligned import AlignedSubwords, AlignmentInput


class Fvt(AlignedSubwords):
    """New subwords, each the mean of the pieces of its string."""

    rescales = False

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return the share of each English token among the pieces of each subword (f, e)."""
        foreign, english = given.strings
        shared = shared_tokens(foreign, english)
        # A tokenizer cannot be asked for a piece inside a word, so all strings are read as words.
        read = given.unframed_english([string.removeprefix(WORD_START) for string in foreign])
        pieces = [[shared[f]] if f in shared else row for f, row in enumerate(read)]
        rows = np.repeat(np.arange(len(pieces)), [len(row) for row in pieces])
        columns = np.array([e for row in pieces for e in row], dtype=np.int64)
        counts = sparse.csr_array(sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=given.sizes))
        return divide_rows(counts, counts.sum(1))
