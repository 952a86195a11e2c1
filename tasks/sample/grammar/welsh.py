"""Welsh. The verb is first. Adjectives have soft mutation after feminine nouns, and some change form. `gyda` aspirates."""

from __future__ import annotations

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention
from harness.tasks.sample.grammar.sentences import Phrase, Piece, Sentence, clauses_then_place, subject_with_clothes

NOUNS = {
    "man": ("m", "dyn"),
    "woman": ("f", "menyw"),
    "boy": ("m", "bachgen"),
    "girl": ("f", "merch"),
    "person": ("m", "person"),
    "animal": ("m", "anifail"),
    "dog": ("m", "ci"),
    "cat": ("f", "cath"),
    "horse": ("m", "ceffyl"),
    "cow": ("f", "buwch"),
    "shirt": ("m", "crys"),
    "dress": ("f", "ffrog"),
    "jacket": ("f", "siaced"),
    "hat": ("f", "het"),
    "bicycle": ("m", "beic"),
    "car": ("m", "car"),
    "bus": ("m", "bws"),
    "boat": ("m", "cwch"),
    "ball": ("f", "pêl"),
    "umbrella": ("m", "ymbarél"),
    "book": ("m", "llyfr"),
    "bench": ("f", "mainc"),
    "chair": ("f", "cadair"),
    "guitar": ("m", "gitâr"),
    "drum": ("m", "drwm"),
    "trumpet": ("m", "trwmped"),
}
COLOUR_WORDS = {
    "red": {"m": "coch", "f": "goch"},
    "blue": {"m": "glas", "f": "las"},
    "green": {"m": "gwyrdd", "f": "werdd"},
    "yellow": {"m": "melyn", "f": "felen"},
    "white": {"m": "gwyn", "f": "wen"},
    "black": {"m": "du", "f": "ddu"},
    "brown": {"m": "brown", "f": "frown"},
}
# Nouns after a word that mutates them.
AFTER_AR = {"bench": "fainc", "chair": "gadair"}
AFTER_GYDA = {"dog": "chi"}
VERBS = {
    "run": "yn rhedeg",
    "walk": "yn cerdded",
    "stand": "yn sefyll",
    "jump": "yn neidio",
    "dance": "yn dawnsio",
    "sleep": "yn cysgu",
    "sit": "yn eistedd ar",
    "sit indoors": "yn eistedd ar",
    "cycle": "yn reidio",
    "ride": "yn marchogaeth",
    "guitar": "yn chwarae",
    "drum": "yn chwarae",
    "trumpet": "yn chwarae",
    "ball": "yn dal",
    "umbrella": "yn dal",
    "read": "yn darllen",
    "walk dog": "yn cerdded gyda",
}
PLACE_WORDS = {
    "beach": ("ar", "y traeth"),
    "street": ("ar", "y stryd"),
    "park": ("yn", "y parc"),
    "forest": ("yn", "y goedwig"),
    "snow": ("yn", "yr eira"),
    "kitchen": ("yn", "y gegin"),
    "stage": ("ar", "y llwyfan"),
    "field": ("yn", "y cae"),
    "river": ("ar lan", "yr afon"),
    "mountains": ("yn", "y mynyddoedd"),
    "room": ("yn", "yr ystafell"),
    "desert": ("yn", "yr anialwch"),
}


def realise(plan: CaptionPlan) -> Sentence:
    """Return a caption such as `Mae dyn mewn crys coch yn chwarae gitâr ar y traeth .`"""
    return clauses_then_place(plan, _clause, ("mae", "ac mae"), PLACE_WORDS)


def _clause(clause: Clause) -> list[Piece]:
    pieces = subject_with_clothes(clause, noun_phrase, ("mewn", "a"))
    pieces += [VERBS[clause.action], _object(clause) if clause.object else ""]
    if clause.beside:
        pieces += ["wrth ymyl", noun_phrase(clause.beside)]
    return pieces


def _object(clause: Clause) -> Phrase:
    assert clause.object is not None
    mutations = {"sit": AFTER_AR, "sit indoors": AFTER_AR, "walk dog": AFTER_GYDA}.get(clause.action, {})
    return noun_phrase(clause.object, mutations)


def noun_phrase(mention: Mention, mutations: dict[str, str] | None = None) -> Phrase:
    """Return a phrase such as `crys coch`, `ffrog goch`."""
    gender, noun = NOUNS[mention.kind]
    noun = (mutations or {}).get(mention.kind, noun)
    colour = f" {COLOUR_WORDS[mention.colour][gender]}" if mention.colour else ""
    return Phrase(f"{noun}{colour}", mention)
