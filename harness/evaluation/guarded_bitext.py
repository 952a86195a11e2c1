"""Load the bitext that towers are distilled from, remove evaluation images, and clean it if requested or necessary."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from harness.core.config import DataConfig
from harness.core.data import Bitext, Language
from harness.core.errors import MissingError
from harness.core.languages import ENGLISH
from harness.core.protocols import Task
from harness.distill.data.bitext import without_translations
from harness.distill.data.cleaning import clean
from harness.distill.data.leakage import GuardedBitext, guard, guarded_texts
from harness.readers.bitext import load_bitext_file, load_monolingual_texts

UNSTATED = "unstated"
"""The kind of captions and bitext whose origin is not stated: the user's own."""


def load_guarded_bitext(
    task: Task, data: Path, languages: Sequence[Language], choices: DataConfig, english_alone: bool = False
) -> tuple[GuardedBitext, ...]:
    """Return the bitext of each language, from the given file or the folder, without evaluation images.

    It is cleaned if `choices.clean` is true, and by default if its origin is not stated. The leakage guard comes before cleaning,
    so that its counts do not depend on cleaning.

    english_alone: return the English sides with empty translations, which are not cleaned. A language without bitext then has
    the English side of another language's. Raises MissingError if the folder has no bitext, and HarnessError as the guard does,
    or if the given text cannot be read.
    """
    ready = []
    for language in languages:
        given, held_out = choices.bitext, task.held_out(data, language.code)
        if given:
            bitext = load_bitext_file(given, language, held_out)
        else:
            bitext = load_any_bitext(task, data, language.code) if english_alone else task.load_bitext(data, language.code)
        if english_alone:
            bitext = without_translations(bitext)
        guarded = guard(bitext, held_out, refuse=choices.leakage == "refuse")
        if not english_alone and (choices.clean or (choices.clean is None and bitext.kind == UNSTATED)):
            guarded = replace(guarded, bitext=clean(guarded.bitext, language.script))
        if choices.text:
            guarded = replace(guarded, texts=guarded_texts(*load_monolingual_texts(choices.text, language), held_out))
        ready.append(guarded)
    return tuple(ready)


def load_any_bitext(task: Task, data: Path, lang: str) -> Bitext:
    """Return a language's bitext, or if it has none, that of the first other language by code.

    Raises MissingError if the folder has no bitext.
    """
    try:
        return task.load_bitext(data, lang)
    except MissingError:
        for other in sorted(task.languages().keys() - {lang, ENGLISH}):
            with suppress(MissingError):
                return replace(task.load_bitext(data, other), lang=lang)
        raise
