"""Readers of captions, one for each layout. All captions are joined to images by image id.

The splits of these files never define evaluation splits: 757 of 1,000 test images of a real folder are in Multi30k's *train*.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel
from pydantic_core import from_json

from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.readers.caption_tables import read_table
from harness.readers.image_ids import photo_id
from harness.readers.text_files import check_caption, find_plain_or_gzip, is_blank, read_lines
from harness.readers.xflickr import read_xflickr_lines
from harness.tasks.caption_sources import UNSPACED, SourceSpec, catalogue
from harness.tasks.readers.karpathy import read_photos

TRAIN = "train"

# Phrases of Flickr30k Entities, `[/EN#12/people Two men]`. Japanese phrases have the number of the English phrase in front.
_TAG = re.compile(r"(?:[0-9]{1,4}:)?\[/EN#[0-9]{1,18}(?:/[^\s\]]+)?\s([^\]]*)\]")
_ASCII_DIGITS = re.compile("[0-9]+")


class Caption(NamedTuple):
    """A caption.

    number: its number, from 0, among the captions of the image in the source. english: the English caption that it translates, if
    any. train: whether it is in the source's training file, from which bitext is taken.
    """

    image: str
    number: int
    text: str
    english: str | None
    train: bool


@dataclass(frozen=True)
class SourceCaptions:
    """All captions of a source in one language, in the order of its files, and notes on them."""

    rows: tuple[Caption, ...]
    notes: tuple[str, ...]


class _Collector:
    """Collects captions: numbers those of each image, and leaves out and counts empty ones."""

    def __init__(self) -> None:
        self._rows: list[Caption] = []
        self._seen: Counter[str] = Counter()
        self._notes: list[str] = []

    def note(self, text: str) -> None:
        self._notes.append(text)

    def add(
        self, file: Path, images: Sequence[str], texts: Sequence[str | None], english: Sequence[str] | None, train: bool = False
    ) -> None:
        """Add the lines of a file. A text of None is a known gap: it takes a number but does not count as empty."""
        empty = self.take(file, images, texts, english, train)
        self.note_empty(empty, file.name, english is not None)

    def take(
        self, file: Path, images: Sequence[str], texts: Sequence[str | None], english: Sequence[str] | None, train: bool = False
    ) -> int:
        """Add lines and return how many were empty. Raises HarnessError naming the image of a text that is no valid caption."""
        twins: Sequence[str | None] = [None] * len(images) if english is None else english
        empty = 0
        for image, text, twin in zip(images, texts, twins, strict=True):
            number = self._seen[image]
            self._seen[image] += 1
            if text is None:
                continue
            check_caption(f"{file}, image {image[:60]}", text)
            if not is_blank(text) and not (twin is not None and is_blank(twin)):
                self._rows.append(Caption(image, number, text, twin, train))
            else:
                empty += 1
        return empty

    def note_empty(self, empty: int, place: str, twins: bool) -> None:
        if empty:
            self.note(f"{empty:,} empty captions{' (or their English)' if twins else ''} of {place} left out")

    def captions(self) -> SourceCaptions:
        return SourceCaptions(tuple(self._rows), tuple(self._notes))


def file_pattern(source: SourceSpec, lang: str) -> str:
    """Return the files of a source in a language as one pattern relative to the data folder, for messages."""
    numbers = "{" + ",".join(map(str, source.numbers)) + "}"
    split = "{" + ",".join(source.splits) + "}"
    return source.files.format(code=catalogue().code(source, lang), split=split, k=numbers, image="*")


def read_captions(data: Path, source: SourceSpec, lang: str, splits: Collection[str] | None = None) -> SourceCaptions | None:
    """Read all captions of a source in a language, or return None if the folder has no file of it.

    splits: the splits of the source to read instead of all that it declares; only aligned files have splits.
    Raises HarnessError if a file is invalid.
    """
    match source.layout:
        case "karpathy":
            return read_karpathy(data / source.files)
        case "aligned":
            return read_aligned(data, source, lang, splits)
        case "tagged":
            return read_tagged(data, source)
        case "jsonl":
            return read_jsonl(data, source, lang)
        case "tsv":
            return read_tsv(data, source, lang)
        case "crossmodal":
            return read_crossmodal(data, source, lang)


def read_karpathy(path: Path) -> SourceCaptions | None:
    """Read the English captions of Karpathy's JSON file, usually five for each image."""
    if not path.is_file():
        return None
    rows = _Collector()
    pairs = [(photo.id, text) for photo in read_photos(path) for text in photo.captions]
    rows.add(path, [image for image, _ in pairs], [text for _, text in pairs], None)
    return rows.captions()


