"""The pieces that a sentence is made of, and the three forms in which the files write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.tasks.sample.plans import Mention


@dataclass(frozen=True)
class Phrase:
    """Words that name a thing of the scene."""

    words: str
    mention: Mention


Piece = str | Phrase
Sentence = tuple[Piece, ...]


def finish(pieces: Iterable[Piece]) -> Sentence:
    """Start with a capital letter, end with a full stop, leave out empty words."""
    kept = [piece for piece in pieces if piece]
    first = kept[0]
    kept[0] = Phrase(_capital(first.words), first.mention) if isinstance(first, Phrase) else _capital(first)
    return (*kept, ".")


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def spaced(sentence: Sentence) -> str:
    """The sentence with all tokens apart, as `results_20130124.token` has it."""
    return " ".join(piece.words if isinstance(piece, Phrase) else piece for piece in sentence)


def plain(sentence: Sentence) -> str:
    """The sentence as people write it: no blank before a comma or a full stop, none after an elided `d'`."""
    return spaced(sentence).replace(" d' ", " d'").replace(" ,", ",").replace(" .", ".")


def tagged(sentence: Sentence, chains: Mapping[str, int]) -> str:
    """The sentence in Flickr30k Entities' markup; `chains` gives the chain id of each role."""
    return " ".join(_tag(piece, chains) if isinstance(piece, Phrase) else piece for piece in sentence)


def _tag(phrase: Phrase, chains: Mapping[str, int]) -> str:
    return f"[/EN#{chains[phrase.mention.role]}/{phrase.mention.type} {phrase.words}]"
