"""Basque. `bat` carries the case after noun and colour. The subject of `dauka` (holds) is ergative. Clothes take `-dun`."""

from __future__ import annotations

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention
from harness.tasks.sample.grammar.sentences import Phrase, Piece, Sentence, finish_sentence

NOUNS = {
    "man": "gizon",
    "woman": "emakume",
    "boy": "mutil",
    "girl": "neska",
    "person": "pertsona",
    "animal": "animalia",
    "dog": "txakur",
    "cat": "katu",
    "horse": "zaldi",
    "cow": "behi",
    "shirt": "alkandora",
    "dress": "soineko",
    "jacket": "jaka",
    "hat": "kapela",
    "bicycle": "bizikleta",
    "car": "auto",
    "bus": "autobus",
    "boat": "txalupa",
    "ball": "pilota",
    "umbrella": "aterki",
    "book": "liburu",
    "bench": "banku",
    "chair": "aulki",
}
COLOUR_WORDS = {
    "red": "gorri",
    "blue": "urdin",
    "green": "berde",
    "yellow": "hori",
    "white": "zuri",
    "black": "beltz",
    "brown": "marroi",
}
CASES = {"abs": "bat", "erg": "batek", "gen": "baten", "loc": "batean", "com": "batekin"}
# The case of the object and the words after it.
VERBS = {
    "run": ("", "korrika ari da"),
    "walk": ("", "oinez dabil"),
    "stand": ("", "zutik dago"),
    "jump": ("", "saltoka ari da"),
    "dance": ("", "dantzan ari da"),
    "sleep": ("", "lo dago"),
    "sit": ("loc", "eserita dago"),
    "sit indoors": ("loc", "eserita dago"),
    "cycle": ("loc", "dabil"),
    "ride": ("gen", "gainean dabil"),
    "guitar": ("bare", "jotzen ari da"),
    "drum": ("bare", "jotzen ari da"),
    "trumpet": ("bare", "jotzen ari da"),
    "ball": ("abs", "dauka eskuan"),
    "umbrella": ("abs", "dauka eskuan"),
    "read": ("abs", "irakurtzen ari da"),
    "walk dog": ("com", "dabil oinez"),
}
ERGATIVE = frozenset({"ball", "umbrella"})
INSTRUMENTS = {"guitar": "gitarra", "drum": "danborra", "trumpet": "tronpeta"}
PLACE_WORDS = {
    "beach": ("hondartzan", ""),
    "street": ("kalean", ""),
    "park": ("parkean", ""),
    "forest": ("basoan", ""),
    "snow": ("elurretan", ""),
    "kitchen": ("sukaldean", ""),
    "stage": ("agertokian", ""),
    "field": ("zelaian", ""),
    "river": ("ibaiaren", "ondoan"),
    "mountains": ("mendietan", ""),
    "room": ("gelan", ""),
    "desert": ("basamortuan", ""),
}


def realise(plan: CaptionPlan) -> Sentence:
    """Return a caption such as `Hondartzan , alkandora gorridun gizon bat gitarra jotzen ari da .`"""
    pieces: list[Piece] = []
    if plan.place:
        words, postposition = PLACE_WORDS[plan.place.kind]
        pieces += [Phrase(words, plan.place), postposition, ","]
    for number, clause in enumerate(plan.clauses):
        pieces += ["eta" if number else "", *_clause(clause)]
    return finish_sentence(pieces)


def _clause(clause: Clause) -> list[Piece]:
    pieces: list[Piece] = []
    worn = [Phrase(f"{_noun(mention)}dun", mention) for mention in (clause.garment, clause.hat) if mention]
    for number, phrase in enumerate(worn):
        pieces += ["eta" if number else "", phrase]
    pieces.append(noun_phrase(clause.subject, "erg" if clause.action in ERGATIVE else "abs"))
    if clause.beside:
        pieces += [noun_phrase(clause.beside, "gen"), "ondoan"]
    case, verb = VERBS[clause.action]
    if clause.object:
        pieces.append(_bare(clause.object) if case == "bare" else noun_phrase(clause.object, case))
    return [*pieces, verb]


def _bare(mention: Mention) -> Phrase:
    return Phrase(INSTRUMENTS[mention.kind], mention)


def _noun(mention: Mention) -> str:
    noun = NOUNS[mention.kind]
    return f"{noun} {COLOUR_WORDS[mention.colour]}" if mention.colour else noun


def noun_phrase(mention: Mention, case: str) -> Phrase:
    """Return a phrase such as `auto gorri bat`, `auto gorri baten`."""
    return Phrase(f"{_noun(mention)} {CASES[case]}", mention)