def read_tsv(data: Path, source: SourceSpec, lang: str) -> SourceCaptions | None:
    """Read a table of image id or file name, tab, caption, in the forms of `harness.readers.caption_tables`.

    Raises HarnessError naming a line without an id, and as `read_table`.
    """
    path = find_plain_or_gzip(data / file_pattern(source, lang))
    if path is None:
        return None
    table = read_table(path, unspaced=catalogue().languages[lang].script in UNSPACED)
    for row in table.rows:
        if not photo_id(row.name):
            raise HarnessError(f"{path}, line {row.line:,}: expected image id, tab, caption")
    rows = _Collector()
    for note in table.notes:
        rows.note(note)
    rows.add(path, [photo_id(row.name) for row in table.rows], [row.text for row in table.rows], None)
    return rows.captions()


def read_jsonl(data: Path, source: SourceSpec, lang: str) -> SourceCaptions | None:
    """Read the Flickr30k half of xFlickr&CO. Stray phrase numbers in captions are removed and counted.

    Raises HarnessError naming a line of another form.
    """
    path = find_plain_or_gzip(data / file_pattern(source, lang))
    if path is None:
        return None
    images: list[str] = []
    texts: list[str] = []
    coco = 0
    for row in read_xflickr_lines(path):
        if isinstance(row.id, str):
            images += [photo_id(row.id)] * len(row.sentences)
            texts += row.sentences
        else:
            coco += 1
    # The files of all languages have the same name, so messages include the folder.
    place = "/".join(path.parts[-2:])
    rows = _Collector()
    if lang in source.numbered:
        cleaned = [_ASCII_DIGITS.sub("", text) for text in texts]
        changed = sum(old != new for old, new in zip(texts, cleaned, strict=True))
        rows.note(f"stray phrase numbers were taken out of {changed:,} captions of {place}")
        texts = cleaned
    rows.note_empty(rows.take(path, images, texts, None), place, False)
    if coco:
        rows.note(f"{coco:,} captions of COCO images of {place} left out")
    return rows.captions()


class _Captions(BaseModel):
    """The captions of an image in one language in the file of Crossmodal-3600."""

    caption: list[str]


def read_crossmodal(data: Path, source: SourceSpec, lang: str) -> SourceCaptions | None:
    """Read one language of `captions.jsonl` of Crossmodal-3600: one object a line, with `image/key` and an object a language.

    Raises HarnessError naming a line of another form.
    """
    path = find_plain_or_gzip(data / source.files)
    if path is None:
        return None
    code = catalogue().code(source, lang)
    rows = _Collector()
    empty = 0
    for number, line in enumerate(read_lines(path), start=1):
        try:
            content = from_json(line)
            image, texts = str(content["image/key"]), _Captions.model_validate(content.get(code, {"caption": []})).caption
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            form = f'{{"image/key": ..., "{code}": {{"caption": [...]}}, ...}}'
            raise HarnessError(f"{path}, line {number:,}: expected {form}: {short_message(error)}") from None
        empty += rows.take(path, [image] * len(texts), texts, None)
    rows.note_empty(empty, path.name, False)
    return rows.captions()


def read_tagged(data: Path, source: SourceSpec) -> SourceCaptions | None:
    """Read a folder of tagged sentences in the form of Flickr30k Entities, `<image>.txt`, as plain text.

    Line i translates line i of the English file of the same name, if that file exists with as many lines. A blank line is a known
    gap. All lines with English count as training lines, since the leakage guard knows the image of each.
    """
    folder = (data / source.files).parent
    if not folder.is_dir():
        return None
    rows = _Collector()
    blank = odd = 0
    for path in sorted(path for path in folder.glob("*.txt") if path.is_file()):
        texts = _untagged(path)
        english = _english_sentences(data, source, path.stem)
        if english is not None and len(english) != len(texts):
            english, odd = None, odd + 1
        blank += rows.take(path, [photo_id(path.stem)] * len(texts), texts, english, train=english is not None)
    rows.note_empty(blank, folder.name, False)
    if odd:
        rows.note(f"{odd:,} files of {folder.name} have another number of lines than their English: read without it")
    return rows.captions()


