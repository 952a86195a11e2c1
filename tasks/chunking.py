"""Phrases of captions that nobody has tagged: runs of words between function words, by the rules of the script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from harness.api import Language

# Closed-class words and the verbs that say no more than "is": what never stands inside the name of a thing.
FUNCTION_WORDS = {
    "en": "a an the this that these those some his her its their my your our and or but while as with without in on at of "
    "to from into onto over under by near next behind between beside before for against through across along around "
    "through up down out off is are was were be being been has have having had who which there it he she they him "
    "them one another",
    "de": "ein eine einen einem einer eines der die das den dem des dieser diese dieses und oder aber während mit ohne in "
    "im ins auf am an ans aus bei beim von vom vor zu zum zur über unter neben hinter zwischen durch für gegen um "
    "nach ist sind war hat haben wird er sie es sein seine seinen seinem seiner ihr ihre ihren ihrem ihrer sich der "
    "welche als wie zwei",
    "fr": "un une des le la les l d du de ce cet cette ces son sa ses leur leurs et ou mais avec sans dans en sur sous à "
    "au aux par pour vers devant derrière entre près chez contre est sont a ont qui que il elle ils elles se s y "
    "pendant comme",
    "es": "un una unos unas el la los las lo de del y e o u pero con sin en sobre bajo por para a al ante tras entre "
    "cerca junto hacia es son está están hay ha han que quien su sus se él ella ellos mientras como",
    "cs": "a i nebo ale s se v ve na do z ze k ke u o od po pro při před přes pod nad za mezi vedle je jsou byl byla "
    "který která které co to ten ta ti jeho její jejich svůj svou si jak",
}
_SHORT = 2
"""In other alphabetic languages a word of so few letters ends a phrase."""
_JAPANESE = re.compile(r"[^\W\u3041-\u3096]+(?:の[^\W\u3041-\u3096]+)*")
_CHINESE = re.compile(r"[^\W在和与跟着了是有被把从向对于上下里中前后旁边正]+")


def simple(text: str, language: Language) -> tuple[str, ...]:
    """The phrases of a caption, in order, as they stand in it.

    Between blanks, a phrase is a run of words that are no function words of the language (or, where those are not listed, are
    longer than two letters) within one stretch of punctuation. In Japanese it is a run of other letters than hiragana, joined by
    `の`; in Chinese a run without particles; in other scripts without blanks, what stands between blanks.

    >>> simple("A man in a red shirt, with two dogs.", Language("en", "English", "Latn", 5, ()))
    ('man', 'red shirt', 'two dogs')
    """
    if language.script == "Jpan":
        return tuple(_JAPANESE.findall(text))
    if language.script in {"Hani", "Hans", "Hant"}:
        return tuple(_CHINESE.findall(text))
    closed = frozenset(FUNCTION_WORDS.get(language.code, "").split())
    return tuple(phrase for part in re.split(r"[^\w\s'’ʼ-]+", text) for phrase in _runs(part, closed))


def _runs(part: str, closed: frozenset[str]) -> Iterator[str]:
    """Runs of words that say what is there."""

    def says(word: str) -> bool:
        return word.casefold() not in closed if closed else len(word) > _SHORT

    # In French and its like an elided article stands before an apostrophe.
    words = re.sub(r"\b(\w)['’]", r"\1 ", part).split() if closed else part.split()
    return (" ".join(run) for kept, run in groupby(words, says) if kept)
