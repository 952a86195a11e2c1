"""Czech. All forms of each noun are listed. Colours have the hard adjective declension."""

from __future__ import annotations

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention
from harness.tasks.sample.grammar.sentences import Phrase, Piece, Sentence, finish_sentence

# Gender (a: masculine animate, i: masculine inanimate, f, n, p: masculine plural only) and the forms in the cases used.
NOUNS: dict[str, tuple[str, dict[str, str]]] = {
    "man": ("a", {"nom": "muž"}),
    "woman": ("f", {"nom": "žena"}),
    "boy": ("a", {"nom": "chlapec"}),
    "girl": ("f", {"nom": "dívka"}),
    "person": ("a", {"nom": "člověk"}),
    "animal": ("n", {"nom": "zvíře"}),
    "dog": ("a", {"nom": "pes", "gen": "psa", "ins": "psem"}),
    "cat": ("f", {"nom": "kočka", "gen": "kočky"}),
    "horse": ("a", {"nom": "kůň", "gen": "koně", "loc": "koni"}),
    "cow": ("f", {"nom": "kráva", "gen": "krávy"}),
    "shirt": ("f", {"loc": "košili"}),
    "dress": ("p", {"loc": "šatech"}),
    "jacket": ("f", {"loc": "bundě"}),
    "hat": ("i", {"ins": "kloboukem"}),
    "bicycle": ("n", {"loc": "kole"}),
    "car": ("n", {"gen": "auta"}),
    "bus": ("i", {"gen": "autobusu"}),
    "boat": ("i", {"gen": "člunu"}),
    "ball": ("i", {"acc": "míč"}),
    "umbrella": ("i", {"acc": "deštník"}),
    "book": ("f", {"acc": "knihu"}),
    "bench": ("f", {"loc": "lavičce"}),
    "chair": ("f", {"loc": "židli"}),
    "guitar": ("f", {"acc": "kytaru"}),
    "drum": ("i", {"acc": "buben"}),
    "trumpet": ("f", {"acc": "trubku"}),
}
COLOUR_WORDS = {
    "red": "červen",
    "blue": "modr",
    "green": "zelen",
    "yellow": "žlut",
    "white": "bíl",
    "black": "čern",
    "brown": "hněd",
}
ENDINGS = {
    "a": {"nom": "ý", "gen": "ého", "loc": "ém", "ins": "ým"},
    "i": {"gen": "ého", "acc": "ý", "ins": "ým"},
    "f": {"nom": "á", "gen": "é", "acc": "ou", "loc": "é"},
    "n": {"nom": "é", "gen": "ého", "loc": "ém"},
    "p": {"loc": "ých"},
}
VERBS = {
    "run": ("běží", ""),
    "walk": ("kráčí", ""),
    "stand": ("stojí", ""),
    "jump": ("skáče", ""),
    "dance": ("tančí", ""),
    "sleep": ("spí", ""),
    "sit": ("sedí na", "loc"),
    "sit indoors": ("sedí na", "loc"),
    "cycle": ("jede na", "loc"),
    "ride": ("jede na", "loc"),
    "guitar": ("hraje na", "acc"),
    "drum": ("hraje na", "acc"),
    "trumpet": ("hraje na", "acc"),
    "ball": ("drží", "acc"),
    "umbrella": ("drží", "acc"),
    "read": ("čte", "acc"),
    "walk dog": ("kráčí", "ins"),
}
PLACE_WORDS = {
    "beach": ("na", "pláži"),
    "street": ("na", "ulici"),
    "park": ("v", "parku"),
    "forest": ("v", "lese"),
    "snow": ("ve", "sněhu"),
    "kitchen": ("v", "kuchyni"),
    "stage": ("na", "pódiu"),
    "field": ("na", "poli"),
    "river": ("u", "řeky"),
    "mountains": ("v", "horách"),
    "room": ("v", "pokoji"),
    "desert": ("v", "poušti"),
}


def realise(plan: CaptionPlan) -> Sentence:
    """Return a caption such as `Muž v červené košili hraje na kytaru na pláži .`"""
    pieces: list[Piece] = []
    for number, clause in enumerate(plan.clauses):
        pieces += ["a" if number else "", *_clause(clause)]
    if plan.place:
        preposition, words = PLACE_WORDS[plan.place.kind]
        pieces += [preposition, Phrase(words, plan.place)]
    return finish_sentence(pieces)


def _clause(clause: Clause) -> list[Piece]:
    pieces: list[Piece] = [noun_phrase(clause.subject, "nom")]
    if clause.garment:
        pieces += ["v", noun_phrase(clause.garment, "loc")]
    if clause.hat:
        pieces += ["a" if clause.garment else "", *_with(clause.hat)]
    verb, case = VERBS[clause.action]
    pieces.append(verb)
    if clause.object:
        pieces += _with(clause.object) if case == "ins" else [noun_phrase(clause.object, case)]
    if clause.beside:
        pieces += ["vedle", noun_phrase(clause.beside, "gen")]
    return pieces


def _with(mention: Mention) -> list[Piece]:
    """Return a phrase such as `s bílým kloboukem`, but `se zeleným kloboukem` and `se psem`."""
    phrase = noun_phrase(mention, "ins")
    return ["se" if phrase.words.startswith(("z", "ž", "s", "š", "ps")) else "s", phrase]


def noun_phrase(mention: Mention, case: str) -> Phrase:
    """Return a phrase such as `červeného auta`."""
    gender, forms = NOUNS[mention.kind]
    colour = f"{COLOUR_WORDS[mention.colour]}{ENDINGS[gender][case]} " if mention.colour else ""
    return Phrase(f"{colour}{forms[case]}", mention)
