"""English, the language of the original captions and the only one with synonyms."""

from __future__ import annotations

from collections.abc import Sequence

from harness.tasks.sample.caption_plans import CaptionPlan, Clause, Mention
from harness.tasks.sample.grammar.sentences import Phrase, Piece, Sentence, finish_sentence

NOUNS: dict[str, tuple[str, ...]] = {
    "man": ("man", "man", "guy"),
    "woman": ("woman", "woman", "lady"),
    "boy": ("boy", "young boy", "little boy"),
    "girl": ("girl", "young girl", "little girl"),
    "bicycle": ("bicycle", "bike"),
    "jacket": ("jacket", "coat"),
}
VERBS: dict[str, tuple[str, str, str]] = {
    "run": ("is running", "runs", ""),
    "walk": ("is walking", "walks", ""),
    "stand": ("is standing", "stands", ""),
    "jump": ("is jumping", "jumps", ""),
    "dance": ("is dancing", "dances", ""),
    "sleep": ("is sleeping", "sleeps", ""),
    "sit": ("is sitting", "sits", "on"),
    "sit indoors": ("is sitting", "sits", "on"),
    "cycle": ("is riding", "rides", ""),
    "ride": ("is riding", "rides", ""),
    "guitar": ("is playing", "plays", ""),
    "drum": ("is playing", "plays", ""),
    "trumpet": ("is playing", "plays", ""),
    "ball": ("is holding", "holds", ""),
    "umbrella": ("is holding", "holds", ""),
    "read": ("is reading", "reads", ""),
    "walk dog": ("is walking", "walks", "with"),
}
PLACE_WORDS: dict[str, tuple[tuple[str, str], ...]] = {
    "beach": (("on", "the beach"), ("at", "the beach")),
    "street": (("on", "the street"), ("in", "the street")),
    "park": (("in", "the park"), ("at", "the park")),
    "forest": (("in", "the forest"), ("in", "the woods")),
    "snow": (("in", "the snow"),),
    "kitchen": (("in", "the kitchen"),),
    "stage": (("on", "the stage"), ("on", "stage")),
    "field": (("in", "the field"), ("in", "a field")),
    "river": (("by", "the river"), ("near", "the river")),
    "mountains": (("in", "the mountains"),),
    "room": (("in", "the room"), ("in", "a room")),
    "desert": (("in", "the desert"),),
}
BESIDE = ("next to", "beside", "near")


class _Wording:
    """Derives a sequence of choices from one number."""

    def __init__(self, number: int) -> None:
        self._left = number

    def pick(self, count: int) -> int:
        self._left, picked = divmod(self._left, count)
        return picked


def realise(plan: CaptionPlan) -> Sentence:
    """Return a caption such as `A man in a red shirt is playing a guitar on the beach .`"""
    wording = _Wording(plan.wording)
    place = _place(plan.place, wording) if plan.place else ()
    place_first = bool(place) and wording.pick(8) == 0
    progressive = wording.pick(4) > 0
    pieces: list[Piece] = [*place, ","] if place_first else []
    for number, clause in enumerate(plan.clauses):
        if number:
            pieces.append(("and", "while")[wording.pick(3) == 0])
        pieces += _clause(clause, progressive, wording)
    return finish_sentence(pieces if place_first else [*pieces, *place])


def _place(place: Mention, wording: _Wording) -> Sequence[Piece]:
    options = PLACE_WORDS[place.kind]
    preposition, words = options[wording.pick(len(options))]
    return preposition, Phrase(words, place)


def _clause(clause: Clause, progressive: bool, wording: _Wording) -> list[Piece]:
    pieces: list[Piece] = [_indefinite(clause.subject, wording), *_clothes(clause, wording)]
    ongoing, simple, preposition = VERBS[clause.action]
    pieces += [ongoing if progressive else simple, preposition]
    if clause.object:
        pieces.append(_indefinite(clause.object, wording))
    if clause.beside:
        pieces += [BESIDE[wording.pick(3)], _indefinite(clause.beside, wording)]
    return pieces


def _clothes(clause: Clause, wording: _Wording) -> list[Piece]:
    worn = [_indefinite(mention, wording) for mention in (clause.garment, clause.hat) if mention]
    if not worn:
        return []
    verb = "in" if clause.garment and wording.pick(2) else "wearing"
    return [verb, worn[0], *(piece for phrase in worn[1:] for piece in ("and", phrase))]


def _indefinite(mention: Mention, wording: _Wording) -> Phrase:
    nouns = NOUNS.get(mention.kind, (mention.kind,))
    noun = nouns[wording.pick(len(nouns))]
    words = f"{mention.colour} {noun}" if mention.colour else noun
    return Phrase(f"{'an' if words[0] in 'aeiou' else 'a'} {words}", mention)
