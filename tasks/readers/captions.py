"""Who translated what: one reader for each layout in which captions are found, all joined by image id.

The files' own splits are never used as ours: 757 of the 1,000 test images of one real folder stand in Multi30k's *train*.
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

from harness.core.error_messages import first_line
from harness.core.errors import HarnessError
from harness.readers.caption_tables import read_table
from harness.readers.image_ids import photo_id
from harness.readers.text_files import check_caption, find_plain_or_gzip, is_blank, read_lines
from harness.readers.xflickr import read_xflickr_lines
from harness.tasks.caption_sources import UNSPACED, SourceSpec, catalogue
from harness.tasks.readers.karpathy import read_photos

TRAIN = "train"

# Flickr30k Entities' phrases, as `[/EN#12/people Two men]`; the Japanese ones have the English phrase's number before them.
_TAG = re.compile(r"(?:[0-9]{1,4}:)?\[/EN#[0-9]{1,18}(?:/[^\s\]]+)?\s([^\]]*)\]")
_ASCII_DIGITS = re.compile("[0-9]+")


class Caption(NamedTuple):
    """One caption.

    number: counts an image's captions in their source, from 0. english: what the text was translated from, if it was.
    train: whether it stands in the source's training file, which is what bitext is taken from.
    """

    image: str
    number: int
    text: str
    english: str | None
    train: bool


@dataclass(frozen=True)
class SourceCaptions:
    """All captions that one source has in one language, in the order of its files, and what must be known of them."""

    rows: tuple[Caption, ...]
    notes: tuple[str, ...]


class _Collector:
    """Numbers the captions of each image, and leaves out and counts the empty ones."""

    def __init__(self) -> None:
        self._rows: list[Caption] = []
        self._seen: Counter[str] = Counter()
        self._notes: list[str] = []

    def note(self, text: str) -> None:
        self._notes.append(text)

    def add(
        self, file: Path, images: Sequence[str], texts: Sequence[str | None], english: Sequence[str] | None, train: bool = False
    ) -> None:
        """Take the lines of one file. A text that is None is known to be missing: it keeps its number and is not an empty one."""
        empty = self.take(file, images, texts, english, train)
        self.note_empty(empty, file.name, english is not None)

    def take(
        self, file: Path, images: Sequence[str], texts: Sequence[str | None], english: Sequence[str] | None, train: bool = False
    ) -> int:
        """Take some lines, and tell how many were empty. Raises HarnessError naming the image whose text can be no caption."""
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
    """Where a source keeps a language, as one pattern relative to the data folder, for messages."""
    numbers = "{" + ",".join(map(str, source.numbers)) + "}"
    split = "{" + ",".join(source.splits) + "}"
    return source.files.format(code=catalogue().code(source, lang), split=split, k=numbers, image="*")


def read_captions(data: Path, source: SourceSpec, lang: str, splits: Collection[str] | None = None) -> SourceCaptions | None:
    """Read all captions that a source has in a language, of all splits; None if the folder has no file of it.

    splits: the source's own splits to read instead of all it declares; only aligned files have any.
    Raises HarnessError if a file is there but cannot be right.
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
    """Read the English captions of Karpathy's JSON: as many as an image has, usually five."""
    if not path.is_file():
        return None
    rows = _Collector()
    pairs = [(photo.id, text) for photo in read_photos(path) for text in photo.captions]
    rows.add(path, [image for image, _ in pairs], [text for _, text in pairs], None)
    return rows.captions()


def read_tsv(data: Path, source: SourceSpec, lang: str) -> SourceCaptions | None:
    """Read image id or file name, tab, caption; `harness.readers.caption_tables` says what else is understood.

    Raises HarnessError naming the line that has no id, and as `read_table` does.
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
    """Read xFlickr&CO, without its COCO half; phrase numbers that captions keep are taken out, and counted.

    Raises HarnessError naming the line that is not in its form.
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
    # Every language's file has the same name, so that messages need the folder.
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
    """The captions of one image in one language, in Crossmodal-3600's file."""

    caption: list[str]


def read_crossmodal(data: Path, source: SourceSpec, lang: str) -> SourceCaptions | None:
    """Read one language of Crossmodal-3600's `captions.jsonl`: an object a line, with `image/key` and an object a language.

    Raises HarnessError naming the line that is not in its form.
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
            raise HarnessError(f"{path}, line {number:,}: expected {form}: {first_line(error)}") from None
        empty += rows.take(path, [image] * len(texts), texts, None)
    rows.note_empty(empty, path.name, False)
    return rows.captions()


def read_tagged(data: Path, source: SourceSpec) -> SourceCaptions | None:
    """Read a folder of Flickr30k Entities' tagged sentences, `<image>.txt`, as plain text.

    Line i is the translation of line i of the English file of the same name, where that is there with as many lines; a blank
    line is known to be missing. All count as training lines, since the leakage guard knows each one's image.
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
    """The lines of a file without their tags. Lines that can be no caption are refused before the pattern looks at them."""
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        check_caption(f"{path}, line {number:,}", line)
    return [_TAG.sub(r"\1", line) for line in lines]


def read_aligned(data: Path, source: SourceSpec, lang: str, splits: Collection[str] | None = None) -> SourceCaptions | None:
    """Read files whose line i belongs to the image in line i of an image list and, if they are translations, to an English line.

    Raises HarnessError if a file's lines do not match the image list, or if the image list or the English side is missing.
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
        # The gap is closed only in a file that shows it: a mended one has all its lines.
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
    path = _beside(data, source.images, split, asker, "which image each line belongs to")
    return [photo_id(line) for line in read_lines(path)]


def _english_side(data: Path, source: SourceSpec, lang: str, split: str, asker: Path, expected: int) -> list[str] | None:
    if not source.english or lang == "en":
        return None
    path = _beside(data, source.english, split, asker, "what each line was translated from")
    lines = read_lines(path)
    _check_count(path, len(lines), expected)
    return lines


def _beside(data: Path, patterns: Sequence[str], split: str, asker: Path, why: str) -> Path:
    """The first of some files that is there. Raises HarnessError naming the first of them and where to get it."""
    wanted = [data / pattern.format(split=split) for pattern in patterns]
    for path in wanted:
        if found := find_plain_or_gzip(path):
            return found
    home = Path(patterns[0]).parts[0]
    owner = next(source for source in catalogue().sources.values() if Path(source.files).parts[0] == home)
    raise HarnessError(
        f"{wanted[0]} is missing: {asker.name} needs it to know {why}; it comes with {owner.title.split(' (')[0]} ({owner.url})"
    )


def _check_count(path: Path, found: int, expected: int) -> None:
    if found != expected:
        raise HarnessError(f"{path} has {found:,} lines, expected {expected:,}: one for each line of its image list")


def _spread(lines: Sequence[str], missing: Sequence[int]) -> list[str | None]:
    """Put None at the missing line numbers (ascending), so that every other line is where its image is."""
    spread: list[str | None] = list(lines)
    for number in missing:
        spread.insert(number, None)
    return spread
