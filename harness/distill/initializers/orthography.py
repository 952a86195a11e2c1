"""Tokens that are spelled alike, as names and loan words are in a sentence and its translation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from harness.core.data import Bitext, Spans
from harness.core.errors import HarnessError
from harness.distill.initializers.cooccurrence import Sparse
from harness.distill.model.tower import Tokens


@dataclass(frozen=True)
class Spelling:
    """How much more two tokens go together that are spelled alike.

    foreign: the letter n-grams of each subword (`letters`). english: of each of the teacher's tokens.
    weight: what a kernel of two tokens spelled the same gains, as a multiple of it.
    """

    foreign: Mapping[int, frozenset[str]]
    english: Mapping[int, frozenset[str]]
    weight: float

    def strengthened(self, kernel: Sparse) -> Sparse:
        """K_ij (1 + weight * Dice_ij) of a kernel K (f, e), Dice being that of their n-grams. What is 0 stays 0.

        >>> words = {id_: frozenset(ngrams(word)) for id_, word in enumerate(("ball", "pelota"))}
        >>> kernel = sparse.csr_array(np.array([[0.5, 0.5], [0.0, 1.0]]))
        >>> Spelling(words, words, weight=2.0).strengthened(kernel).toarray().tolist()
        [[1.5, 0.5], [0.0, 3.0]]
        """
        entries = kernel.tocoo()
        pairs = zip(entries.row.tolist(), entries.col.tolist(), strict=True)
        alike = np.array([dice(self.foreign[i], self.english[j]) for i, j in pairs])
        gained = entries.data * (1 + self.weight * alike)
        return sparse.csr_array((gained, (entries.row, entries.col)), shape=kernel.shape)


def spelled(
    bitext: Bitext, ids: tuple[Tokens, Tokens], spans: tuple[Sequence[Spans], Sequence[Spans]], weight: float
) -> Spelling:
    """How the tokens of a bitext are spelled, from their ids and where they stand, foreign and English.

    Raises HarnessError if the teacher tells where other tokens stand than it reads.
    """
    if [len(text) for text in ids[1]] != [len(text) for text in spans[1]]:
        raise HarnessError("the teacher tells where other tokens stand (locate_tokens) than it reads (donate_layers)")
    foreign, english = (letters(*side) for side in zip(ids, (bitext.foreign, bitext.english), spans, strict=True))
    return Spelling(foreign, english, weight)


def letters(ids: Tokens, texts: Sequence[str], spans: Sequence[Spans]) -> dict[int, frozenset[str]]:
    """The n-grams of what each id stands for most often in the texts; none of what stands for no letters.

    ids, spans: of each text its tokens, and where in it they stand.
    """
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for row, text, places in zip(ids, texts, spans, strict=True):
        for id_, (start, stop) in zip(row, places, strict=True):
            found[id_][text[start:stop].strip().lower()] += 1
    return {id_: frozenset(ngrams(counter.most_common(1)[0][0])) for id_, counter in found.items()}


def ngrams(word: str) -> Iterator[str]:
    """Stretches of two and three letters, the ends marked.

    >>> list(ngrams("no"))
    ['<n', 'no', 'o>', '<no', 'no>']
    """
    framed = f"<{word}>" if word else ""
    for n in (2, 3):
        yield from (framed[start : start + n] for start in range(len(framed) - n + 1))


def dice(one: frozenset[str], other: frozenset[str]) -> float:
    """What two sets share, from 0 to 1; 0 of two empty ones."""
    return 2 * len(one & other) / max(1, len(one) + len(other))
