"""Load the bitext that towers are distilled from, remove evaluation images, and clean it if requested or necessary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.config import DataConfig
from harness.core.data import Language
from harness.core.protocols import Task
from harness.distill.data.cleaning import clean
from harness.distill.data.leakage import GuardedBitext, guard, guarded_texts
from harness.readers.bitext import load_bitext_file, load_monolingual_texts

UNSTATED = "unstated"
"""The kind of captions and bitext whose origin is not stated: the user's own."""


def load_guarded_bitext(task: Task, data: Path, languages: Sequence[Language], choices: DataConfig) -> tuple[GuardedBitext, ...]:
    """Return the bitext of each language, from the given file or the folder, without evaluation images.

    It is cleaned if `choices.clean` is true, and by default if its origin is not stated. The leakage guard comes before cleaning,
    so that its counts do not depend on cleaning. Raises MissingError if the folder has no bitext, and HarnessError as the guard
    does, or if the given text cannot be read.
    """
    ready = []
    for language in languages:
        given, held_out = choices.bitext, task.held_out(data, language.code)
        bitext = load_bitext_file(given, language, held_out) if given else task.load_bitext(data, language.code)
        guarded = guard(bitext, held_out, refuse=choices.leakage == "refuse")
        if choices.clean or (choices.clean is None and bitext.kind == UNSTATED):
            guarded = replace(guarded, bitext=clean(guarded.bitext, language.script))
        if choices.text:
            guarded = replace(guarded, texts=guarded_texts(*load_monolingual_texts(choices.text, language), held_out))
        ready.append(guarded)
    return tuple(ready)
