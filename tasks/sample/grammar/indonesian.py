"""Indonesian. No inflection. Classifiers precede people (`seorang`), animals (`seekor`) and things (`sebuah`)."""

from __future__ import annotations

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention
from harness.tasks.sample.grammar.sentences import Phrase, Piece, Sentence, clauses_then_place, subject_with_clothes

NOUNS = {
    "man": "seorang pria",
    "woman": "seorang wanita",
    "boy": "seorang anak laki-laki",
    "girl": "seorang anak perempuan",
    "person": "seseorang",
    "animal": "seekor hewan",
    "dog": "seekor anjing",
    "cat": "seekor kucing",
    "horse": "seekor kuda",
    "cow": "seekor sapi",
    "shirt": "kemeja",
    "dress": "gaun",
    "jacket": "jaket",
    "hat": "topi",
    "bicycle": "sebuah sepeda",
    "car": "sebuah mobil",
    "bus": "sebuah bus",
    "boat": "sebuah perahu",
    "ball": "sebuah bola",
    "umbrella": "sebuah payung",
    "book": "sebuah buku",
    "bench": "sebuah bangku",
    "chair": "sebuah kursi",
    "guitar": "gitar",
    "drum": "drum",
    "trumpet": "terompet",
}
COLOUR_WORDS = {
    "red": "merah",
    "blue": "biru",
    "green": "hijau",
    "yellow": "kuning",
    "white": "putih",
    "black": "hitam",
    "brown": "cokelat",
}
VERBS = {
    "run": "sedang berlari",
    "walk": "sedang berjalan",
    "stand": "sedang berdiri",
    "jump": "sedang melompat",
    "dance": "sedang menari",
    "sleep": "sedang tidur",
    "sit": "sedang duduk di",
    "sit indoors": "sedang duduk di",
    "cycle": "sedang mengendarai",
    "ride": "sedang menunggang",
    "guitar": "sedang memainkan",
    "drum": "sedang memainkan",
    "trumpet": "sedang memainkan",
    "ball": "sedang memegang",
    "umbrella": "sedang memegang",
    "read": "sedang membaca",
    "walk dog": "sedang berjalan bersama",
}
PLACE_WORDS = {
    "beach": ("di", "pantai"),
    "street": ("di", "jalan"),
    "park": ("di", "taman"),
    "forest": ("di", "hutan"),
    "snow": ("di", "salju"),
    "kitchen": ("di", "dapur"),
    "stage": ("di atas", "panggung"),
    "field": ("di", "ladang"),
    "river": ("di tepi", "sungai"),
    "mountains": ("di", "pegunungan"),
    "room": ("di dalam", "ruangan"),
    "desert": ("di", "gurun"),
}


def realise(plan: CaptionPlan) -> Sentence:
    """Return a caption such as `Seorang pria yang memakai kemeja merah sedang memainkan gitar di pantai .`"""
    return clauses_then_place(plan, _clause, ("", "dan"), PLACE_WORDS)


def _clause(clause: Clause) -> list[Piece]:
    pieces = subject_with_clothes(clause, noun_phrase, ("yang memakai", "dan"))
    pieces += [VERBS[clause.action], noun_phrase(clause.object) if clause.object else ""]
    if clause.beside:
        pieces += ["di samping", noun_phrase(clause.beside)]
    return pieces


def noun_phrase(mention: Mention) -> Phrase:
    """Return a phrase such as `sebuah mobil merah`."""
    colour = f" {COLOUR_WORDS[mention.colour]}" if mention.colour else ""
    return Phrase(f"{NOUNS[mention.kind]}{colour}", mention)
