"""Swahili. Adjectives and the associative `-a` agree with the class of the noun. Animals agree like people (class 1)."""

from __future__ import annotations

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention
from harness.tasks.sample.grammar.sentences import Phrase, Piece, Sentence, clauses_then_place, subject_with_clothes

# Concord (noun class) and noun.
NOUNS = {
    "man": (1, "mwanaume"),
    "woman": (1, "mwanamke"),
    "boy": (1, "mvulana"),
    "girl": (1, "msichana"),
    "person": (1, "mtu"),
    "animal": (1, "mnyama"),
    "dog": (1, "mbwa"),
    "cat": (1, "paka"),
    "horse": (1, "farasi"),
    "cow": (1, "ng'ombe"),
    "shirt": (5, "shati"),
    "dress": (5, "gauni"),
    "jacket": (5, "koti"),
    "hat": (9, "kofia"),
    "bicycle": (9, "baiskeli"),
    "car": (5, "gari"),
    "bus": (5, "basi"),
    "boat": (9, "mashua"),
    "ball": (3, "mpira"),
    "umbrella": (3, "mwavuli"),
    "book": (7, "kitabu"),
    "bench": (5, "benchi"),
    "chair": (7, "kiti"),
    "guitar": (5, "gitaa"),
    "drum": (9, "ngoma"),
    "trumpet": (5, "tarumbeta"),
}
COLOUR_WORDS = {
    "red": {3: "mwekundu", 5: "jekundu", 9: "nyekundu"},
    "blue": {3: "wa buluu", 5: "la buluu", 9: "ya buluu"},
    "green": {3: "wa kijani", 5: "la kijani", 9: "ya kijani"},
    "yellow": {3: "wa njano", 5: "la njano", 9: "ya njano"},
    "white": {1: "mweupe", 3: "mweupe", 5: "jeupe", 9: "nyeupe"},
    "black": {1: "mweusi", 3: "mweusi", 5: "jeusi", 9: "nyeusi"},
    "brown": {1: "wa kahawia"},
}
VERBS = {
    "run": "anakimbia",
    "walk": "anatembea",
    "stand": "amesimama",
    "jump": "anaruka",
    "dance": "anacheza dansi",
    "sleep": "amelala",
    "sit": "ameketi kwenye",
    "sit indoors": "ameketi kwenye",
    "cycle": "anaendesha",
    "ride": "amepanda",
    "guitar": "anapiga",
    "drum": "anapiga",
    "trumpet": "anapiga",
    "ball": "ameshika",
    "umbrella": "ameshika",
    "read": "anasoma",
    "walk dog": "anatembea na",
}
PLACE_WORDS = {
    "beach": ("", "ufukweni"),
    "street": ("", "barabarani"),
    "park": ("katika", "bustani"),
    "forest": ("", "msituni"),
    "snow": ("kwenye", "theluji"),
    "kitchen": ("", "jikoni"),
    "stage": ("", "jukwaani"),
    "field": ("", "shambani"),
    "river": ("kando ya", "mto"),
    "mountains": ("", "milimani"),
    "room": ("", "chumbani"),
    "desert": ("", "jangwani"),
}


def realise(plan: CaptionPlan) -> Sentence:
    """Return a caption such as `Mwanaume aliyevaa shati jekundu anapiga gitaa ufukweni .`"""
    return clauses_then_place(plan, _clause, ("", "na"), PLACE_WORDS)


def _clause(clause: Clause) -> list[Piece]:
    pieces = subject_with_clothes(clause, noun_phrase, ("aliyevaa", "na"))
    pieces += [VERBS[clause.action], noun_phrase(clause.object) if clause.object else ""]
    if clause.beside:
        pieces += ["kando ya", noun_phrase(clause.beside)]
    return pieces


def noun_phrase(mention: Mention) -> Phrase:
    """Return a phrase such as `gari jekundu`, `kofia nyekundu`, `mpira mwekundu`."""
    concord, noun = NOUNS[mention.kind]
    colour = f" {COLOUR_WORDS[mention.colour][concord]}" if mention.colour else ""
    return Phrase(f"{noun}{colour}", mention)
