"""Spanish. Two genders. The colour follows its noun and agrees with it."""

from __future__ import annotations

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention
from harness.tasks.sample.grammar.sentences import Phrase, Piece, Sentence, clauses_then_place, subject_with_clothes

NOUNS = {
    "man": ("m", "hombre"),
    "woman": ("f", "mujer"),
    "boy": ("m", "niño"),
    "girl": ("f", "niña"),
    "person": ("f", "persona"),
    "animal": ("m", "animal"),
    "dog": ("m", "perro"),
    "cat": ("m", "gato"),
    "horse": ("m", "caballo"),
    "cow": ("f", "vaca"),
    "shirt": ("f", "camisa"),
    "dress": ("m", "vestido"),
    "jacket": ("f", "chaqueta"),
    "hat": ("m", "sombrero"),
    "bicycle": ("f", "bicicleta"),
    "car": ("m", "coche"),
    "bus": ("m", "autobús"),
    "boat": ("m", "barco"),
    "ball": ("f", "pelota"),
    "umbrella": ("m", "paraguas"),
    "book": ("m", "libro"),
    "bench": ("m", "banco"),
    "chair": ("f", "silla"),
}
COLOUR_WORDS = {
    "red": {"m": "rojo", "f": "roja"},
    "blue": {"m": "azul", "f": "azul"},
    "green": {"m": "verde", "f": "verde"},
    "yellow": {"m": "amarillo", "f": "amarilla"},
    "white": {"m": "blanco", "f": "blanca"},
    "black": {"m": "negro", "f": "negra"},
    "brown": {"m": "marrón", "f": "marrón"},
}
VERBS = {
    "run": "corre",
    "walk": "camina",
    "stand": "está de pie",
    "jump": "salta",
    "dance": "baila",
    "sleep": "duerme",
    "cycle": "monta en",
    "ride": "monta en",
    "ball": "sostiene",
    "umbrella": "sostiene",
    "read": "lee",
    "walk dog": "camina con",
}
SITTING = {"m": "está sentado en", "f": "está sentada en"}
PLAYS = {"guitar": "la guitarra", "drum": "el tambor", "trumpet": "la trompeta"}
PLACE_WORDS = {
    "beach": ("en", "la playa"),
    "street": ("en", "la calle"),
    "park": ("en", "el parque"),
    "forest": ("en", "el bosque"),
    "snow": ("en", "la nieve"),
    "kitchen": ("en", "la cocina"),
    "stage": ("en", "el escenario"),
    "field": ("en", "el campo"),
    "river": ("junto al", "río"),
    "mountains": ("en", "las montañas"),
    "room": ("en", "la habitación"),
    "desert": ("en", "el desierto"),
}


def realise(plan: CaptionPlan) -> Sentence:
    """Return a caption such as `Un hombre con una camisa roja toca la guitarra en la playa .`"""
    return clauses_then_place(plan, _clause, ("", "y"), PLACE_WORDS)


def _clause(clause: Clause) -> list[Piece]:
    pieces = subject_with_clothes(clause, noun_phrase, ("con", "y"))
    if clause.object and clause.action in PLAYS:
        pieces += ["toca", Phrase(PLAYS[clause.action], clause.object)]
    elif clause.object and clause.action in ("sit", "sit indoors"):
        pieces += [SITTING[NOUNS[clause.subject.kind][0]], noun_phrase(clause.object)]
    else:
        pieces += [VERBS[clause.action], noun_phrase(clause.object) if clause.object else ""]
    if clause.beside:
        pieces += ["junto a", noun_phrase(clause.beside)]
    return pieces


def noun_phrase(mention: Mention) -> Phrase:
    """Return a phrase such as `una camisa blanca`."""
    gender, noun = NOUNS[mention.kind]
    article = {"m": "un", "f": "una"}[gender]
    colour = f" {COLOUR_WORDS[mention.colour][gender]}" if mention.colour else ""
    return Phrase(f"{article} {noun}{colour}", mention)
