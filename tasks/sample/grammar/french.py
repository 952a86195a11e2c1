"""French. Two genders. The colour follows its noun and agrees with it. `à côté d'` before a vowel."""

from __future__ import annotations

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention
from harness.tasks.sample.grammar.sentences import Phrase, Piece, Sentence, clauses_then_place, subject_with_clothes

NOUNS = {
    "man": ("m", "homme"),
    "woman": ("f", "femme"),
    "boy": ("m", "garçon"),
    "girl": ("f", "fille"),
    "person": ("f", "personne"),
    "animal": ("m", "animal"),
    "dog": ("m", "chien"),
    "cat": ("m", "chat"),
    "horse": ("m", "cheval"),
    "cow": ("f", "vache"),
    "shirt": ("f", "chemise"),
    "dress": ("f", "robe"),
    "jacket": ("f", "veste"),
    "hat": ("m", "chapeau"),
    "bicycle": ("m", "vélo"),
    "car": ("f", "voiture"),
    "bus": ("m", "bus"),
    "boat": ("m", "bateau"),
    "ball": ("m", "ballon"),
    "umbrella": ("m", "parapluie"),
    "book": ("m", "livre"),
    "bench": ("m", "banc"),
    "chair": ("f", "chaise"),
}
COLOUR_WORDS = {
    "red": {"m": "rouge", "f": "rouge"},
    "blue": {"m": "bleu", "f": "bleue"},
    "green": {"m": "vert", "f": "verte"},
    "yellow": {"m": "jaune", "f": "jaune"},
    "white": {"m": "blanc", "f": "blanche"},
    "black": {"m": "noir", "f": "noire"},
    "brown": {"m": "marron", "f": "marron"},
}
VERBS = {
    "run": "court",
    "walk": "marche",
    "stand": "est debout",
    "jump": "saute",
    "dance": "danse",
    "sleep": "dort",
    "cycle": "roule sur",
    "ride": "monte",
    "ball": "tient",
    "umbrella": "tient",
    "read": "lit",
    "walk dog": "marche avec",
}
SITTING = {"m": "est assis sur", "f": "est assise sur"}
PLAYS = {"guitar": ("joue de", "la guitare"), "drum": ("joue du", "tambour"), "trumpet": ("joue de", "la trompette")}
PLACE_WORDS = {
    "beach": ("sur", "la plage"),
    "street": ("dans", "la rue"),
    "park": ("dans", "le parc"),
    "forest": ("dans", "la forêt"),
    "snow": ("dans", "la neige"),
    "kitchen": ("dans", "la cuisine"),
    "stage": ("sur", "la scène"),
    "field": ("dans", "le champ"),
    "river": ("au bord de", "la rivière"),
    "mountains": ("dans", "les montagnes"),
    "room": ("dans", "la pièce"),
    "desert": ("dans", "le désert"),
}


def realise(plan: CaptionPlan) -> Sentence:
    """Return a caption such as `Un homme portant une chemise rouge joue de la guitare sur la plage .`"""
    return clauses_then_place(plan, _clause, ("", "et"), PLACE_WORDS)


def _clause(clause: Clause) -> list[Piece]:
    pieces = subject_with_clothes(clause, noun_phrase, ("portant", "et"))
    if clause.object and clause.action in PLAYS:
        verb, words = PLAYS[clause.action]
        pieces += [verb, Phrase(words, clause.object)]
    elif clause.object and clause.action in ("sit", "sit indoors"):
        pieces += [SITTING[NOUNS[clause.subject.kind][0]], noun_phrase(clause.object)]
    else:
        pieces += [VERBS[clause.action], noun_phrase(clause.object) if clause.object else ""]
    if clause.beside:
        pieces += ["à côté", "d'", noun_phrase(clause.beside)]
    return pieces


def noun_phrase(mention: Mention) -> Phrase:
    """Return a phrase such as `une robe blanche`."""
    gender, noun = NOUNS[mention.kind]
    article = {"m": "un", "f": "une"}[gender]
    colour = f" {COLOUR_WORDS[mention.colour][gender]}" if mention.colour else ""
    return Phrase(f"{article} {noun}{colour}", mention)
