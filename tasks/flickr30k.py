"""The task flickr30k: images and translated captions of Flickr30k, in Karpathy's splits."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.api import Bitext, Finding, HarnessError, HeldOut, Language, Retrieval, TaskCard
from harness.tasks.captions import Caption, Captions, files_of, read_captions
from harness.tasks.karpathy import JSON_NAME, Photo, read_photos
from harness.tasks.languages import Source, catalogue, known_languages, resolve_language
from harness.tasks.pictures import FOLDERS, SHARDS, Pictures, Shelf, find_pictures

SPLITS = ("train", "val", "test")
SAMPLE_NAME = "sample.json"

CARD = TaskCard(
    name="flickr30k",
    version="1",
    title="Flickr30k image-text retrieval, Karpathy's splits",
    splits=("val", "test"),
    licence="pictures under Flickr's terms: non-commercial research and education",
    source="https://shannon.cs.illinois.edu/DenotationGraph/",
)


@dataclass(frozen=True)
class _Folder:
    """A data folder whose list of images has been read."""

    path: Path
    photos: tuple[Photo, ...]
    sample: bool

    def split(self, name: str) -> list[Photo]:
        return [photo for photo in self.photos if photo.split == name]


@dataclass(frozen=True)
class _Choice:
    """The source that serves a language, and what it has."""

    source: Source
    captions: Captions


class Flickr30k:
    """`harness.api.Task` over a folder in the layouts that people already have; `check` says which."""

    @property
    def card(self) -> TaskCard:
        """What the task is."""
        return CARD

    def languages(self) -> Mapping[str, Language]:
        """Every language of `languages.toml`, by code."""
        return known_languages()

    def language(self, text: str) -> Language:
        """Find a language by code, alias or English name. Raises HarnessError with the nearest ones."""
        return resolve_language(text, self.languages())

    def load(self, data: Path, lang: str, split: str) -> Retrieval:
        """Read the images of a split and all their captions in one language, from the first source that has any of them.

        If some images have no caption in the language, the gallery holds the others, and a note says so.
        Raises HarnessError if the language, the split, the folder, the captions or a picture cannot be had.
        """
        language = self.language(lang)
        if split not in SPLITS:
            raise HarnessError(f"unknown split {split!r}: flickr30k has {', '.join(SPLITS)}")
        folder = _open_folder(data)
        photos = folder.split(split)
        if not photos:
            has = ", ".join(f"{name} ({count:,})" for name, count in Counter(photo.split for photo in folder.photos).items())
            raise HarnessError(f"{data / JSON_NAME} has no image of the split {split}: it has {has or 'none at all'}")
        shelf = find_pictures(data)
        _check_pictures(data, photos, shelf, split)
        choice = _choose(folder, language, {photo.id for photo in photos}, f"the {split} split")
        return _retrieval(folder, language, split, choice, shelf)

    def load_bitext(self, data: Path, lang: str) -> Bitext:
        """Read the pairs in the training file of the language's first source that has one: nothing is guarded here.

        Raises HarnessError for English, and where the folder has no translations.
        """
        language = self.language(lang)
        if language.code == "en":
            raise HarnessError("English is what the teacher speaks: name a language to distil into")
        choice = _choose(_open_folder(data), language, None, "bitext")
        pairs = [(row.english, row.text, row.image) for row in choice.captions.rows if row.train and row.english is not None]
        english, foreign, images = zip(*pairs, strict=True)
        return Bitext(language.code, choice.source.name, choice.source.kind, english, foreign, images, choice.captions.notes)

    def held_out(self, data: Path) -> HeldOut:
        """Every image of the splits val and test, and its English captions. Raises HarnessError if the folder has no list."""
        photos = [photo for photo in _open_folder(data).photos if photo.split in CARD.splits]
        return HeldOut(frozenset(photo.id for photo in photos), frozenset(text for photo in photos for text in photo.captions))

    def check(self, data: Path) -> list[Finding]:
        """Say what a folder has: the list of images, the pictures, and every source of captions with its languages and gaps.

        What is broken is a finding too. Raises HarnessError only if there is no such folder.
        """
        _need_folder(data)
        try:
            folder = _open_folder(data)
        except HarnessError as error:
            return [Finding("list of images", False, str(error))]
        findings = [_check_splits(folder), *_check_shelf(folder)]
        for source in catalogue().sources.values():
            if source.sample == folder.sample:
                findings += _check_source(folder, source, self.languages().values())
        return findings

    def write_sample(self, folder: Path) -> None:
        """Write the embedded sample world into an empty folder, in the layout that `load` reads."""
        from harness.tasks.sample import world

        world.write(folder)

    def sample_version(self) -> str:
        """A name for the bytes that `write_sample` writes."""
        from harness.tasks.sample import world

        return world.VERSION


def _need_folder(data: Path) -> None:
    if not data.is_dir():
        what = "is not a folder" if data.exists() else "does not exist"
        raise HarnessError(
            f"{data} {what}: give the folder of Flickr30k with --data DIR or FLICKR30K_ROOT, or leave both out for the sample"
        )


def _open_folder(data: Path) -> _Folder:
    _need_folder(data)
    if not (data / JSON_NAME).is_file():
        raise HarnessError(f"{data} has no {JSON_NAME}: it comes with Karpathy's splits ({catalogue().sources['karpathy'].url})")
    return _Folder(data, read_photos(data / JSON_NAME), _is_sample(data / SAMPLE_NAME))


def _is_sample(path: Path) -> bool:
    """Whether a folder is the embedded sample. A broken mark is refused, since its numbers would pass for Flickr30k's."""
    if not path.exists():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("sample"), bool):
        raise HarnessError(f'{path} does not say whether this is the sample: expected {{"sample": true, ...}}')
    return bool(content["sample"])


