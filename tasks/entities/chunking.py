"""Phrase chunkers, which find noun phrases in captions without tags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from typing import Any

from harness.core.builtins import Chunker
from harness.core.data import Language, Span, Spans
from harness.core.errors import HarnessError

# Closed-class words and copular verbs, which never occur inside a noun phrase.
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
"""In other alphabetic languages, a word of at most so many letters ends a phrase."""
_STRETCH = re.compile(r"[\w\s'’ʼ-]+")
_JAPANESE = re.compile(r"[^\W\u3041-\u3096]+(?:の[^\W\u3041-\u3096]+)*")
_CHINESE = re.compile(r"[^\W在和与跟着了是有被把从向对于上下里中前后旁边正]+")


def simple_chunker(argument: str) -> Chunker:
    """`simple`: runs of words between function words, by the rules of the script. No dependencies.

    In languages with blanks, a phrase is a run of words that are no function words, without punctuation. Without a list of the
    language's function words, words of at most two letters end a phrase. In Japanese, a phrase is a run of characters other than
    hiragana, joined by `の`. In Chinese, it is a run without particles. In other scripts without blanks, phrases end at blanks.

    Raises HarnessError if it receives an argument.

    >>> text = "A man in a red shirt, with two dogs."
    >>> (spans,) = simple_chunker("")([text], Language("en", "English", "Latn", 5, ()))
    >>> [text[start:end] for start, end in spans]
    ['man', 'red shirt', 'two dogs']
    """
    if argument:
        raise HarnessError(f"the phrase chunker simple takes no argument, not {argument!r}")
    return lambda texts, language: [_phrases(text, language) for text in texts]


def _phrases(text: str, language: Language) -> Spans:
    if language.script == "Jpan":
        return tuple(found.span() for found in _JAPANESE.finditer(text))
    if language.script in {"Hani", "Hans", "Hant"}:
        return tuple(found.span() for found in _CHINESE.finditer(text))
    closed = frozenset(FUNCTION_WORDS.get(language.code, "").split())
    # In French and similar languages, an apostrophe follows an elided article.
    words = re.sub(r"\b(\w)['’]", r"\1 ", text) if closed else text
    return tuple(span for part in _STRETCH.finditer(words) for span in _runs(part, closed))


def _runs(part: re.Match[str], closed: frozenset[str]) -> Iterator[Span]:
    """Yield the spans of runs of content words."""

    def is_content(word: re.Match[str]) -> bool:
        return word[0].casefold() not in closed if closed else len(word[0]) > _SHORT

    for content, run in groupby(re.finditer(r"\S+", part[0]), is_content):
        if content:
            first, *rest = run
            yield part.start() + first.start(), part.start() + (rest[-1] if rest else first).end()


def spacy_chunker(argument: str) -> Chunker:
    """`spacy:MODEL` or `spacy:MODEL,MODEL`: noun chunks of spaCy pipelines, each for its language. Needs the extra [spacy].

    MODEL is an installed pipeline (en_core_web_sm) or the folder of one. Texts are processed by the model of their language, else
    by a multilingual model (`xx`). Chunks headed by a pronoun are left out.

    Raises HarnessError if spaCy is not installed or no model is named. The returned function raises HarnessError if a model
    cannot be loaded or has no noun chunks, and for a language without a model.
    """
    if not argument:
        raise HarnessError("spacy: names no model: expected spacy:MODEL, as in spacy:en_core_web_sm")
    if find_spec("spacy") is None:
        raise HarnessError(f"spacy:{argument} needs spaCy: pip install 'flickr30k-harness[spacy]'")
    models = cache(lambda: [_load(name) for name in argument.split(",")])

    def chunk(texts: Sequence[str], language: Language) -> list[Spans]:
        known = {model.lang: model for model in reversed(models())}
        model = known.get(language.code.partition("-")[0], known.get("xx"))
        if model is None:
            raise HarnessError(
                f"spacy:{argument} has models for {', '.join(sorted(known))} and none for {language.name}: add a model for "
                f"{language.code} after a comma"
            )
        return [_noun_chunks(doc, model) for doc in model.pipe(texts)]

    return chunk


def _load(name: str) -> Any:
    import spacy

    try:
        return spacy.load(name)
    except Exception as error:  # of any component of the pipeline
        reason = " ".join(str(error).split())[:200]
        raise HarnessError(f"spacy:{name} cannot be loaded ({reason}): python -m spacy download {name}") from error


def _noun_chunks(doc: Any, model: Any) -> Spans:
    try:
        chunks = list(doc.noun_chunks)
    except (NotImplementedError, ValueError) as error:  # no rules in this language, or no parser in this pipeline
        name = f"{model.lang}_{model.meta['name']}"
        raise HarnessError(
            f"spaCy's {name} gives no noun chunks: use a model with a parser, in a language with noun chunk rules"
        ) from error
    return tuple((chunk.start_char, chunk.end_char) for chunk in chunks if chunk.root.pos_ != "PRON")
