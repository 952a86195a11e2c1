"""The pieces that a sentence is made of, and the three forms in which the files write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention


@dataclass(frozen=True)
class Phrase:
    """Words that name a thing of the scene."""

    words: str
    mention: Mention


Piece = str | Phrase
Sentence = tuple[Piece, ...]


def finish_sentence(pieces: Iterable[Piece]) -> Sentence:
    """Start with a capital letter, end with a full stop, leave out empty words."""
    kept = [piece for piece in pieces if piece]
    first = kept[0]
    kept[0] = Phrase(_capital(first.words), first.mention) if isinstance(first, Phrase) else _capital(first)
    return (*kept, ".")


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def clauses_then_place(
    plan: CaptionPlan,
    realise_clause: Callable[[Clause], list[Piece]],
    lead: tuple[str, str],
    places: Mapping[str, tuple[str, str]],
) -> Sentence:
    """One clause after the other, then the place: `lead` opens the first clause and each later one."""
    pieces: list[Piece] = []
    for number, clause in enumerate(plan.clauses):
        pieces += [lead[min(number, 1)], *realise_clause(clause)]
    if plan.place:
        preposition, words = places[plan.place.kind]
        pieces += [preposition, Phrase(words, plan.place)]
    return finish_sentence(pieces)


def subject_with_clothes(clause: Clause, noun_phrase: Callable[[Mention], Phrase], lead: tuple[str, str]) -> list[Piece]:
    """Who, then what they wear: `lead` opens the first garment and the second."""
    pieces: list[Piece] = [noun_phrase(clause.subject)]
    worn = [noun_phrase(mention) for mention in (clause.garment, clause.hat) if mention]
    for opening, phrase in zip(lead, worn, strict=False):
        pieces += [opening, phrase]
    return pieces


def tokenized_text(sentence: Sentence) -> str:
    """The sentence with all tokens apart, as `results_20130124.token` has it."""
    return " ".join(piece.words if isinstance(piece, Phrase) else piece for piece in sentence)


def plain_text(sentence: Sentence) -> str:
    """The sentence as people write it: no blank before a comma or a full stop, none after an elided `d'`."""
    return tokenized_text(sentence).replace(" d' ", " d'").replace(" ,", ",").replace(" .", ".")


def tagged_text(sentence: Sentence, chains: Mapping[str, int]) -> str:
    """The sentence in Flickr30k Entities' markup; `chains` gives the chain id of each role."""
    return " ".join(_tag(piece, chains) if isinstance(piece, Phrase) else piece for piece in sentence)


def _tag(phrase: Phrase, chains: Mapping[str, int]) -> str:
    return f"[/EN#{chains[phrase.mention.role]}/{phrase.mention.type} {phrase.words}]"
