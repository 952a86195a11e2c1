"""The initializer `trans-tokenization` (Remy et al., COLM 2024; arXiv 2408.04303): links of words, shared out to their pieces.

    v_f = sum_e W_fe E_e,   W_fe = c_fe / sum_k c_fk,

with E (e, width) the teacher's embeddings. Half of a link's count goes to all pairs of pieces of the two words, half to pieces in
order. A token with the same string in both languages counts one link more. A token without links takes the counts of tokens with
links that begin with it, and of the longest ones that it contains: as shares, twice for English tokens that start a word. A token
without these is the teacher's unknown token.

Source: github.com/LAGoM-NLP/transtokenizer. Two things differ here. Words are linked by `fast_align` in both directions,
symmetrised, where the authors take expected counts of Model 1 in one direction. And a link that is seen once counts, where they
drop those seen fewer than ten times: they have millions of sentence pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse

from harness.core.data import Doubles, Ints
from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.alignment.fast_align import fast_align_links
from harness.distill.alignment.links import count_links, link_weights, one_each
from harness.distill.data.token_strings import WORD_START, shared_tokens
from harness.distill.data.words import Words
from harness.distill.initializers.aligned import AlignedSubwords, AlignmentInput

WORD_START_FACTOR = 2.0


class TransTokenization(AlignedSubwords):
    """New subwords, aligned by links of the words that they are pieces of."""

    rescales = False

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return normalised counts (f, e)."""
        foreign, english = given.strings
        shared = shared_tokens(foreign, english)
        counts = sparse.csr_array(piece_counts(*given.words(given.bitext), given.sizes) + one_each(shared, given.sizes))
        weights = link_weights(counts + fallback_counts(link_weights(counts), foreign, english))
        unknown = unknown_token(given)
        if unknown is None:
            return weights
        bare = np.setdiff1d(np.flatnonzero(np.diff(weights.indptr) == 0), given.tokenizer.encode("").ids)
        return sparse.csr_array(weights + one_each(dict.fromkeys(bare.tolist(), unknown), given.sizes))


def piece_counts(foreign: Words, english: Words, sizes: tuple[int, int]) -> Sparse:
    """Return the counts (f, e) that the links of words give to their pieces."""
    pairs = sorted(zip(foreign.texts, english.texts, strict=True))
    linked = count_links(pairs, fast_align_links(pairs), (len(foreign.types), len(english.types))).tocoo()
    parts: list[tuple[Ints, Ints, Doubles]] = []
    for one, other, count in zip(linked.row, linked.col, linked.data, strict=True):
        x, y = foreign.types[one], english.types[other]
        parts.append((np.repeat(x, len(y)), np.tile(y, len(x)), count * piece_shares(len(x), len(y)).ravel()))
    if not parts:
        return sparse.csr_array(sizes)
    rows, columns, counts = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sparse.csr_array(sparse.coo_array((counts, (rows, columns)), shape=sizes))


def piece_shares(n: int, m: int) -> Doubles:
    """Return the shares (n, m) of a link's count for the n and m pieces of its words. Each of the n pieces has 1 in all.

    Half is even. The other half is in order: n and m pieces are stretched to one length, and shared where they overlap.

    >>> piece_shares(2, 2).tolist(), piece_shares(1, 2).tolist()
    ([[0.75, 0.25], [0.25, 0.75]], [[0.5, 0.5]])
    """
    i, j = np.arange(n)[:, None], np.arange(m)
    # Piece i covers [i m, (i + 1) m) of n m places, piece j covers [j n, (j + 1) n).
    overlaps = np.minimum((i + 1) * m, (j + 1) * n) - np.maximum(i * m, j * n)
    shares: Doubles = (np.maximum(overlaps, 0) / m + 1 / m) / 2
    return shares


def fallback_counts(weights: Sparse, foreign: Sequence[str], english: Sequence[str]) -> Sparse:
    """Return counts (f, e) for tokens without weights, from the weights W (f, e) of related tokens (`related_tokens`)."""
    linked = np.diff(weights.indptr) > 0
    strings = {string: id_ for id_, string in enumerate(foreign) if string and linked[id_]}
    bare = [id_ for id_, string in enumerate(foreign) if string and not linked[id_]]
    found = [(id_, strings[other]) for id_ in bare for other in related_tokens(foreign[id_], strings)]
    rows, columns = np.array(found, dtype=np.int64).reshape(-1, 2).T
    related = sparse.csr_array(sparse.coo_array((np.ones(len(found)), (rows, columns)), shape=(weights.shape[0],) * 2))
    factors = np.ones(weights.shape[1])
    factors[[id_ for id_, string in enumerate(english) if string.startswith(WORD_START)]] = WORD_START_FACTOR
    return sparse.csr_array(related @ weights @ sparse.diags_array(factors))


def related_tokens(string: str, known: dict[str, int]) -> Iterator[str]:
    """Yield the known strings that begin with a string, and the longest ones in it: each is in no other of them.

    >>> list(related_tokens("▁wasi", dict.fromkeys(["▁wa", "wa", "s", "▁wasikuna", "▁tanta"], 0)))
    ['▁wasikuna', '▁wa', 's']
    """
    yield from (other for other in known if other.startswith(string))
    inner = {string[start:stop] for start in range(len(string)) for stop in range(start + 1, len(string) + 1)} & known.keys()
    yield from sorted((part for part in inner if not any(part != other and part in other for other in inner)), key=string.index)


def unknown_token(given: AlignmentInput) -> int | None:
    """Return the id of the teacher's unknown token, or None if it has none."""
    tokenizer = given.donated.tokenizer
    name = getattr(tokenizer.model, "unk_token", None) if tokenizer else None
    return tokenizer.token_to_id(name) if tokenizer and name else None
