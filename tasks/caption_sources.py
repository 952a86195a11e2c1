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
from harness.core.error_messages import short_message
from harness.core.errors import HarnessError, MissingError
from harness.core.languages import LanguageRow, language_rows, resolve_language, with_key
from harness.core.suggestions import nearest

_PLACEHOLDER = re.compile(r"\{\w+\}")
SOURCES = Path(__file__).with_name("sources.toml")
UNSPACED = frozenset({"Hani", "Hans", "Hant", "Jpan", "Khmr", "Laoo", "Mymr", "Thai", "Tibt"})
"""Scripts that write no blanks between words."""

Kind = Literal["original", "human translation", "machine translation", "independent caption", "sample grammar", "unstated"]
Layout = Literal["karpathy", "aligned", "tagged", "jsonl", "tsv", "crossmodal"]
_Text = Annotated[str, Field(min_length=1)]
_Texts = Annotated[tuple[_Text, ...], Field(strict=False)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class MissingLines(_Table):
    """Lines that the files of some languages of a line-aligned source are known to lack."""

    split: _Text
    """The stem of the file, such as `test_2016_flickr`."""
    languages: Annotated[tuple[_Text, ...], Field(min_length=1, strict=False)]
    lines: Annotated[int, Field(gt=0)]
    """The number of lines of the English file. The entry applies to files of exactly this length."""
    missing: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, strict=False)]
    """The lines of the English file without a line in the other file: numbers from 0, ascending."""

    @model_validator(mode="after")
    def _check_missing(self) -> Self:
        if list(self.missing) != sorted(set(self.missing)) or self.missing[-1] >= self.lines:
            raise ValueError("missing: expected line numbers below `lines`, ascending")
        return self


class DownloadPattern(_Table):
    """A file that `data fetch` downloads. `path` and `url` contain the placeholders of the source's `files`."""

    path: _Text
    """The path of the file in the data folder."""
    url: Annotated[str, Field(pattern="^https?://")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    languages: _Texts = ()
    """The languages of the source whose file is at the address. Empty means all of them."""


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
        """Return how the captions of a language were made."""
        return self.kinds.get(lang, self.kind)

    def gap(self, lang: str, split: str) -> MissingLines | None:
        """Return the lines that the file of a language and split is known to lack, or None."""
        return next((gap for gap in self.gaps if gap.split == split and lang in gap.languages), None)

    def mentioned_languages(self) -> set[str]:
        """Return every language that the table mentions."""
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
            if strange := sorted(source.mentioned_languages() - self.languages.keys()):
                raise ValueError(f"sources.{name}: {strange[0]!r} is not a language of languages.toml")
        return self

    def serves(self, source: SourceSpec, lang: str) -> bool:
        """Return whether a source has a language."""
        if lang in source.without:
            return False
        if source.languages == "flores":
            return self.languages[lang].flores is not None
        return source.languages == "any" or lang in source.languages

    def code(self, source: SourceSpec, lang: str) -> str:
        """Return the code of a language in the file names of a source."""
        row = self.languages[lang]
        return source.codes.get(lang) or (source.coding == "flores" and row.flores) or lang


def read_catalogue(path: Path) -> Catalogue:
    """Read a file in the form of `sources.toml`. Raises HarnessError naming the file and the first invalid entry."""
    try:
        return Catalogue.model_validate({**tomllib.loads(path.read_text(encoding="utf-8")), "languages": language_rows()})
    except (OSError, ValueError, RecursionError) as error:
        raise HarnessError(f"{path}: {short_message(error)}") from None


@cache
def catalogue() -> Catalogue:
    """Return the built-in `sources.toml` with its languages."""
    return read_catalogue(SOURCES)


@cache
def known_languages(task: str = "flickr30k") -> Mapping[str, Language]:
    """Return every language that has a caption source of a task, by code."""
    languages = {}
    for code, row in catalogue().languages.items():
        if served := tuple(name for name, source in known_sources(task).items() if catalogue().serves(source, code)):
            languages[code] = row.language(served)
    return languages


def known_sources(task: str = "flickr30k") -> Mapping[str, SourceSpec]:
    """Return the caption sources of a task by name, in order of preference. They include those of the embedded sample."""
    return {name: source for name, source in catalogue().sources.items() if source.task == task}


def caption_sources(task: str) -> tuple[CaptionSource, ...]:
    """Return the descriptions of a task's caption sources, without those of the embedded sample."""
    return tuple(_describe(source) for source in known_sources(task).values() if not source.sample)


def _describe(source: SourceSpec) -> CaptionSource:
    given = source.languages
    codes = tuple(code for code in catalogue().languages if catalogue().serves(source, code)) if given != "any" else ()
    return CaptionSource(source.name, source.title, source.kind, codes, source.licence, source.url)


def list_downloads(task: str, languages: Sequence[str] | None, source: str | None) -> tuple[api.Download, ...]:
    """Return the files to download for some languages (None: all) and one source (None: all), each path once.

    They include the image lists and English files of other sources that translations need.
    Raises HarnessError if the source has no downloads.
    """
    sources = {name: found for name, found in known_sources(task).items() if found.downloads}
    if source is not None and source not in sources:
        raise HarnessError(f"the source {source!r} has no downloads; {nearest(source, sources)}")
    found: dict[str, api.Download] = {}
    for name in [source] if source else sources:
        codes = [code for code in catalogue().languages if catalogue().serves(sources[name], code)]
        wanted = [code for code in codes if languages is None or code in languages]
        if wanted:
            for item in [*_needed(sources[name], sources.values()), *_expand(sources[name], wanted)]:
                found.setdefault(item.path, item)
    return tuple(found.values())


def _needed(source: SourceSpec, others: Collection[SourceSpec]) -> Iterator[api.Download]:
    """Yield the language-independent files of other sources that the image lists and English files of a source come from."""
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
    """Return every file of a folder that the sources of a task can read, plain or gzip, as sorted relative paths."""
    patterns = {p for source in known_sources(task).values() for p in (source.files, *source.images, *source.english)}
    patterns |= {"bitext/*", "Annotations/{image}.xml", "Sentences*/{image}.txt", "UNRELATED_CAPTIONS", "proposals/{image}.json"}
    found = {path for pattern in patterns for end in ("", ".gz") for path in data.glob(_PLACEHOLDER.sub("*", pattern) + end)}
    return tuple(sorted(path.relative_to(data).as_posix() for path in found if path.is_file()))


def restrict_to_source(language: Language, source: str | None, task: str) -> Language:
    """Return the language restricted to one caption source, or unchanged if `source` is None.

    Raises MissingError if the source does not have the language, and HarnessError if the source is unknown.
    """
    if source is None:
        return language
    known = [name for name, found in known_sources(task).items() if not found.sample]
    if source not in known:
        raise HarnessError(f"unknown caption source {source!r}: {nearest(source, known)}; see `list sources`")
    if source not in language.sources:
        raise MissingError(
            f"{source} has no {language.name} ({language.code}); the sources with it are {', '.join(language.sources)}"
        )
    return replace(language, sources=(source,))


class AllLanguages:
    """The language methods of a `harness.core.protocols.Task` over the languages of `languages.toml` or some of them."""

    def languages(self) -> Mapping[str, Language]:
        """Return every language of `languages.toml` by code."""
        return known_languages()

    def language(self, text: str) -> Language:
        """Find a language by code, alias or English name. Raises HarnessError with the nearest names."""
        return resolve_language(text, self.languages())
