"""The task flickr30k: images and translated captions of Flickr30k, in Karpathy's splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic_core import from_json

from harness.core.data import (
    Bitext,
    CaptionSource,
    Contents,
    Download,
    Finding,
    HeldOut,
    Language,
    PicturesError,
    Place,
    Regions,
    Retrieval,
    TaskCard,
)
from harness.core.errors import HarnessError, MissingError
from harness.readers.bitext import load_bitext_folder
from harness.readers.image_ids import photo_id
from harness.readers.text_files import find_plain_or_gzip, read_lines
from harness.storage.plain_files import check_plain_file
from harness.tasks.caption_retrieval import build_retrieval, caption_id
from harness.tasks.caption_sources import (
    AllLanguages,
    SourceSpec,
    caption_files,
    caption_sources,
    catalogue,
    known_sources,
    list_downloads,
    restrict_to_source,
)
from harness.tasks.entities.region_proposals import read_regions
from harness.tasks.entities.tags import caption_facets, entity_phrases, load_places, read_tags, tag_bitext
from harness.tasks.readers.captions import Caption, SourceCaptions, file_pattern, read_captions
from harness.tasks.readers.karpathy import JSON_NAME, Photo, read_photos
from harness.tasks.readers.pictures import PICTURE_FOLDERS, SHARD_FOLDER, PictureIndex, Pictures, find_pictures

EVALUATION_SPLITS = ("val", "test")
SPLITS = ("train", *EVALUATION_SPLITS)
LATER_TEST_SPLITS = ("test_2017_flickr", "test_2018_flickr")
"""The later test sets of Multi30k: images that Flickr30k does not have, with one English caption each."""
SAMPLE_NAME = "sample.json"
_MAX_LISTED = 12
"""The maximum number of missing languages of a source that `data check` names."""

FLICKR30K_CARD = TaskCard(
    name="flickr30k",
    version="1",
    title="Flickr30k image-text retrieval, Karpathy's splits",
    splits=(*EVALUATION_SPLITS, *LATER_TEST_SPLITS),
    licence="pictures under Flickr's terms: non-commercial research and education",
    source="https://shannon.cs.illinois.edu/DenotationGraph/",
)


@dataclass(frozen=True)
class _Folder:
    """A data folder and its list of images."""

    path: Path
    photos: tuple[Photo, ...]
    sample: bool

    def split(self, name: str) -> list[Photo]:
        return [photo for photo in self.photos if photo.split == name]


@dataclass(frozen=True)
class _Choice:
    """The chosen caption source of a language, and its captions."""

    source: SourceSpec
    captions: SourceCaptions


class Flickr30k(AllLanguages):
    """`harness.core.protocols.Task` over a data folder in the layouts of the publishers. `check` lists them."""

    @property
    def card(self) -> TaskCard:
        """Return the card of the task."""
        return FLICKR30K_CARD

    def sources(self) -> tuple[CaptionSource, ...]:
        """Return every source of the task in `sources.toml` except those of the sample."""
        return caption_sources(FLICKR30K_CARD.name)

    def load(self, data: Path, lang: str, split: str, source: str | None = None) -> Retrieval:
        """Read the images of a split and all their captions in one language, from the first source that has any.

        Images without a caption in the language are left out of the gallery, and a note counts them.
        Raises MissingError if the folder has no caption of these images, and HarnessError if the language, source, split, folder
        or a picture does not exist.
        """
        return self.load_captions(data, lang, split, source, pictures=True)

    def load_captions(self, data: Path, lang: str, split: str, source: str | None = None, *, pictures: bool = False) -> Retrieval:
        """Read captions as `load` does. Without `pictures`, the folder needs no pictures and the images cannot be opened."""
        language = restrict_to_source(self.language(lang), source, FLICKR30K_CARD.name)
        folder = _open_folder(data)
        photos = _photos_of(folder, split)
        index = find_pictures(data) if pictures else None
        if index is not None:
            _check_pictures(data, photos, index, split)
        splits = (split,) if split in LATER_TEST_SPLITS else None
        choice = _choose(folder, language, {photo.id for photo in photos}, f"the {split} split", splits)
        kind, notes = choice.source.kind_of(language.code), (*choice.captions.notes, *_stranger_notes(folder, choice))
        images, rows = [photo.id for photo in photos], choice.captions.rows
        name = choice.source.name
        whole = build_retrieval(FLICKR30K_CARD, language.code, split, name, kind, images, rows, index, notes, folder.sample)
        return _tagged(whole, folder, language, rows)

    def load_regions(self, data: Path, split: str, candidates: str) -> Regions:
        """Read the regions of all images of a split that have a picture, whatever the language of their captions.

        candidates: `boxes` or `proposals`. Raises HarnessError if the folder has no regions, and as `read_regions`.
        """
        photos, index = _open_folder(data).split(split), find_pictures(data)
        names = [photo.id for photo in photos if photo.id in index.blobs]
        return read_regions(data, Pictures(names, [index.blobs[name] for name in names]), candidates)

    def load_bitext(self, data: Path, lang: str) -> Bitext:
        """Read the sentence pairs of the first source of the language with a training file, else those of the folder's `bitext/`.

        The leakage guard is not applied here. Raises MissingError if there are no pairs, and HarnessError for English.
        """
        language = self.language(lang)
        if language.code == "en":
            raise HarnessError("English is the language of the teacher: name a language to distil into")
        try:
            choice = _choose(_open_folder(data), language, None, "bitext")
        except MissingError as error:
            return _bitext_of_folder(data, language, self.held_out(data, lang), str(error))
        pairs = [(row.english, row.text, row.image) for row in choice.captions.rows if row.train and row.english is not None]
        english, foreign, images = zip(*pairs, strict=True)
        kind = choice.source.kind_of(language.code)
        return Bitext(language.code, choice.source.name, kind, english, foreign, images, choice.captions.notes)

    def tag_bitext(self, data: Path, bitext: Bitext) -> Bitext:
        """Add the entity spans of Flickr30k Entities to a bitext. Raises HarnessError as `read_sentences`."""
        return tag_bitext(data, bitext)

    def load_places(self, data: Path, retrieval: Retrieval) -> tuple[tuple[Place, ...], ...]:
        """Return the entities and boxes of each caption from Flickr30k Entities. Raises HarnessError as its readers do."""
        return load_places(data, retrieval)

    def held_out(self, data: Path, lang: str) -> HeldOut:
        """Return the evaluation images (val, test and the later test sets of Multi30k) and their captions.

        The captions are those in English and the language from every source in the folder. Raises HarnessError if the folder has
        no list of images, or if a source cannot be read.
        """
        folder = _open_folder(data)
        later = [photo for split in _later_splits(folder) for photo in _later_photos(folder, split)]
        photos = [*(photo for photo in folder.photos if photo.split in EVALUATION_SPLITS), *later]
        images = frozenset(photo.id for photo in photos)
        own = [row for row in _all_captions(folder, self.language(lang)) if row.image in images]
        english = [row for row in _all_captions(folder, self.language("en")) if row.image in images]
        return HeldOut(
            images,
            frozenset(text for photo in photos for text in photo.captions)
            | {row.text for row in english}
            | {row.english for row in own if row.english is not None},
            frozenset(row.text for row in own),
            frozenset(photo.id for photo in (*folder.photos, *later)),
        )

    def check(self, data: Path) -> list[Finding]:
        """Return what a folder has: the list of images, the pictures, and every caption source with its languages and gaps.

        Damaged files are findings too. Raises HarnessError only if the folder does not exist.
        """
        _need_folder(data)
        try:
            folder = _open_folder(data)
        except HarnessError as error:
            return [Finding("list of images", False, str(error))]
        findings = [_check_splits(folder), *_check_picture_files(folder)]
        for source in known_sources(FLICKR30K_CARD.name).values():
            if source.sample == folder.sample:
                findings += _check_source(folder, source, self.languages().values())
        return findings

    def downloads(self, languages: Sequence[str] | None, source: str | None = None) -> tuple[Download, ...]:
        """Return the public caption files of the given languages (None: all) and source (None: all)."""
        return list_downloads(FLICKR30K_CARD.name, languages, source)

    def contents(self, data: Path) -> Contents:
        """Return every caption and bitext file, and every picture in the list of images."""
        folder, blobs = _open_folder(data), find_pictures(data).blobs
        texts = (*caption_files(data, FLICKR30K_CARD.name), *([SAMPLE_NAME] if folder.sample else []))
        taken = {photo.filename: blobs[photo.id] for photo in folder.photos if photo.id in blobs}
        files = tuple(dict.fromkeys(blob.path for blob in taken.values()))
        return Contents(texts, {name: blob.read for name, blob in taken.items()}, files)

    def write_sample(self, folder: Path) -> None:
        """Write the embedded sample into an empty folder, in the layout that `load` reads."""
        from harness.tasks.sample import dataset

        dataset.write_sample(folder)

    def sample_version(self) -> str:
        """Return the version of the bytes that `write_sample` writes."""
        from harness.tasks.sample import dataset

        return dataset.SAMPLE_VERSION


def _all_captions(folder: _Folder, language: Language) -> Iterator[Caption]:
    """Yield the captions of a language from every source in the folder, of all splits and the later test sets."""
    for name in language.sources:
        source = catalogue().sources[name]
        if source.sample != folder.sample:
            continue
        later = _later_splits(folder) if _has_later(source) else ()
        captions = read_captions(folder.path, source, language.code, (*source.splits, *later))
        yield from captions.rows if captions else ()


def _bitext_of_folder(data: Path, language: Language, held_out: HeldOut, before: str) -> Bitext:
    try:
        return load_bitext_folder(data, language, held_out)
    except MissingError as error:
        raise MissingError(f"{before}; {error}") from None


def _need_folder(data: Path) -> None:
    if not data.is_dir():
        what = "is not a folder" if data.exists() else "does not exist"
        raise HarnessError(
            f"{data} {what}: give the folder of Flickr30k with --data DIR or FLICKR30K_ROOT, or leave both out for the sample"
        )


def _photos_of(folder: _Folder, split: str) -> list[Photo]:
    """Return the images of a split. Raises HarnessError if the split is unknown or has no image in the folder."""
    if split in LATER_TEST_SPLITS:
        return _later_photos(folder, split)
    if split not in SPLITS:
        raise HarnessError(f"unknown split {split!r}: flickr30k has {', '.join((*SPLITS, *LATER_TEST_SPLITS))}")
    photos = folder.split(split)
    if not photos:
        has = ", ".join(f"{name} ({count:,})" for name, count in Counter(photo.split for photo in folder.photos).items())
        raise HarnessError(f"{folder.path / JSON_NAME} has no image of the split {split}: it has {has or 'none'}")
    return photos


def _later_list(folder: _Folder, split: str) -> Path | None:
    return find_plain_or_gzip(folder.path / catalogue().sources["multi30k"].images[0].format(split=split))


def _later_splits(folder: _Folder) -> list[str]:
    """Return the later test sets whose image list and English captions the folder has."""
    return [split for split in LATER_TEST_SPLITS if _later_list(folder, split) and _later_english(folder, split)]


def _later_english(folder: _Folder, split: str) -> Path | None:
    return find_plain_or_gzip(folder.path / catalogue().sources["multi30k"].english[0].format(split=split))


def _later_photos(folder: _Folder, split: str) -> list[Photo]:
    multi30k = catalogue().sources["multi30k"]
    names, english = _later_list(folder, split), _later_english(folder, split)
    if names is None or english is None:
        wanted = (multi30k.images if names is None else multi30k.english)[0].format(split=split)
        raise HarnessError(f"{folder.path / wanted} is missing: it comes with Multi30k ({multi30k.url})")
    lines, captions = read_lines(names), read_lines(english)
    if len(lines) != len(captions):
        raise HarnessError(f"{english} has {len(captions):,} lines, expected {len(lines):,}: one for each line of {names.name}")
    return [Photo(photo_id(name), name, split, (caption,)) for name, caption in zip(lines, captions, strict=True)]


def _open_folder(data: Path) -> _Folder:
    _need_folder(data)
    if not (data / JSON_NAME).is_file():
        raise HarnessError(f"{data} has no {JSON_NAME}: it comes with Karpathy's splits ({catalogue().sources['karpathy'].url})")
    return _Folder(data, read_photos(data / JSON_NAME), _is_sample(data / SAMPLE_NAME))


def _is_sample(path: Path) -> bool:
    """Return whether a folder is the embedded sample, from its mark `sample.json`.

    Raises HarnessError if the mark is damaged, since results on the sample would otherwise count as results on Flickr30k.
    """
    if not path.exists():
        return False
    check_plain_file(path)
    try:
        content = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("sample"), bool):
        raise HarnessError(f'{path} does not state whether this is the sample: expected {{"sample": true, ...}}')
    return bool(content["sample"])


def _check_pictures(data: Path, photos: Sequence[Photo], index: PictureIndex, split: str) -> None:
    """Raise PicturesError unless every image of a split has a picture."""
    missing = [photo for photo in photos if photo.id not in index.blobs]
    if index.folder is None:
        places = ", ".join(f"{name}/" for name in PICTURE_FOLDERS)
        raise PicturesError(
            f"{data} has no pictures: looked for .jpg in {places} and .tar there or in {SHARD_FOLDER}/ ({FLICKR30K_CARD.source})"
        )
    if len(missing) == len(photos):
        raise PicturesError(f"the split {split} has no pictures here: none of its {len(photos):,} images is in {index.folder}")
    if missing:
        first = index.folder / missing[0].filename
        raise PicturesError(
            f"{first} is missing, and so are {len(missing) - 1:,} more of the {len(photos):,} pictures of {split}"
        )


def _choose(
    folder: _Folder,
    language: Language,
    wanted: Collection[str] | None,
    purpose: str,
    splits: Collection[str] | None = None,
) -> _Choice:
    """Return the first source of a language that has captions of the wanted images, or translations if `wanted` is None.

    splits: the splits of the sources to read; None reads all. Raises MissingError listing the files searched if no source has
    any.
    """
    looked: list[str] = []
    for name in language.sources:
        source = catalogue().sources[name]
        if source.sample != folder.sample or (splits and not _has_later(source)):
            continue
        captions = read_captions(folder.path, source, language.code, splits)
        if captions is None:
            looked.append(file_pattern(source, language.code) + (f" ({source.url})" if source.url else ""))
            continue
        fits = _is_translation if wanted is None else _is_of(wanted)
        if any(fits(row) for row in captions.rows):
            return _Choice(source, captions)
        lacks = "training file with English" if wanted is None else "caption of these images"
        looked.append(f"{file_pattern(source, language.code)} (which has no {lacks})")
    who = f"{language.name} ({language.code})"
    raise MissingError(f"{folder.path} has no {who} captions for {purpose}: looked for {'; '.join(looked) or 'nothing'}")


def _has_later(source: SourceSpec) -> bool:
    """Return whether a source has the form of Multi30k's task 1, which includes the later test sets."""
    return source.images == catalogue().sources["multi30k"].images


