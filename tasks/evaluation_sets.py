"""Tasks over images other than those of Flickr30k, to measure how towers transfer: xtd and crossmodal3600.

They are test sets without training splits and bitext, so towers are distilled on other data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from harness.core.data import (
    Bitext,
    CaptionSource,
    Contents,
    Download,
    Finding,
    HeldOut,
    Language,
    PicturesError,
    Retrieval,
    TaskCard,
)
from harness.core.errors import HarnessError, MissingError
from harness.readers.bitext import load_bitext_folder
from harness.readers.image_ids import photo_id
from harness.readers.text_files import find_plain_or_gzip, read_lines
from harness.tasks.caption_retrieval import build_retrieval
from harness.tasks.caption_sources import (
    AllLanguages,
    caption_files,
    caption_sources,
    known_languages,
    known_sources,
    list_downloads,
    restrict_to_source,
)
from harness.tasks.readers.captions import SourceCaptions, file_pattern, read_captions
from harness.tasks.readers.pictures import PictureIndex, find_pictures


@dataclass(frozen=True)
class EvaluationSet(AllLanguages):
    """`harness.core.protocols.Task` over a folder of pictures and the caption sources of the task in `sources.toml`.

    folders: the folders of the pictures, all of which are searched. images: the file that lists the images; without it, the
    images are those of the English captions.
    """

    card: TaskCard
    folders: tuple[str, ...]
    images: str | None = None

    def languages(self) -> Mapping[str, Language]:
        """Return every language of the task's sources by code."""
        return known_languages(self.card.name)

    def sources(self) -> tuple[CaptionSource, ...]:
        """Return every source of the task in `sources.toml`."""
        return caption_sources(self.card.name)

    def load(self, data: Path, lang: str, split: str, source: str | None = None) -> Retrieval:
        """Read the images and their captions in one language, from the first source that the folder has.

        Raises MissingError if the folder has none, PicturesError if a picture is missing, and HarnessError if the language,
        source, split or folder does not exist.
        """
        return self.load_captions(data, lang, split, source, pictures=True)

    def load_captions(self, data: Path, lang: str, split: str, source: str | None = None, *, pictures: bool = False) -> Retrieval:
        """Read captions as `load` does. Without `pictures`, the folder needs no pictures and the images cannot be opened."""
        if split not in self.card.splits:
            raise HarnessError(f"unknown split {split!r}: {self.card.name} has {', '.join(self.card.splits)}")
        language = restrict_to_source(self.language(lang), source, self.card.name)
        names, index = self._names(data), find_pictures(data, self.folders, together=True) if pictures else None
        missing = [name for name in names if name not in index.blobs] if index is not None else []
        if missing:
            places = ", ".join(f"{name}/" for name in self.folders)
            raise PicturesError(
                f"{data} lacks {len(missing):,} of {len(names):,} pictures, {missing[0]}.jpg first: looked in {places} and for "
                f".tar files there and in shards/ ({self.card.source})"
            )
        found = self._choose(data, language)
        kind = known_sources(self.card.name)[found[0]].kind_of(language.code)
        return build_retrieval(self.card, language.code, split, found[0], kind, names, found[1].rows, index, found[1].notes)

    def load_bitext(self, data: Path, lang: str) -> Bitext:
        """Read the bitext in the folder's `bitext/`. Raises MissingError if there is none."""
        return load_bitext_folder(data, self.language(lang), self.held_out(data, lang))

    def held_out(self, data: Path, lang: str) -> HeldOut:
        """Return all images, and their captions in English and the language from every source that the folder has."""
        images = frozenset(self._names(data))
        return HeldOut(images, self._texts(data, self.language("en")), self._texts(data, self.language(lang)), images)

    def check(self, data: Path) -> list[Finding]:
        """Return what the folder has and what is missing. Raises HarnessError only if the folder does not exist."""
        _need_folder(self.card, data)
        try:
            names, index = self._names(data), find_pictures(data, self.folders, together=True)
        except HarnessError as error:
            return [Finding("list of images", False, str(error))]
        return [
            self._check_picture_files(names, index),
            *(self._check_source(data, name) for name in known_sources(self.card.name)),
        ]

    def downloads(self, languages: Sequence[str] | None, source: str | None = None) -> tuple[Download, ...]:
        """Return the public caption files of the given languages (None: all) and source (None: all)."""
        return list_downloads(self.card.name, languages, source)

    def contents(self, data: Path) -> Contents:
        """Return every caption and bitext file, and every picture of the task's images."""
        blobs = find_pictures(data, self.folders, together=True).blobs
        taken = {f"{name}{blobs[name].suffix}": blobs[name] for name in self._names(data) if name in blobs}
        files = tuple(dict.fromkeys(blob.path for blob in taken.values()))
        return Contents(caption_files(data, self.card.name), {name: blob.read for name, blob in taken.items()}, files)

    def write_sample(self, folder: Path) -> None:  # noqa: ARG002
        """Raise HarnessError: the task has no sample."""
        self._no_sample()

    def sample_version(self) -> str:
        """Raise HarnessError: the task has no sample."""
        self._no_sample()

    def _names(self, data: Path) -> list[str]:
        _need_folder(self.card, data)
        if self.images is None:
            return list(dict.fromkeys(row.image for row in self._choose(data, self.language("en"))[1].rows))
        path = find_plain_or_gzip(data / self.images)
        if path is None:
            raise HarnessError(f"{data / self.images} is missing: get it from {next(iter(self.sources())).url}")
        return [photo_id(line) for line in read_lines(path)]

    def _texts(self, data: Path, language: Language) -> frozenset[str]:
        sources = (known_sources(self.card.name)[name] for name in language.sources)
        found = (read_captions(data, source, language.code) for source in sources)
        return frozenset(row.text for captions in found if captions for row in captions.rows)

    def _choose(self, data: Path, language: Language) -> tuple[str, SourceCaptions]:
        sources = known_sources(self.card.name)
        for name in language.sources:
            captions = read_captions(data, sources[name], language.code)
            if captions is not None and captions.rows:
                return name, captions
        looked = "; ".join(f"{file_pattern(sources[name], language.code)} ({sources[name].url})" for name in language.sources)
        raise MissingError(f"{data} has no {language.name} ({language.code}) captions: looked for {looked}")

    def _check_picture_files(self, names: list[str], index: PictureIndex) -> Finding:
        there = sum(name in index.blobs for name in names)
        way_out = "" if there == len(names) else f"; get them from {self.card.source}"
        return Finding("pictures", there == len(names), f"{there:,} of {len(names):,}{way_out}")

    def _check_source(self, data: Path, name: str) -> Finding:
        source = known_sources(self.card.name)[name]
        offered = [language.code for language in self.languages().values() if name in language.sources]
        try:
            found = [code for code in offered if read_captions(data, source, code)]
        except HarnessError as error:
            return Finding(name, False, str(error))
        detail = f"{len(found):,} of {len(offered):,} languages ({source.kind})"
        way_out = "" if found else f"; no file like {source.files}: get it from {source.url} (licence: {source.licence})"
        return Finding(name, bool(found), detail + way_out)

    def _no_sample(self) -> NoReturn:
        name = self.card.name
        raise HarnessError(f"{name} has no embedded sample: give its folder with --data DIR or {name.upper()}_ROOT")


def _need_folder(card: TaskCard, data: Path) -> None:
    if not data.is_dir():
        raise HarnessError(f"{data} is not a folder: give the folder of {card.name} with --data DIR or {card.name.upper()}_ROOT")
