"""Tokens that are spelled alike, as names and loan words are in a sentence and its translation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from harness.api import Spans
from harness.distill.counts import Sparse
from harness.distill.tower import Tokens


@dataclass(frozen=True)
class Spelling:
    """How much more two tokens go together that are spelled alike.

    foreign: of each of f subwords its letter n-grams (`letters`). english: of each of the teacher's e tokens.
    weight: what a kernel of two tokens spelled the same gains, as a multiple of it.
    """

    foreign: Sequence[frozenset[str]]
    english: Sequence[frozenset[str]]
    weight: float

    def strengthened(self, kernel: Sparse) -> Sparse:
        """K_ij (1 + weight * Dice_ij) of a kernel K (f, e), Dice being that of their n-grams. What is 0 stays 0.

        >>> words = [frozenset(ngrams(word)) for word in ("ball", "pelota")]
        >>> kernel = sparse.csr_array(np.array([[0.5, 0.5], [0.0, 1.0]]))
        >>> Spelling(words, words, weight=2.0).strengthened(kernel).toarray().tolist()
        [[1.5, 0.5], [0.0, 3.0]]
        """
        entries = kernel.tocoo()
        pairs = zip(entries.row.tolist(), entries.col.tolist(), strict=True)
        alike = np.array([dice(self.foreign[i], self.english[j]) for i, j in pairs])
        gained = entries.data * (1 + self.weight * alike)
        return sparse.csr_array((gained, (entries.row, entries.col)), shape=kernel.shape)


def letters(ids: Tokens, texts: Sequence[str], spans: Sequence[Spans], size: int) -> list[frozenset[str]]:
    """Of each of `size` ids, the n-grams of what it stands for most often in the texts; none of an id that stands nowhere.

    ids, spans: of each text its tokens, and where in it they stand.
    """
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for row, text, places in zip(ids, texts, spans, strict=True):
        for id_, (start, stop) in zip(row, places, strict=False):
            found[id_][text[start:stop].strip().lower()] += 1
    most = {id_: counter.most_common(1)[0][0] for id_, counter in found.items()}
    return [frozenset(ngrams(most.get(id_, ""))) for id_ in range(size)]


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