def _is_translation(row: Caption) -> bool:
    return row.train and row.english is not None


def _is_of(wanted: Collection[str]) -> Callable[[Caption], bool]:
    return lambda row: row.image in wanted


def _tagged(retrieval: Retrieval, folder: _Folder, language: Language, rows: Iterable[Caption]) -> Retrieval:
    """Return a copy with the facets and phrases of the captions from the tags of Flickr30k Entities."""
    by_id = {caption_id(row): row for row in rows}
    captions = [by_id[name] for name in retrieval.caption_ids]
    tags = read_tags(folder.path, language.code, captions)
    return replace(
        retrieval,
        notes=(*retrieval.notes, *tags.notes),
        facets=caption_facets(tags, captions, language, retrieval.source),
        phrases=tuple(entity_phrases(sentence) for sentence in tags.own),
        english_phrases=tuple(entity_phrases(sentence) for sentence in tags.english),
    )


def _stranger_notes(folder: _Folder, choice: _Choice) -> list[str]:
    """Return a note on captions of unlisted images if the source is the user's own.

    There, an unlisted id is probably a mistake. Other sources cover all of Flickr30k, whatever the folder lists.
    """
    if choice.source.url:
        return []
    known = {photo.id for photo in folder.photos}
    strangers = sum(row.image not in known for row in choice.captions.rows)
    return [f"{strangers:,} captions left out: {JSON_NAME} does not list their images"] if strangers else []