def _check_pictures(data: Path, photos: Sequence[Photo], shelf: Shelf, split: str) -> None:
    """Raise HarnessError unless every photo of a split has a picture."""
    missing = [photo for photo in photos if photo.id not in shelf.blobs]
    if shelf.place is None:
        places = ", ".join(f"{name}/" for name in FOLDERS)
        raise HarnessError(f"{data} has no pictures: looked for .jpg in {places} and .tar there or in {SHARDS}/ ({CARD.source})")
    if len(missing) == len(photos):
        raise HarnessError(f"the split {split} has no pictures here: none of its {len(photos):,} images is in {shelf.place}")
    if missing:
        first = shelf.place / missing[0].filename
        raise HarnessError(f"{first} is missing, and so are {len(missing) - 1:,} more of the {len(photos):,} pictures of {split}")


def _choose(folder: _Folder, language: Language, wanted: Collection[str] | None, purpose: str) -> _Choice:
    """The first source of a language that has captions of the wanted images, or, if none are named, translations.

    Raises HarnessError saying what was looked for if no source has any.
    """
    looked: list[str] = []
    for name in language.sources:
        source = catalogue().sources[name]
        if source.sample != folder.sample:
            continue
        captions = read_captions(folder.path, source, language.code)
        if captions is None:
            looked.append(files_of(source, language.code) + (f" ({source.url})" if source.url else ""))
            continue
        fits = _is_translation if wanted is None else _is_of(wanted)
        if any(fits(row) for row in captions.rows):
            return _Choice(source, captions)
        lacks = "training file with English beside it" if wanted is None else "caption of these images"
        looked.append(f"{files_of(source, language.code)} (which has no {lacks})")
    who = f"{language.name} ({language.code})"
    raise HarnessError(f"{folder.path} has no {who} captions for {purpose}: looked for {'; '.join(looked) or 'nothing'}")


def _is_translation(row: Caption) -> bool:
    return row.train and row.english is not None


def _is_of(wanted: Collection[str]) -> Callable[[Caption], bool]:
    return lambda row: row.image in wanted


