"""Grammars that realise a caption plan as a sentence, one module a language, with inflected forms listed in tables."""

from __future__ import annotations

from collections.abc import Callable

from harness.tasks.sample.caption_plans import CaptionPlan
from harness.tasks.sample.grammar import (
    basque,
    czech,
    english,
    french,
    german,
    indonesian,
    quechua,
    spanish,
    swahili,
    welsh,
    yoruba,
)
from harness.tasks.sample.grammar.sentences import Sentence

REALISERS: dict[str, Callable[[CaptionPlan], Sentence]] = {
    "en": english.realise,
    "de": german.realise,
    "fr": french.realise,
    "cs": czech.realise,
    "es": spanish.realise,
    "id": indonesian.realise,
    "sw": swahili.realise,
    "cy": welsh.realise,
    "eu": basque.realise,
    "yo": yoruba.realise,
    "qu": quechua.realise,
}
TRANSLATIONS = tuple(lang for lang in REALISERS if lang != "en")