def _check_splits(folder: _Folder) -> Finding:
    counts = Counter(photo.split for photo in folder.photos)
    sizes = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    what = f"{JSON_NAME} (the embedded sample)" if folder.sample else JSON_NAME
    return Finding(what, bool(folder.photos), f"{len(folder.photos):,} images: {sizes}" if sizes else "lists no image")


def _check_picture_files(folder: _Folder) -> list[Finding]:
    try:
        index = find_pictures(folder.path)
    except HarnessError as error:
        return [Finding("pictures", False, str(error))]
    findings = []
    for split in (*dict.fromkeys(photo.split for photo in folder.photos), *_later_splits(folder)):
        photos = _later_photos(folder, split) if split in LATER_TEST_SPLITS else folder.split(split)
        there = sum(photo.id in index.blobs for photo in photos)
        where = f"in {index.folder.relative_to(folder.path)}" if index.folder else "anywhere"
        if there == len(photos):
            way_out = ""
        elif split in EVALUATION_SPLITS:
            way_out = f"; get them from {FLICKR30K_CARD.source}"
        else:
            way_out = f"; not needed to evaluate on {' or '.join(EVALUATION_SPLITS)}"
        findings.append(Finding(f"pictures, {split}", there == len(photos), f"{there:,} of {len(photos):,} {where}{way_out}"))
    return findings


