"""Who translated what: one reader for each layout in which captions are found, all joined by image id.

The files' own splits are never used as ours: 757 of the 1,000 test images of one real folder stand in Multi30k's *train*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.api import HarnessError
from harness.tasks.karpathy import JSON_NAME, photo_id, read_photos
from harness.tasks.languages import Source, catalogue
from harness.tasks.textfiles import find, read_lines

TRAIN = "train"
SPLITS = (TRAIN, "val", "test_2016_flickr")
"""Multi30k's splits of Flickr30k. Its later test sets have other images."""

_TASK1 = Path("multi30k", "data", "task1")
_FILES = {
    "karpathy": JSON_NAME,
    "multi30k": "multi30k/data/task1/raw/{split}.{code}",
    "multiscript30k": "multiscript30k/multi30k-dataset-en-{code}/{split}.{code}",
    "captions": "captions/{code}.tsv",
}


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
class Captions:
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
        twins: Sequence[str | None] = [None] * len(images) if english is None else english
        empty = 0
        for image, text, twin in zip(images, texts, twins, strict=True):
            number = self._seen[image]
            self._seen[image] += 1
            if text is None:
                continue
            if text.strip() and (twin is None or twin.strip()):
                self._rows.append(Caption(image, number, text, twin, train))
            else:
                empty += 1
        if empty:
            side = "" if english is None else " (or their English)"
            self.note(f"{empty:,} empty captions{side} of {file.name} left out")

    def captions(self) -> Captions:
        return Captions(tuple(self._rows), tuple(self._notes))


def files_of(source: Source, lang: str) -> str:
    """Where a source keeps a language, as one pattern relative to the data folder, for messages."""
    return _FILES[source.layout].format(split="{" + ",".join(SPLITS) + "}", code=source.code(lang))


def read_captions(data: Path, source: Source, lang: str) -> Captions | None:
    """Read all captions that a source has in a language, of all splits; None if the folder has no file of it.

    Raises HarnessError if a file is there but cannot be right.
    """
    match source.layout:
        case "karpathy":
            return read_karpathy(data)
        case "multi30k":
            return read_multi30k(data, source, lang)
        case "multiscript30k":
            return read_multiscript30k(data, source, lang)
        case "captions":
            return read_tsv(data, lang)


def read_karpathy(data: Path) -> Captions | None:
    """Read the English captions of Karpathy's JSON: as many as an image has, usually five."""
    path = data / JSON_NAME
    if not path.is_file():
        return None
    rows = _Collector()
    pairs = [(photo.id, text) for photo in read_photos(path) for text in photo.captions]
    rows.add(path, [image for image, _ in pairs], [text for _, text in pairs], None)
    return rows.captions()


def read_multi30k(data: Path, source: Source, lang: str) -> Captions | None:
    """Read translations in the layout of Multi30k's task 1, of any language whose files are there.

    Raises HarnessError if a file's lines do not match the image list, or if the image list or the English side is missing.
    """
    return _read_aligned(data, source, lang)


def read_multiscript30k(data: Path, source: Source, lang: str) -> Captions | None:
    """Read MultiScript30k, which needs Multi30k's image lists and English files beside it. Raises as `read_multi30k`."""
    return _read_aligned(data, source, lang)


def read_tsv(data: Path, lang: str) -> Captions | None:
    """Read `captions/<lang>.tsv`: image id or file name, tab, caption. Blank lines are passed over.

    Raises HarnessError naming the line that has no tab or no id.
    """
    path = find(data / _FILES["captions"].format(code=lang))
    if path is None:
        return None
    images: list[str] = []
    texts: list[str] = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        name, tab, text = line.partition("\t")
        if not tab or not photo_id(name):
            raise HarnessError(f"{path}, line {number:,}: expected image id, tab, caption")
        images.append(photo_id(name))
        texts.append(text)
    rows = _Collector()
    rows.add(path, images, texts, None)
    return rows.captions()


def _read_aligned(data: Path, source: Source, lang: str) -> Captions | None:
    """Read files whose line i is the translation of line i of Multi30k's English file of that split."""
    files = dict(_aligned_files(data, source, lang))
    if not any(files.values()):
        return None
    rows = _Collector()
    for split, path in files.items():
        if path is None:
            rows.note(f"{source.name} has no {split}.{source.code(lang)} here")
            continue
        images = _image_list(data, split, path)
        english = _english_side(data, split, path, len(images))
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


def _aligned_files(data: Path, source: Source, lang: str) -> Iterator[tuple[str, Path | None]]:
    for split in SPLITS:
        yield split, find(data / _FILES[source.layout].format(split=split, code=source.code(lang)))


def _image_list(data: Path, split: str, asker: Path) -> list[str]:
    path = find(data / _TASK1 / "image_splits" / f"{split}.txt")
    if path is None:
        raise _needs_multi30k(asker, data / _TASK1 / "image_splits" / f"{split}.txt", "which image each line belongs to")
    return [photo_id(line) for line in read_lines(path)]


def _english_side(data: Path, split: str, asker: Path, expected: int) -> list[str]:
    path = find(data / _TASK1 / "raw" / f"{split}.en")
    if path is None:
        raise _needs_multi30k(asker, data / _TASK1 / "raw" / f"{split}.en", "what each line was translated from")
    lines = read_lines(path)
    _check_count(path, len(lines), expected)
    return lines


def _needs_multi30k(asker: Path, wanted: Path, why: str) -> HarnessError:
    url = catalogue().sources["multi30k"].url
    return HarnessError(f"{wanted} is missing: {asker.name} needs it to know {why}; it comes with Multi30k ({url})")


def _check_count(path: Path, found: int, expected: int) -> None:
    if found != expected:
        raise HarnessError(f"{path} has {found:,} lines, expected {expected:,}: one for each line of its image list")


def _spread(lines: Sequence[str], missing: Sequence[int]) -> list[str | None]:
    """Put None at the missing line numbers (ascending), so that every other line is where its image is."""
    spread: list[str | None] = list(lines)
    for number in missing:
        spread.insert(number, None)
    return spread
