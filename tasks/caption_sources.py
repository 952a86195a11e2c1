"""The caption sources of the built-in tasks, read from `sources.toml`, and the languages that they have."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harness.core import data as api
from harness.core.data import CaptionSource, Language
from harness.core.error_messages import first_line
from harness.core.errors import HarnessError, MissingError
from harness.core.languages import LanguageRow, language_rows, resolve_language, with_key
from harness.core.suggestions import nearest

_PLACEHOLDER = re.compile(r"\{\w+\}")
SOURCES = Path(__file__).with_name("sources.toml")
UNSPACED = frozenset({"Hani", "Hans", "Hant", "Jpan", "Khmr", "Laoo", "Mymr", "Thai", "Tibt"})
"""Scripts that put no blanks between words."""

Kind = Literal["original", "human translation", "machine translation", "independent caption", "sample grammar", "unstated"]
Layout = Literal["karpathy", "aligned", "tagged", "jsonl", "tsv", "crossmodal"]
_Text = Annotated[str, Field(min_length=1)]
_Texts = Annotated[tuple[_Text, ...], Field(strict=False)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class MissingLines(_Table):
    """Lines that some languages of a line-aligned source are known to lack."""

    split: _Text
    """The file's stem: `test_2016_flickr`."""
    languages: Annotated[tuple[_Text, ...], Field(min_length=1, strict=False)]
    lines: Annotated[int, Field(gt=0)]
    """How many lines the English file has: the gap is known of that very file and of no other."""
    missing: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, strict=False)]
    """Line numbers of the English file, counted from 0 and ascending, that have no line in the other file."""

    @model_validator(mode="after")
    def _check_missing(self) -> Self:
        if list(self.missing) != sorted(set(self.missing)) or self.missing[-1] >= self.lines:
            raise ValueError("missing: expected line numbers below `lines`, ascending")
        return self


