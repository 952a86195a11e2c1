"""The languages and caption sources of flickr30k, as written in `languages.toml`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from harness.api import HarnessError, Language

LANGUAGES = Path(__file__).with_name("languages.toml")

Kind = Literal["original", "human translation", "machine translation", "independent caption", "sample grammar", "unstated"]
Layout = Literal["karpathy", "multi30k", "multiscript30k", "captions"]
Text = Annotated[str, Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Gap(_Table):
    """Lines that some languages of a line-aligned source are known to lack."""

    split: Text
    """The file's stem: `test_2016_flickr`."""
    languages: Annotated[tuple[Text, ...], Field(min_length=1, strict=False)]
    lines: Annotated[int, Field(gt=0)]
    """How many lines the English file has: the gap is known of that very file and of no other."""
    missing: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, strict=False)]
    """Line numbers of the English file, counted from 0 and ascending, that have no line in the other file."""

    @model_validator(mode="after")
    def _check_missing(self) -> Self:
        if list(self.missing) != sorted(set(self.missing)) or self.missing[-1] >= self.lines:
            raise ValueError("missing: expected line numbers below `lines`, ascending")
        return self


class Source(_Table):
    """Where captions come from, and how they are read."""

    name: Text
    title: Text
    kind: Kind
    """How the captions came to be."""
    layout: Layout
    """Which reader reads it."""
    licence: Text
    url: str
    """Where to get it; empty if it is the user's own."""
    sample: bool = False
    """Whether it is found in the embedded sample, and only there."""
    codes: dict[str, Text] = {}
    """The code that its files carry, where it is not the language's own."""
    gaps: Annotated[tuple[Gap, ...], Field(strict=False)] = ()

    def code(self, lang: str) -> str:
        """The code of a language in the names of this source's files."""
        return self.codes.get(lang, lang)

    def gap(self, lang: str, split: str) -> Gap | None:
        """What the file of a language and split is known to lack."""
        return next((gap for gap in self.gaps if gap.split == split and lang in gap.languages), None)


class _Row(_Table):
    """A language, as `harness.api.Language` is written in the file."""

    code: Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]+)*$")]
    name: Text
    script: Annotated[str, Field(pattern=r"^[A-Z][a-z]{3}$")]
    tier: Annotated[int, Field(ge=0, le=5)]
    sources: Annotated[tuple[Text, ...], Field(min_length=1, strict=False)]
    aliases: Annotated[tuple[Text, ...], Field(strict=False)] = ()


class Catalogue(_Table):
    """All of `languages.toml`, its cross references checked."""

    sources: dict[str, Source]
    languages: dict[str, _Row]

    @field_validator("sources", mode="before")
    @classmethod
    def _name_sources(cls, tables: Any) -> Any:
        return _with_key(tables, "name")

    @field_validator("languages", mode="before")
    @classmethod
    def _code_languages(cls, tables: Any) -> Any:
        return _with_key(tables, "code")

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        for code, row in self.languages.items():
            if unknown := [name for name in row.sources if name not in self.sources]:
                raise ValueError(f"languages.{code}.sources: there is no source {unknown[0]!r}")
        for name, source in self.sources.items():
            named = {*source.codes, *(lang for gap in source.gaps for lang in gap.languages)}
            if strange := sorted(named - self.languages.keys()):
                raise ValueError(f"sources.{name}: there is no language {strange[0]!r}")
        owners: dict[str, str] = {}
        for code, row in self.languages.items():
            for word in {_fold(text) for text in (code, row.name, *row.aliases)}:
                if owners.setdefault(word, code) != code:
                    raise ValueError(f"languages.{code}: {word!r} already means {owners[word]}")
        return self


def _with_key(tables: Any, field: str) -> Any:
    """Tables of TOML are named by their keys; the models want to know their own name."""
    if not isinstance(tables, dict):
        return tables
    return {key: {field: key, **table} if isinstance(table, dict) else table for key, table in tables.items()}


def _fold(text: str) -> str:
    return text.strip().casefold().replace("-", "_")


def read_catalogue(path: Path) -> Catalogue:
    """Read a file in the form of `languages.toml`. Raises HarnessError naming the file and the first wrong entry."""
    try:
        return Catalogue.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise HarnessError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from None
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: {error}") from None


@cache
def catalogue() -> Catalogue:
    """The built-in `languages.toml`."""
    return read_catalogue(LANGUAGES)


@cache
def known_languages() -> Mapping[str, Language]:
    """Every language of the built-in file, by code."""
    return {code: Language(**row.model_dump()) for code, row in catalogue().languages.items()}


def resolve_language(text: str, languages: Mapping[str, Language]) -> Language:
    """Find a language by its code, an alias or its English name, in any case.

    Raises HarnessError with the nearest ones if there is none.
    """
    words = {_fold(word): lang for lang in languages.values() for word in (lang.code, lang.name, *lang.aliases)}
    if found := words.get(_fold(text)):
        return found
    near = {words[word].code: words[word] for word in difflib.get_close_matches(_fold(text), words, n=3, cutoff=0.6)}
    hint = "did you mean " + " or ".join(f"{lang.name} ({lang.code})" for lang in near.values()) + "? " if near else ""
    raise HarnessError(f"unknown language {text!r}: {hint}known are {', '.join(sorted(languages))}")