def _english_sentences(data: Path, source: SourceSpec, image: str) -> list[str] | None:
    path = find_plain_or_gzip(data / source.english[0].format(image=image))
    return None if path is None else _untagged(path)


def _untagged(path: Path) -> list[str]:
    """Return the lines of a file without their tags. Lines that are no valid captions are refused before matching."""
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        check_caption(f"{path}, line {number:,}", line)
    return [_TAG.sub(r"\1", line) for line in lines]


def read_aligned(data: Path, source: SourceSpec, lang: str, splits: Collection[str] | None = None) -> SourceCaptions | None:
    """Read line-aligned files. Line i belongs to the image on line i of the image list and translates line i of the English file.

    Raises HarnessError if a file and the image list differ in length, or if the image list or the English file is missing.
    """
    files = list(_aligned_files(data, source, lang, splits or source.splits or ("",)))
    if not any(path for _, _, path in files):
        return None
    rows = _Collector()
    for split, name, path in files:
        if path is None:
            rows.note(f"{source.name} has no {name} here")
            continue
        images = _image_list(data, source, split, path)
        english = _english_side(data, source, lang, split, path, len(images))
        lines = read_lines(path)
        gap = source.gap(lang, split)
        # The gap is closed only in a file that has it. A corrected file has all its lines.
        if gap and len(images) == gap.lines and len(lines) == gap.lines - len(gap.missing):
            rows.add(path, images, _spread(lines, gap.missing), english, split == TRAIN)
            rows.note(
                f"{path.name} is known to lack the translation of line {', '.join(map(str, gap.missing))} (counted from 0): "
                "left out, later lines moved to their images"
            )
        else:
            _check_count(path, len(lines), len(images))
            rows.add(path, images, lines, english, split == TRAIN)
    return rows.captions()


def _aligned_files(data: Path, source: SourceSpec, lang: str, splits: Collection[str]) -> Iterator[tuple[str, str, Path | None]]:
    code = catalogue().code(source, lang)
    for split in splits:
        for k in source.numbers or (0,):
            path = data / source.files.format(split=split, code=code, k=k)
            yield split, path.name, find_plain_or_gzip(path)


def _image_list(data: Path, source: SourceSpec, split: str, asker: Path) -> list[str]:
    path = _first_existing(data, source.images, split, asker, "the image of each line")
    return [photo_id(line) for line in read_lines(path)]


def _english_side(data: Path, source: SourceSpec, lang: str, split: str, asker: Path, expected: int) -> list[str] | None:
    if not source.english or lang == "en":
        return None
    path = _first_existing(data, source.english, split, asker, "the English original of each line")
    lines = read_lines(path)
    _check_count(path, len(lines), expected)
    return lines


def _first_existing(data: Path, patterns: Sequence[str], split: str, asker: Path, why: str) -> Path:
    """Return the first file that exists. Raises HarnessError naming the first of them and its publisher if none does."""
    wanted = [data / pattern.format(split=split) for pattern in patterns]
    for path in wanted:
        if found := find_plain_or_gzip(path):
            return found
    home = Path(patterns[0]).parts[0]
    owner = next(source for source in catalogue().sources.values() if Path(source.files).parts[0] == home)
    raise HarnessError(
        f"{wanted[0]} is missing: {asker.name} needs it for {why}; it comes with {owner.title.split(' (')[0]} ({owner.url})"
    )


def _check_count(path: Path, found: int, expected: int) -> None:
    if found != expected:
        raise HarnessError(f"{path} has {found:,} lines, expected {expected:,}: one for each line of its image list")


def _spread(lines: Sequence[str], missing: Sequence[int]) -> list[str | None]:
    """Insert None at the missing line numbers (ascending), so that every other line is aligned with its image."""
    spread: list[str | None] = list(lines)
    for number in missing:
        spread.insert(number, None)
    return spread
