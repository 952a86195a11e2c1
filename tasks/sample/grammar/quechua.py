"""Quechua of Cusco and Collao in three-vowel spelling. Order: place, subject, neighbour, object, verb. Cases are suffixes."""

from __future__ import annotations

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention
from harness.tasks.sample.grammar.sentences import Phrase, Piece, Sentence, finish_sentence

NOUNS = {
    "man": "qhari",
    "woman": "warmi",
    "boy": "qhari irqi",
    "girl": "warmi irqi",
    "person": "runa",
    "animal": "uywa",
    "dog": "allqu",
    "cat": "misi",
    "horse": "kawallu",
    "cow": "waka",
    "shirt": "kamisa",
    "dress": "wistidu",
    "jacket": "kasaka",
    "hat": "chuku",
    "bicycle": "bisikleta",
    "car": "awtu",
    "bus": "bus",
    "boat": "wamp'u",
    "ball": "piluta",
    "umbrella": "parawa",
    "book": "liwru",
    "bench": "banku",
    "chair": "tiyana",
    "guitar": "gitarra",
    "drum": "wankar",
    "trumpet": "trumpita",
}
COLOUR_WORDS = {
    "red": "puka",
    "blue": "anqas",
    "green": "q'umir",
    "yellow": "q'illu",
    "white": "yuraq",
    "black": "yana",
    "brown": "ch'umpi",
}
# The suffix of the object, and the verb.
VERBS = {
    "run": ("", "phawachkan"),
    "walk": ("", "purichkan"),
    "stand": ("", "sayachkan"),
    "jump": ("", "p'itachkan"),
    "dance": ("", "tusuchkan"),
    "sleep": ("", "puñuchkan"),
    "sit": ("pi", "tiyachkan"),
    "sit indoors": ("pi", "tiyachkan"),
    "cycle": ("pi", "purichkan"),
    "ride": ("pi", "purichkan"),
    "guitar": ("ta", "tukachkan"),
    "drum": ("ta", "waqtachkan"),
    "trumpet": ("ta", "phukuchkan"),
    "ball": ("ta", "hap'ichkan"),
    "umbrella": ("ta", "hap'ichkan"),
    "read": ("ta", "ñawinchachkan"),
    "walk dog": ("wan", "purichkan"),
}
PLACE_WORDS = {
    "beach": "mama qucha patapi",
    "street": "k'ikllupi",
    "park": "parkipi",
    "forest": "sach'a-sach'api",
    "snow": "rit'ipi",
    "kitchen": "wayk'una wasipi",
    "stage": "tawladupi",
    "field": "chakrapi",
    "river": "mayu patapi",
    "mountains": "urqukunapi",
    "room": "wasi ukhupi",
    "desert": "aqu pampapi",
}


def realise(plan: CaptionPlan) -> Sentence:
    """Return a caption such as `Mama qucha patapi puka kamisayuq qhari gitarrata tukachkan .`"""
    pieces: list[Piece] = [Phrase(PLACE_WORDS[plan.place.kind], plan.place)] if plan.place else []
    for number, clause in enumerate(plan.clauses):
        # `-taq` on the second subject joins the clauses.
        pieces += [",", *_clause(clause, "taq")] if number else _clause(clause, "")
    return finish_sentence(pieces)


def _clause(clause: Clause, joined: str) -> list[Piece]:
    # `-yuq` (owner) marks clothes.
    pieces: list[Piece] = [noun_phrase(mention, "yuq") for mention in (clause.garment, clause.hat) if mention]
    pieces.append(noun_phrase(clause.subject, joined))
    if clause.beside:
        pieces += [noun_phrase(clause.beside, _genitive(clause.beside)), "qayllanpi"]
    suffix, verb = VERBS[clause.action]
    if clause.object:
        pieces.append(noun_phrase(clause.object, suffix))
    return [*pieces, verb]


def _genitive(mention: Mention) -> str:
    return "p" if NOUNS[mention.kind].endswith(("a", "i", "u")) else "pa"


def noun_phrase(mention: Mention, suffix: str) -> Phrase:
    """Return a phrase such as `puka awtup`: the colour first, the suffix last."""
    colour = f"{COLOUR_WORDS[mention.colour]} " if mention.colour else ""
    return Phrase(f"{colour}{NOUNS[mention.kind]}{suffix}", mention)
