"""Words as sequences of tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from harness.core.data import Span, Spans
from harness.distill.model.tower import Tokens

# As for the student's subwords (`harness.distill.data.subwords`), apostrophes belong to words.
_LETTER = re.compile(r"[\w'’ʼ]")


class Words(NamedTuple):
    """The words of n texts. types: the tokens of each type of word. texts: the types of each text, by number."""

    types: list[tuple[int, ...]]
    texts: list[list[int]]


def split_into_words(ids: Tokens, spans: Sequence[Spans], texts: Sequence[str]) -> Words:
    """Return the words of texts, from the ids and the character spans of their tokens.

    Tokens belong to one word if nothing lies between them and the characters that meet are letters, digits or apostrophes. Tokens
    without characters (the framing) belong to none. Types are sorted, so that the order of texts does not change them.

    >>> words = split_into_words([[1, 2, 3, 4]], [[(0, 2), (2, 4), (4, 5), (6, 7)]], ["cats. a"])
    >>> words.types, words.texts
    ([(1, 2), (3,), (4,)], [[0, 1, 2]])
    """
    rows = [list(words_of_text(*row)) for row in zip(ids, spans, texts, strict=True)]
    types = sorted({word for row in rows for word in row})
    numbers = {word: number for number, word in enumerate(types)}
    return Words(types, [[numbers[word] for word in row] for row in rows])


def words_of_text(ids: Sequence[int], spans: Spans, text: str) -> Iterator[tuple[int, ...]]:
    """Yield the tokens of each word of a text."""
    tokens = [(id_, span) for id_, span in zip(ids, spans, strict=True) if span[0] < span[1]]
    word: list[int] = []
    for (_, before), (id_, span) in pairwise([(-1, (0, 0)), *tokens]):
        if word and not is_inside_word(before, span, text):
            yield tuple(word)
            word = []
        word.append(id_)
    if word:
        yield tuple(word)


def is_inside_word(before: Span, span: Span, text: str) -> bool:
    """Return whether the character span of a token continues the word of the token before."""
    # Tokens of bytes may share a character.
    joined = text[before[1] - 1] + text[max(span[0], before[1] - 1)]
    return span[0] <= before[1] and all(map(_LETTER.match, joined))