def _retrieval(folder: _Folder, language: Language, split: str, choice: _Choice, shelf: Shelf) -> Retrieval:
    by_image: defaultdict[str, list[Caption]] = defaultdict(list)
    for row in choice.captions.rows:
        by_image[row.image].append(row)
    photos = folder.split(split)
    gallery = [photo.id for photo in photos if photo.id in by_image]
    rows = [row for name in gallery for row in by_image[name]]
    places = {name: index for index, name in enumerate(gallery)}
    english = [row.english for row in rows if row.english is not None]
    part = [f"{len(gallery):,} of {len(photos):,} images have a caption in {language.code}"] if len(gallery) < len(photos) else []
    return Retrieval(
        task=CARD.name,
        lang=language.code,
        split=split,
        source=choice.source.name,
        kind=choice.source.kind,
        images=Pictures(gallery, [shelf.blobs[name] for name in gallery]),
        captions=tuple(row.text for row in rows),
        caption_ids=tuple(f"{row.image}#{row.number}" for row in rows),
        caption_images=np.array([places[row.image] for row in rows], dtype=np.int64),
        english=tuple(english) if len(english) == len(rows) else None,
        sample=folder.sample,
        notes=(*choice.captions.notes, *part, *_stranger_notes(folder, choice)),
    )


def _stranger_notes(folder: _Folder, choice: _Choice) -> list[str]:
    """In the user's own captions an unlisted id is most likely a slip; other sources list all of Flickr30k whatever is here."""
    if choice.source.layout != "captions":
        return []
    known = {photo.id for photo in folder.photos}
    strangers = sum(row.image not in known for row in choice.captions.rows)
    return [f"{strangers:,} captions left out: {JSON_NAME} does not list their images"] if strangers else []


def _check_splits(folder: _Folder) -> Finding:
    counts = Counter(photo.split for photo in folder.photos)
    sizes = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    what = f"{JSON_NAME} (the embedded sample)" if folder.sample else JSON_NAME
    return Finding(what, bool(folder.photos), f"{len(folder.photos):,} images: {sizes}" if sizes else "lists no image")


def _check_shelf(folder: _Folder) -> list[Finding]:
    try:
        shelf = find_pictures(folder.path)
    except HarnessError as error:
        return [Finding("pictures", False, str(error))]
    findings = []
    for split in dict.fromkeys(photo.split for photo in folder.photos):
        photos = folder.split(split)
        there = sum(photo.id in shelf.blobs for photo in photos)
        where = f"in {shelf.place.relative_to(folder.path)}" if shelf.place else "anywhere"
        if there == len(photos):
            way_out = ""
        elif split in CARD.splits:
            way_out = f"; get them from {CARD.source}"
        else:
            way_out = f"; not needed to evaluate on {' or '.join(CARD.splits)}"
        findings.append(Finding(f"pictures, {split}", there == len(photos), f"{there:,} of {len(photos):,} {where}{way_out}"))
    return findings


def _check_source(folder: _Folder, source: Source, languages: Collection[Language]) -> list[Finding]:
    """One finding a language; one for all if none is there, and then only if there is somewhere to get it from."""
    offered = [language for language in languages if source.name in language.sources]
    findings = [(language, _check_language(folder, source, language)) for language in offered]
    there = [finding for _, finding in findings if finding is not None]
    absent = [language for language, finding in findings if finding is None]
    if absent and source.url:
        codes = ", ".join(language.code for language in absent)
        pattern = files_of(source, absent[0].code)
        detail = f"nothing like {pattern}; get it from {source.url} (licence: {source.licence})"
        there.append(Finding(f"{source.name}: {codes}", False, detail))
    return there


def _check_language(folder: _Folder, source: Source, language: Language) -> Finding | None:
    what = f"{source.name}: {language.name} ({language.code})"
    try:
        captions = read_captions(folder.path, source, language.code)
    except HarnessError as error:
        return Finding(what, False, str(error))
    if captions is None:
        return None
    covered = {row.image for row in captions.rows}
    spread = [
        f"{sum(photo.id in covered for photo in photos):,} of {len(photos):,} {split} images"
        for split, photos in ((split, folder.split(split)) for split in CARD.splits)
        if photos
    ]
    counts = f"{len(captions.rows):,} captions ({source.kind}) on {', '.join(spread)}"
    return Finding(what, bool(captions.rows), "; ".join((counts, *captions.notes)))
