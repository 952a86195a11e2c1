"""Sentences as sequences of words and phrases, and the three forms in which files have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention


@dataclass(frozen=True)
class Phrase:
    """Words that mention a thing of the scene."""

    words: str
    mention: Mention


Piece = str | Phrase
Sentence = tuple[Piece, ...]


def finish_sentence(pieces: Iterable[Piece]) -> Sentence:
    """Return a sentence with an initial capital and a full stop, without empty words."""
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
    """Return the clauses followed by the place. `lead` has the words before the first clause and before later ones."""
    pieces: list[Piece] = []
    for number, clause in enumerate(plan.clauses):
        pieces += [lead[min(number, 1)], *realise_clause(clause)]
    if plan.place:
        preposition, words = places[plan.place.kind]
        pieces += [preposition, Phrase(words, plan.place)]
    return finish_sentence(pieces)


def subject_with_clothes(clause: Clause, noun_phrase: Callable[[Mention], Phrase], lead: tuple[str, str]) -> list[Piece]:
    """Return the subject and its clothes. `lead` has the words before the first and the second garment."""
    pieces: list[Piece] = [noun_phrase(clause.subject)]
    worn = [noun_phrase(mention) for mention in (clause.garment, clause.hat) if mention]
    for opening, phrase in zip(lead, worn, strict=False):
        pieces += [opening, phrase]
    return pieces


def tokenized_text(sentence: Sentence) -> str:
    """Return the sentence with blanks between all tokens, as in `results_20130124.token`."""
    return " ".join(piece.words if isinstance(piece, Phrase) else piece for piece in sentence)


def detokenized_text(sentence: Sentence) -> str:
    """Return the sentence in normal spelling, without blanks before commas and full stops and after an elided `d'`."""
    return tokenized_text(sentence).replace(" d' ", " d'").replace(" ,", ",").replace(" .", ".")


def tagged_text(sentence: Sentence, chains: Mapping[str, int]) -> str:
    """Return the sentence in the markup of Flickr30k Entities. `chains` has the chain number of each role."""
    return " ".join(_tag(piece, chains) if isinstance(piece, Phrase) else piece for piece in sentence)


def _tag(phrase: Phrase, chains: Mapping[str, int]) -> str:
    return f"[/EN#{chains[phrase.mention.role]}/{phrase.mention.type} {phrase.words}]"
