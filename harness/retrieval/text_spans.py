"""Character spans of phrases and tokens in a text, and the tokens that belong to phrases."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from harness.core.data import Span


def map_spans(spans: Sequence[Span], text: str, other: str) -> tuple[Span, ...]:
    """Return the corresponding spans in another spelling of a text, with different blanks, capitals or punctuation.

    A span without a character in the other spelling becomes the empty span (0, 0).

    >>> map_spans([(0, 9), (10, 11)], "A red hat .", "a  Red hat!"), map_spans([(2, 5)], "A &amp; B", "A & B")
    (((0, 10), (0, 0)), ((2, 3),))
    """
    if text == other:
        return tuple(spans)
    twins = dict(shared_characters(text, other))
    found = ([twins[place] for place in range(*span) if place in twins] for span in spans)
    return tuple((places[0], places[-1] + 1) if places else (0, 0) for places in found)


def shared_characters(text: str, other: str) -> list[tuple[int, int]]:
    """Return the positions of the characters that two spellings of a text share, in order. Blanks are ignored."""
    ours, theirs = (tuple(place for place, char in enumerate(each) if not char.isspace()) for each in (text, other))
    a, b = ([each[place].lower() for place in places] for each, places in ((text, ours), (other, theirs)))
    if a == b:  # the usual case, and a thousand times cheaper
        return list(zip(ours, theirs, strict=True))
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return [(ours[at + k], theirs[there + k]) for at, there, size in blocks for k in range(size)]


def tokens_in_phrases(tokens: Sequence[Span], phrases: Sequence[Span], text: str) -> list[bool]:
    """Return whether each token shares a character other than a blank with a phrase. A token with an empty span shares none.

    >>> tokens_in_phrases([(0, 0), (0, 1), (1, 5), (5, 8), (0, 0)], [(0, 5)], "A man in")
    [False, True, True, False, False]
    """
    covered = {place for start, end in phrases for place in range(start, end) if not text[place].isspace()}
    return [not covered.isdisjoint(range(start, end)) for start, end in tokens]
