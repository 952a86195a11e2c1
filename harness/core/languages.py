"""Which languages `--lang` means: names, all of them, or those of a resource tier or a script."""

from __future__ import annotations

import re
from collections.abc import Callable

from harness.core.data import Language
from harness.core.errors import HarnessError
from harness.core.protocols import Task
from harness.core.suggestions import nearest

ENGLISH = "en"


def select_languages(task: Task, text: str) -> list[tuple[Language, bool]]:
    """The languages that a comma-separated list means, each once and in its order, and whether each was asked for by name.

    A term is a code, alias or English name; `all`; `tier:A` or `tier:A-B` (`tier:?` for languages of unknown tier); or
    `script:CODE` (ISO 15924). Groups leave English out, since the teacher's own tower reads it.
    Raises HarnessError for a term that means nothing.
    """
    chosen: dict[str, tuple[Language, bool]] = {}
    for term in filter(None, (part.strip() for part in text.split(","))):
        named, languages = _meant(task, term)
        for language in languages:
            before = chosen.get(language.code, (language, False))[1]
            chosen[language.code] = (language, named or before)
    if not chosen:
        raise HarnessError(f"--lang {text!r} names no language: give codes or names, all, tier:0-2 or script:Arab")
    return list(chosen.values())


def _meant(task: Task, term: str) -> tuple[bool, list[Language]]:
    group, colon, value = term.partition(":")
    if term.casefold() == "all":
        return False, _those(task, bool)
    if not colon:
        return True, [task.language(term)]
    match group.strip().casefold():
        case "tier":
            return False, _of_tier(task, value.strip())
        case "script":
            return False, _of_script(task, value.strip())
        case _:
            raise HarnessError(f"--lang {term}: a group of languages is all, tier:0-2 or script:Arab")


def _those(task: Task, fits: Callable[[Language], bool]) -> list[Language]:
    return [language for language in task.languages().values() if language.code != ENGLISH and fits(language)]


def _of_tier(task: Task, value: str) -> list[Language]:
    if value == "?":
        return _those(task, lambda language: language.tier is None)
    bounds = re.fullmatch(r"([0-5])(?:-([0-5]))?", value)
    if bounds is None:
        raise HarnessError(f"--lang tier:{value}: a tier is 0 to 5, as in tier:1 or tier:0-2, or ? for those of unknown tier")
    low, high = int(bounds[1]), int(bounds[2] or bounds[1])
    return _those(task, lambda language: language.tier is not None and low <= language.tier <= high)


def _of_script(task: Task, value: str) -> list[Language]:
    scripts = {language.script.casefold(): language.script for language in task.languages().values()}
    if value.casefold() not in scripts:
        raise HarnessError(
            f"--lang script:{value}: no language of this task is written in it; {nearest(value, scripts.values())}"
        )
    return _those(task, lambda language: language.script.casefold() == value.casefold())
