"""German. Three genders. Dative after `in`, `mit`, `neben` and `auf` (location, not direction). The verb is second."""

from __future__ import annotations

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention
from harness.tasks.sample.grammar.sentences import Phrase, Piece, Sentence, finish_sentence

NOUNS = {
    "man": ("m", "Mann"),
    "woman": ("f", "Frau"),
    "boy": ("m", "Junge"),
    "girl": ("n", "Mädchen"),
    "person": ("f", "Person"),
    "animal": ("n", "Tier"),
    "dog": ("m", "Hund"),
    "cat": ("f", "Katze"),
    "horse": ("n", "Pferd"),
    "cow": ("f", "Kuh"),
    "shirt": ("n", "Hemd"),
    "dress": ("n", "Kleid"),
    "jacket": ("f", "Jacke"),
    "hat": ("m", "Hut"),
    "bicycle": ("n", "Fahrrad"),
    "car": ("n", "Auto"),
    "bus": ("m", "Bus"),
    "boat": ("n", "Boot"),
    "ball": ("m", "Ball"),
    "umbrella": ("m", "Regenschirm"),
    "book": ("n", "Buch"),
    "bench": ("f", "Bank"),
    "chair": ("m", "Stuhl"),
}
COLOUR_WORDS = {
    "red": "rot",
    "blue": "blau",
    "green": "grün",
    "yellow": "gelb",
    "white": "weiß",
    "black": "schwarz",
    "brown": "braun",
}
# Article and adjective ending by case and gender.
INDEFINITE = {
    "nom": {"m": ("ein", "er"), "f": ("eine", "e"), "n": ("ein", "es")},
    "acc": {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")},
    "dat": {"m": ("einem", "en"), "f": ("einer", "en"), "n": ("einem", "en")},
}
# The verb, the words before the object, the case of the object, and the words at the end of the clause.
VERBS = {
    "run": ("rennt", "", "", ""),
    "walk": ("geht", "", "", "spazieren"),
    "stand": ("steht", "", "", ""),
    "jump": ("springt", "", "", ""),
    "dance": ("tanzt", "", "", ""),
    "sleep": ("schläft", "", "", ""),
    "sit": ("sitzt", "auf", "dat", ""),
    "sit indoors": ("sitzt", "auf", "dat", ""),
    "cycle": ("fährt", "auf", "dat", ""),
    "ride": ("reitet", "auf", "dat", ""),
    "guitar": ("spielt", "", "bare", ""),
    "drum": ("spielt", "", "bare", ""),
    "trumpet": ("spielt", "", "bare", ""),
    "ball": ("hält", "", "acc", ""),
    "umbrella": ("hält", "", "acc", ""),
    "read": ("liest", "", "acc", ""),
    "walk dog": ("geht", "mit", "dat", "spazieren"),
}
INSTRUMENTS = {"guitar": "Gitarre", "drum": "Trommel", "trumpet": "Trompete"}
PLACE_WORDS = {
    "beach": ("am", "Strand"),
    "street": ("auf", "der Straße"),
    "park": ("im", "Park"),
    "forest": ("im", "Wald"),
    "snow": ("im", "Schnee"),
    "kitchen": ("in", "der Küche"),
    "stage": ("auf", "der Bühne"),
    "field": ("auf", "dem Feld"),
    "river": ("am", "Fluss"),
    "mountains": ("in", "den Bergen"),
    "room": ("im", "Zimmer"),
    "desert": ("in", "der Wüste"),
}


def realise(plan: CaptionPlan) -> Sentence:
    """Return a caption such as `Ein Mann in einem roten Hemd spielt am Strand Gitarre .`"""
    place = _place(plan.place) if plan.place else []
    if len(plan.clauses) == 1:
        subject, verb, rest = _clause(plan.clauses[0])
        return finish_sentence([*subject, verb, *place, *rest])
    pieces: list[Piece] = []
    for number, clause in enumerate(plan.clauses):
        subject, verb, rest = _clause(clause)
        if number:
            pieces += ["und", *subject, verb, *rest]
        elif place:  # the place is in first position, so the verb precedes its subject
            pieces += [*place, verb, *subject, *rest]
        else:
            pieces += [*subject, verb, *rest]
    return finish_sentence(pieces)


def _place(place: Mention) -> list[Piece]:
    preposition, words = PLACE_WORDS[place.kind]
    return [preposition, Phrase(words, place)]


def _clause(clause: Clause) -> tuple[list[Piece], str, list[Piece]]:
    subject: list[Piece] = [noun_phrase(clause.subject, "nom")]
    if clause.garment:
        subject += ["in", noun_phrase(clause.garment, "dat")]
    if clause.hat:
        subject += ["und mit" if clause.garment else "mit", noun_phrase(clause.hat, "dat")]
    verb, preposition, case, tail = VERBS[clause.action]
    rest: list[Piece] = []
    if clause.beside:
        rest += ["neben", noun_phrase(clause.beside, "dat")]
    if clause.object:
        rest += [preposition, _bare(clause.object) if case == "bare" else noun_phrase(clause.object, case)]
    return subject, verb, [*rest, tail]


def _bare(mention: Mention) -> Phrase:
    return Phrase(INSTRUMENTS[mention.kind], mention)


def noun_phrase(mention: Mention, case: str) -> Phrase:
    """Return a phrase such as `ein roter Hut`, `einen roten Hut`, `einem roten Hut`."""
    gender, noun = NOUNS[mention.kind]
    article, ending = INDEFINITE[case][gender]
    colour = f" {COLOUR_WORDS[mention.colour]}{ending}" if mention.colour else ""
    return Phrase(f"{article}{colour} {noun}", mention)
