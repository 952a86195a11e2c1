"""Yoruba with tone marks. Order: noun, colour, `kan` (a). Clothes are in a relative clause; caps have their own verb (`dé`)."""

from __future__ import annotations

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention
from harness.tasks.sample.grammar.sentences import Phrase, Piece, Sentence, finish_sentence

NOUNS = {
    "man": "ọkùnrin",
    "woman": "obìnrin",
    "boy": "ọmọkùnrin",
    "girl": "ọmọbìnrin",
    "person": "ènìyàn",
    "animal": "ẹranko",
    "dog": "ajá",
    "cat": "ológbò",
    "horse": "ẹṣin",
    "cow": "màlúù",
    "shirt": "ṣẹ́ẹ̀tì",
    "dress": "gáùn",
    "jacket": "jákẹ́ẹ̀tì",
    "hat": "fìlà",
    "bicycle": "kẹ̀kẹ́",
    "car": "ọkọ̀ ayọ́kẹ́lẹ́",
    "bus": "bọ́ọ̀sì",
    "boat": "ọkọ̀ ojú omi",
    "ball": "bọ́ọ̀lù",
    "umbrella": "agbòòrùn",
    "book": "ìwé",
    "bench": "bẹ́ǹṣì",
    "chair": "àga",
    "guitar": "gìtá",
    "drum": "ìlù",
    "trumpet": "kàkàkí",
}
COLOUR_WORDS = {
    "red": "pupa",
    "blue": "aláwọ̀ búlúù",
    "green": "aláwọ̀ ewé",
    "yellow": "aláwọ̀ ìyeyè",
    "white": "funfun",
    "black": "dúdú",
    "brown": "aláwọ̀ búráùn",
}
# The verb, and its second part after the object.
VERBS = {
    "run": ("ń sáré", ""),
    "walk": ("ń rìn", ""),
    "stand": ("dúró", ""),
    "jump": ("ń fò", ""),
    "dance": ("ń jó", ""),
    "sleep": ("ń sùn", ""),
    "sit": ("jókòó sórí", ""),
    "sit indoors": ("jókòó sórí", ""),
    "cycle": ("ń gun", ""),
    "ride": ("ń gun", ""),
    "guitar": ("ń ta", ""),
    "drum": ("ń lu", ""),
    "trumpet": ("ń fun", ""),
    "ball": ("mú", "dání"),
    "umbrella": ("mú", "dání"),
    "read": ("ń ka", ""),
    "walk dog": ("ń rìn pẹ̀lú", ""),
}
MASS = frozenset({"guitar", "drum", "trumpet", "shirt", "dress", "jacket", "hat"})
PLACE_WORDS = {
    "beach": ("ní", "etí òkun"),
    "street": ("ní", "òpópónà"),
    "park": ("nínú", "ọgbà ìgbafẹ́"),
    "forest": ("nínú", "igbó"),
    "snow": ("nínú", "yìnyín"),
    "kitchen": ("nínú", "ilé ìdáná"),
    "stage": ("lórí", "ìtàgé"),
    "field": ("nínú", "pápá"),
    "river": ("létí", "odò"),
    "mountains": ("lórí", "òkè"),
    "room": ("nínú", "yàrá"),
    "desert": ("nínú", "aṣálẹ̀"),
}


def realise(plan: CaptionPlan) -> Sentence:
    """Return a caption such as `Ọkùnrin kan tó wọ ṣẹ́ẹ̀tì pupa ń ta gìtá ní etí òkun .`"""
    pieces: list[Piece] = []
    for number, clause in enumerate(plan.clauses):
        # `àti` joins nouns only. `sì` after the second subject joins clauses.
        pieces += [",", *_clause(clause, "sì")] if number else _clause(clause, "")
    if plan.place:
        preposition, words = PLACE_WORDS[plan.place.kind]
        pieces += [preposition, Phrase(words, plan.place)]
    return finish_sentence(pieces)


def _clause(clause: Clause, joined: str) -> list[Piece]:
    pieces: list[Piece] = [noun_phrase(clause.subject)]
    if clause.garment:
        pieces += ["tó wọ", noun_phrase(clause.garment)]
    if clause.hat:
        pieces += ["tó sì dé" if clause.garment else "tó dé", noun_phrase(clause.hat)]
    verb, tail = VERBS[clause.action]
    pieces += [joined, verb, noun_phrase(clause.object) if clause.object else "", tail]
    if clause.beside:
        pieces += ["lẹ́gbẹ̀ẹ́", noun_phrase(clause.beside)]
    return pieces


def noun_phrase(mention: Mention) -> Phrase:
    """Return a phrase such as `ajá dúdú kan`."""
    colour = f" {COLOUR_WORDS[mention.colour]}" if mention.colour else ""
    return Phrase(f"{NOUNS[mention.kind]}{colour}{'' if mention.kind in MASS else ' kan'}", mention)
