"""Tokens with similar spelling, such as names and loan words in a sentence and its translation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from harness.core.data import Bitext, Spans
from harness.core.errors import HarnessError
from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.model.tower import Tokens


@dataclass(frozen=True)
class Spelling:
    """The spelling of tokens, and how much it strengthens their association.

    foreign: the character n-grams of each subword (`token_ngrams`). english: those of each of the teacher's tokens.
    weight: the gain of a kernel entry of two tokens with the same spelling, as a multiple of the entry.
    """

    foreign: Mapping[int, frozenset[str]]
    english: Mapping[int, frozenset[str]]
    weight: float

    def strengthen(self, kernel: Sparse) -> Sparse:
        """Return K_ij (1 + weight * Dice_ij) of a kernel K (f, e), with the Dice coefficient of the n-grams. Zeros stay zeros.

        >>> words = {id_: frozenset(ngrams(word)) for id_, word in enumerate(("ball", "pelota"))}
        >>> kernel = sparse.csr_array(np.array([[0.5, 0.5], [0.0, 1.0]]))
        >>> Spelling(words, words, weight=2.0).strengthen(kernel).toarray().tolist()
        [[1.5, 0.5], [0.0, 3.0]]
        """
        entries = kernel.tocoo()
        pairs = zip(entries.row.tolist(), entries.col.tolist(), strict=True)
        alike = np.array([dice(self.foreign[i], self.english[j]) for i, j in pairs])
        gained = entries.data * (1 + self.weight * alike)
        return sparse.csr_array((gained, (entries.row, entries.col)), shape=kernel.shape)


def bitext_spelling(
    bitext: Bitext, ids: tuple[Tokens, Tokens], spans: tuple[Sequence[Spans], Sequence[Spans]], weight: float
) -> Spelling:
    """Return the spelling of a bitext's tokens, from their ids and their character spans, foreign and English.

    Raises HarnessError if the teacher's character spans do not match its token ids.
    """
    if [len(text) for text in ids[1]] != [len(text) for text in spans[1]]:
        raise HarnessError("the teacher's character spans (locate_tokens) and token ids (donate_layers) are of different tokens")
    foreign, english = (token_ngrams(*side) for side in zip(ids, (bitext.foreign, bitext.english), spans, strict=True))
    return Spelling(foreign, english, weight)


def token_ngrams(ids: Tokens, texts: Sequence[str], spans: Sequence[Spans]) -> dict[int, frozenset[str]]:
    """Return the n-grams of each id's most frequent spelling in the texts; none for a token without characters.

    ids, spans: the tokens of each text, and their character spans.
    """
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for row, text, places in zip(ids, texts, spans, strict=True):
        for id_, (start, stop) in zip(row, places, strict=True):
            found[id_][text[start:stop].strip().lower()] += 1
    return {id_: frozenset(ngrams(counter.most_common(1)[0][0])) for id_, counter in found.items()}


def ngrams(word: str) -> Iterator[str]:
    """Yield character n-grams of two and three characters, with marked word boundaries.

    >>> list(ngrams("no"))
    ['<n', 'no', 'o>', '<no', 'no>']
    """
    framed = f"<{word}>" if word else ""
    for n in (2, 3):
        yield from (framed[start : start + n] for start in range(len(framed) - n + 1))


def dice(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the Dice coefficient of two sets, and 0 for two empty ones."""
    return 2 * len(one & other) / max(1, len(one) + len(other))
