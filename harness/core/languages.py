"""The languages that the harness knows, read from `languages.toml`, and the selection of languages by `--lang`."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harness.core.data import Language
from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.core.protocols import Task
from harness.core.suggestions import nearest

ENGLISH = "en"
LANGUAGES = Path(__file__).with_name("languages.toml")
_Text = Annotated[str, Field(min_length=1)]


class LanguageRow(BaseModel):
    """A language as it is written in `languages.toml`. The head of that file describes the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    code: Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]+)*$")]
    name: _Text
    script: Annotated[str, Field(pattern=r"^[A-Z][a-z]{3}$")]
    tier: Annotated[int, Field(ge=0, le=5)] | None = None
    flores: Annotated[str, Field(pattern=r"^[a-z]{3}_[A-Z][a-z]{3}$")] | None = None
    aliases: Annotated[tuple[_Text, ...], Field(strict=False)] = ()

    def words(self) -> tuple[str, ...]:
        """Return what else users may type: the FLORES-200 code, its ISO 639-3 part where no other row has it, and the aliases."""
        bare = [self.flores.partition("_")[0]] if self.flores and "-" not in self.code else []
        return (*([self.flores] if self.flores else []), *bare, *self.aliases)

    def language(self, sources: tuple[str, ...] = ()) -> Language:
        """Return the language with the names of the caption sources that have it."""
        return Language(self.code, self.name, self.script, self.tier, sources, self.words())


class _LanguageTable(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    languages: dict[str, LanguageRow]

    @field_validator("languages", mode="before")
    @classmethod
    def _add_codes(cls, tables: Any) -> Any:
        return with_key(tables, "code")

    @model_validator(mode="after")
    def _check_that_words_are_unique(self) -> _LanguageTable:
        owners: dict[str, str] = {}
        for code, row in self.languages.items():
            for word in {_fold(text) for text in (code, row.name, *row.words())}:
                if owners.setdefault(word, code) != code:
                    raise ValueError(f"languages.{code}: {word!r} already means {owners[word]}")
        return self


def with_key(tables: Any, field: str) -> Any:
    """Add to each table of a parsed TOML file its key, as the value of a field."""
    if not isinstance(tables, dict):
        return tables
    return {key: {field: key, **table} if isinstance(table, dict) else table for key, table in tables.items()}


def read_language_table(path: Path) -> dict[str, LanguageRow]:
    """Read a file in the form of `languages.toml`. Raises HarnessError naming the file and the first invalid entry."""
    try:
        return _LanguageTable.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).languages
    except (OSError, ValueError, RecursionError) as error:
        raise HarnessError(f"{path}: {short_message(error)}") from None


@cache
def language_rows() -> Mapping[str, LanguageRow]:
    """Return the rows of the built-in `languages.toml` by code."""
    return read_language_table(LANGUAGES)


@cache
def all_languages() -> Mapping[str, Language]:
    """Return every language of the built-in `languages.toml` by code, without caption sources."""
    return {code: row.language() for code, row in language_rows().items()}


def resolve_language(text: str, languages: Mapping[str, Language]) -> Language:
    """Find a language by its code, an alias or its English name, in any case.

    Raises HarnessError with the nearest names if there is none.
    """
    words = {_fold(word): lang for lang in languages.values() for word in (lang.code, lang.name, *lang.aliases)}
    if found := words.get(_fold(text)):
        return found
    near = {words[word].code: words[word] for word in difflib.get_close_matches(_fold(text), words, n=3, cutoff=0.6)}
    hint = "did you mean " + " or ".join(f"{lang.name} ({lang.code})" for lang in near.values()) + "? " if near else ""
    raise HarnessError(f"unknown language {text!r}: {hint}`list languages` shows all {len(languages):,}")


def _fold(text: str) -> str:
    return text.strip().casefold().replace("-", "_")


def select_languages(task: Task, text: str) -> list[tuple[Language, bool]]:
    """Return the languages of a comma-separated list, each once and in order, and whether each was requested by name.

    A term is a code, alias or English name; `all`; `tier:A` or `tier:A-B` (`tier:?` for languages of unknown tier); or
    `script:CODE` (ISO 15924). Groups exclude English, since the teacher's own tower reads it.
    Raises HarnessError for an unknown term.
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