def _check_source(folder: _Folder, source: SourceSpec, languages: Collection[Language]) -> list[Finding]:
    """Return one finding for each language, and one for all absent languages if the source has an address."""
    offered = [language for language in languages if source.name in language.sources]
    findings = [(language, _check_language(folder, source, language)) for language in offered]
    there = [finding for _, finding in findings if finding is not None]
    absent = [language for language, finding in findings if finding is None]
    if absent and source.url:
        rest = f" and {len(absent) - _MAX_LISTED:,} more" if len(absent) > _MAX_LISTED else ""
        codes = ", ".join(language.code for language in absent[:_MAX_LISTED]) + rest
        pattern = file_pattern(source, absent[0].code)
        fetch = f", or `data fetch --source {source.name}`" if source.downloads else ""
        detail = f"no file like {pattern}; get it from {source.url}{fetch} (licence: {source.licence})"
        there.append(Finding(f"{source.name}: {codes}", False, detail))
    return there


def _check_language(folder: _Folder, source: SourceSpec, language: Language) -> Finding | None:
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
        for split, photos in ((split, folder.split(split)) for split in EVALUATION_SPLITS)
        if photos
    ]
    counts = f"{len(captions.rows):,} captions ({source.kind_of(language.code)}) on {', '.join(spread)}"
    return Finding(what, bool(captions.rows), "; ".join((counts, *captions.notes)))