class DownloadPattern(_Table):
    """A file that `data fetch` can fetch. Both hold the placeholders of the source's `files`."""

    path: _Text
    """Where it goes in the data folder."""
    url: Annotated[str, Field(pattern="^https?://")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    languages: _Texts = ()
    """Those of the source's languages whose file is at the address; all of them where none is named."""


class SourceSpec(_Table):
    """A caption source and how it is read: a table of `sources.toml`. The head of that file describes the fields."""

    name: _Text
    task: _Text = "flickr30k"
    title: _Text
    kind: Kind
    kinds: dict[str, Kind] = {}
    layout: Layout
    files: _Text
    images: _Texts = ()
    english: _Texts = ()
    splits: _Texts = ()
    numbers: Annotated[tuple[int, ...], Field(strict=False)] = ()
    languages: Annotated[tuple[_Text, ...], Field(min_length=1, strict=False)] | Literal["any", "flores"]
    without: _Texts = ()
    coding: Literal["ours", "flores"] = "ours"
    codes: dict[str, _Text] = {}
    numbered: _Texts = ()
    licence: _Text
    url: str
    downloads: Annotated[tuple[DownloadPattern, ...], Field(strict=False)] = ()
    sample: bool = False
    gaps: Annotated[tuple[MissingLines, ...], Field(strict=False)] = ()

    def kind_of(self, lang: str) -> Kind:
        """How the captions of a language came to be."""
        return self.kinds.get(lang, self.kind)

    def gap(self, lang: str, split: str) -> MissingLines | None:
        """What the file of a language and split is known to lack."""
        return next((gap for gap in self.gaps if gap.split == split and lang in gap.languages), None)

    def named(self) -> set[str]:
        """Every language that the table names."""
        given = () if isinstance(self.languages, str) else self.languages
        gapped = (lang for gap in self.gaps for lang in gap.languages)
        fetched = (lang for item in self.downloads for lang in item.languages)
        return {*given, *self.without, *self.codes, *self.kinds, *self.numbered, *gapped, *fetched}


class Catalogue(_Table):
    """All of `sources.toml` with the languages that it refers to."""

    sources: dict[str, SourceSpec]
    languages: Mapping[str, LanguageRow]

    @field_validator("sources", mode="before")
    @classmethod
    def _name_sources(cls, tables: Any) -> Any:
        return with_key(tables, "name")

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        for name, source in self.sources.items():
            if strange := sorted(source.named() - self.languages.keys()):
                raise ValueError(f"sources.{name}: there is no language {strange[0]!r}")
        return self

    def serves(self, source: SourceSpec, lang: str) -> bool:
        """Whether a source has a language."""
        if lang in source.without:
            return False
        if source.languages == "flores":
            return self.languages[lang].flores is not None
        return source.languages == "any" or lang in source.languages

    def code(self, source: SourceSpec, lang: str) -> str:
        """The code of a language in the names of a source's files."""
        row = self.languages[lang]
        return source.codes.get(lang) or (source.coding == "flores" and row.flores) or lang


def read_catalogue(path: Path) -> Catalogue:
    """Read a file in the form of `sources.toml`. Raises HarnessError naming the file and the first invalid entry."""
    try:
        return Catalogue.model_validate({**tomllib.loads(path.read_text(encoding="utf-8")), "languages": language_rows()})
    except (OSError, ValueError, RecursionError) as error:
        raise HarnessError(f"{path}: {first_line(error)}") from None


@cache
def catalogue() -> Catalogue:
    """Return the built-in `sources.toml` with its languages."""
    return read_catalogue(SOURCES)


@cache
def known_languages(task: str = "flickr30k") -> Mapping[str, Language]:
    """Every language of the built-in file that a task has a caption source for, by code."""
    languages = {}
    for code, row in catalogue().languages.items():
        if served := tuple(name for name, source in known_sources(task).items() if catalogue().serves(source, code)):
            languages[code] = row.language(served)
    return languages


def known_sources(task: str = "flickr30k") -> Mapping[str, SourceSpec]:
    """The caption sources of a task, the embedded sample's among them, in the order in which they are looked for."""
    return {name: source for name, source in catalogue().sources.items() if source.task == task}


def caption_sources(task: str) -> tuple[CaptionSource, ...]:
    """The caption sources of a task for people, without those of the embedded sample."""
    return tuple(_for_people(source) for source in known_sources(task).values() if not source.sample)


def _for_people(source: SourceSpec) -> CaptionSource:
    given = source.languages
    codes = tuple(code for code in catalogue().languages if catalogue().serves(source, code)) if given != "any" else ()
    return CaptionSource(source.name, source.title, source.kind, codes, source.licence, source.url)


def list_downloads(task: str, languages: Sequence[str] | None, source: str | None) -> tuple[api.Download, ...]:
    """The files that may be fetched for some languages (None: all) and one source (None: all), each path once.

    With translations come the lists and English files of another source that they need.
    Raises HarnessError if nothing of the source can be fetched.
    """
    sources = {name: found for name, found in known_sources(task).items() if found.downloads}
    if source is not None and source not in sources:
        raise HarnessError(f"nothing of {source!r} can be fetched; {nearest(source, sources)}")
    found: dict[str, api.Download] = {}
    for name in [source] if source else sources:
        codes = [code for code in catalogue().languages if catalogue().serves(sources[name], code)]
        wanted = [code for code in codes if languages is None or code in languages]
        if wanted:
            for item in [*_needed(sources[name], sources.values()), *_expand(sources[name], wanted)]:
                found.setdefault(item.path, item)
    return tuple(found.values())


def _needed(source: SourceSpec, others: Collection[SourceSpec]) -> Iterator[api.Download]:
    """What a source's lists and English files need of others: everything of them that is of no language."""
    patterns = {*source.images[:1], *source.english[:1]} - {item.path.removesuffix(".gz") for item in source.downloads}
    for other in others:
        if other is not source and patterns & {item.path.removesuffix(".gz") for item in other.downloads}:
            common = tuple(item for item in other.downloads if "{code}" not in item.path)
            yield from _expand(other.model_copy(update={"downloads": common}), ["en"])


def _expand(source: SourceSpec, codes: Sequence[str]) -> Iterator[api.Download]:
    for item in source.downloads:
        there = [code for code in codes if not item.languages or code in item.languages]
        for code, split, k in itertools.product(there, source.splits or ("",), source.numbers or (0,)):
            names = {"code": catalogue().code(source, code), "split": split, "k": k}
            yield api.Download(item.path.format(**names), item.url.format(**names), source.name, source.licence, item.sha256)


def caption_files(data: Path, task: str) -> tuple[str, ...]:
    """Every file that the sources of a task can read in a folder, as paths in it, plain or gzip, sorted."""
    patterns = {p for source in known_sources(task).values() for p in (source.files, *source.images, *source.english)}
    patterns |= {"bitext/*", "Annotations/{image}.xml", "Sentences*/{image}.txt", "UNRELATED_CAPTIONS", "proposals/{image}.json"}
    found = {path for pattern in patterns for end in ("", ".gz") for path in data.glob(_PLACEHOLDER.sub("*", pattern) + end)}
    return tuple(sorted(path.relative_to(data).as_posix() for path in found if path.is_file()))


def restrict_to_source(language: Language, source: str | None, task: str) -> Language:
    """The language, to be read from one source alone if one is named.

    Raises MissingError if that source has no such language, HarnessError if there is no such source.
    """
    if source is None:
        return language
    known = [name for name, found in known_sources(task).items() if not found.sample]
    if source not in known:
        raise HarnessError(f"unknown caption source {source!r}: {nearest(source, known)}; see `list sources`")
    if source not in language.sources:
        raise MissingError(f"{source} has no {language.name} ({language.code}); for that there are {', '.join(language.sources)}")
    return replace(language, sources=(source,))


class AllLanguages:
    """What a `harness.core.protocols.Task` says of languages, if it has those of `languages.toml`, or some of them."""

    def languages(self) -> Mapping[str, Language]:
        """Every language of `languages.toml`, by code."""
        return known_languages()

    def language(self, text: str) -> Language:
        """Find a language by code, alias or English name. Raises HarnessError with the nearest ones."""
        return resolve_language(text, self.languages())
