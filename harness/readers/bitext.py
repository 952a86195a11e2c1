"""Sentence pairs in the files that people have: tab-separated, Moses and TMX, plain or gzip."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from harness.core.data import Bitext, HeldOut, Language
from harness.core.errors import HarnessError, MissingError
from harness.readers.bitext_columns import find_columns, image_of
from harness.readers.language_codes import ENGLISH_LANGUAGE, best_match, codes_of, find_language_file, fold_code, stands_for
from harness.readers.text_files import MAX_TEXT_CHARACTERS, find_plain_or_gzip, read_lines
from harness.storage.archives import BoundedGzipFile

BITEXT_FOLDER = "bitext"
NOTHING_HELD_OUT = HeldOut(frozenset(), frozenset())
_MARKUP = frozenset({"bpt", "ept", "it", "ph", "ut"})
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"


class SentencePair(NamedTuple):
    """English, its translation, and the image that both belong to, or ""."""

    english: str
    foreign: str
    image: str = ""


class FilePairs(NamedTuple):
    """The pairs of a file, and what must be known of how they were read."""

    name: str
    rows: Sequence[SentencePair]
    notes: tuple[str, ...] = ()


def load_bitext_file(path: Path, language: Language, held_out: HeldOut = NOTHING_HELD_OUT) -> Bitext:
    """Read the pairs of a file, as they stand: English with one language.

    `.tsv` holds English, tab, translation, and may hold a tab and an image id, or says in a first line what it holds. `.tmx` is
    read piece by piece. Anything else is Moses' form: either file of the pair `x.en` and `x.sw`, or their common name `x`. All
    may end in `.gz` as well. held_out: what the data set has, by which columns are known (`find_columns`).
    Raises HarnessError if the file is not there, is broken, has columns that cannot be told, or has no pair in the language.
    """
    kind = (path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix).casefold()
    if kind == ".tsv":
        pairs = _tsv(_there(path), language, held_out)
    elif kind == ".tmx":
        pairs = FilePairs(path.name, list(_tmx(_there(path), language)))
    else:
        pairs = FilePairs(path.name, list(_moses(path, language)))
    if not pairs.rows:
        codes = ", ".join(sorted(codes_of(language)))
        raise HarnessError(f"{path} has no pair of English and {language.name}: its codes are {codes}")
    return _bitext(language, [pairs])


def load_bitext_folder(data: Path, language: Language, held_out: HeldOut = NOTHING_HELD_OUT) -> Bitext:
    """Read everything in a data folder's `bitext/` that has the language: `<code>.tsv`, Moses pairs, and TMX, in that order.

    Raises MissingError if there is nothing.
    """
    folder = data / BITEXT_FOLDER
    tsv = find_language_file(folder, language, "{}.tsv".format)
    found = [_tsv(tsv, language, held_out)] if tsv else []
    plain = {path.name.removesuffix(".gz"): path for path in sorted(folder.glob("*"), reverse=True) if path.is_file()}
    for name, path in sorted(plain.items()):
        if stands_for(Path(name).suffix[1:], language):
            found.append(FilePairs(path.name, list(_moses(path, language))))
    for name, path in sorted(plain.items()):
        if name.casefold().endswith(".tmx"):
            found.append(FilePairs(path.name, list(_tmx(path, language))))
    found = [pairs for pairs in found if pairs.rows]
    if not found:
        raise MissingError(f"{folder} has no {language.code}.tsv, no *.en with *.{language.code}, and no TMX in {language.name}")
    return _bitext(language, found)


def load_monolingual_texts(folder: Path, language: Language) -> tuple[list[str], list[str]]:
    """The sentences of a folder's `en.txt` and `<code>.txt`, plain or gzip, one a line; no line need translate another.

    Raises HarnessError if either is not there, cannot be read, or has no sentence.
    """
    sides = []
    for side in (ENGLISH_LANGUAGE, language):
        path = find_language_file(folder, side, "{}.txt".format)
        if path is None:
            missing = folder / f"{side.code}.txt"
            raise HarnessError(f"{missing} is not there: --text takes a folder with en.txt and {language.code}.txt")
        sides.append([line.strip() for line in _sentences(path) if line.strip()])
        if not sides[-1]:
            raise HarnessError(f"{path} has no sentence: expected one a line")
    return sides[0], sides[1]


def _bitext(language: Language, found: Sequence[FilePairs]) -> Bitext:
    english, foreign, images = zip(*(pair for pairs in found for pair in pairs.rows), strict=True)
    notes = tuple(note for pairs in found for note in pairs.notes)
    return Bitext(language.code, " + ".join(pairs.name for pairs in found), "unstated", english, foreign, images, notes)


def _there(path: Path) -> Path:
    found = find_plain_or_gzip(path)
    if found is None:
        raise HarnessError(f"{path} is not there: --bitext takes a .tsv, a .tmx, or Moses' pair x.en and x.<code>")
    return found


def _sentences(path: Path) -> list[str]:
    """The lines of a file. Raises HarnessError naming the first that is too long for a sentence, and as `read_lines`."""
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        _check_length(f"{path}, line {number:,}", line)
    return lines


def _check_length(place: str, text: str) -> None:
    if len(text) > MAX_TEXT_CHARACTERS:
        raise HarnessError(
            f"{place}: {len(text):,} characters are no sentence, expected {MAX_TEXT_CHARACTERS:,} at most: cut it, or take it out"
        )


def _tsv(path: Path, language: Language, held_out: HeldOut) -> FilePairs:
    lines = [(number, line.split("\t")) for number, line in enumerate(_sentences(path), start=1) if line.strip()]
    if not lines:
        return FilePairs(path.name, ())
    columns = find_columns(path, lines, language, held_out)
    rows, strangers = [], 0
    for number, cells in lines[columns.header :]:
        if len(cells) <= max(columns.english, columns.foreign):
            raise HarnessError(f"{path}, line {number:,}: expected English, tab, translation, in the columns of the other lines")
        cell = cells[columns.image] if columns.image is not None and len(cells) > columns.image else ""
        image = image_of(cell)
        strangers += bool(cell.strip()) and image not in held_out.images
        rows.append(SentencePair(cells[columns.english], cells[columns.foreign], image if image in held_out.images else ""))
    unknown = f"{strangers:,} image ids of {path.name} are not in this data set; these pairs are judged by their sentences alone"
    return FilePairs(path.name, rows, (*columns.notes, *([unknown] if strangers else [])))


def _moses(path: Path, language: Language) -> Iterator[SentencePair]:
    stem = path.with_suffix("") if path.suffix == ".gz" else path
    coded = any(stands_for(stem.suffix[1:], side) for side in (language, ENGLISH_LANGUAGE))
    stem = stem.with_suffix("") if coded else stem
    english, foreign = (
        find_language_file(stem.parent, side, lambda code: f"{stem.name}.{code}") for side in (ENGLISH_LANGUAGE, language)
    )
    if english is None or foreign is None:
        missing = "en" if english is None else language.code
        raise HarnessError(f"{stem}.{missing} is not there: Moses' form is a pair of files")
    left, right = _sentences(english), _sentences(foreign)
    if len(left) != len(right):
        raise HarnessError(f"{english} has {len(left):,} lines and {foreign.name} {len(right):,}: line i translates line i")
    yield from map(SentencePair, left, right)


def _tmx(path: Path, language: Language) -> Iterator[SentencePair]:
    """The first segment in each of the two languages of every translation unit that has both, whatever the namespace."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    try:
        with BoundedGzipFile(path) if path.suffix == ".gz" else path.open("rb") as file:
            body: Element | None = None
            units = 0
            for event, element in iterparse(file, events=("start", "end")):
                if event == "start" and _tag(element) == "body":
                    body = element
                elif event == "end" and _tag(element) == "tu":
                    units += 1
                    if pair := _unit(element, language):
                        for text in pair:
                            _check_length(f"{path}, unit {units:,}", text)
                        yield pair
                    # What has been read is let go: a TMX may be larger than memory.
                    if body is not None:
                        body.clear()
    except (ParseError, DefusedXmlException, OSError, EOFError, zlib.error, ValueError, LookupError, RecursionError) as error:
        raise HarnessError(f"{path} is not a whole TMX file: {error}") from None


def _tag(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _unit(unit: Element, language: Language) -> SentencePair | None:
    said: dict[str, str] = {}
    for variant in unit.iter():
        segment = next((child for child in variant if _tag(child) == "seg"), None) if _tag(variant) == "tuv" else None
        if segment is not None:
            said.setdefault(fold_code(variant.get(_LANG) or variant.get("lang") or ""), _text(segment).strip())
    english, foreign = best_match(said, ENGLISH_LANGUAGE), best_match(said, language)
    return SentencePair(english, foreign) if english is not None and foreign is not None else None


def _text(element: Element) -> str:
    """The words of a segment, without the native formatting codes that stand in it."""
    parts = [element.text or ""]
    for child in element:
        parts += ["" if _tag(child) in _MARKUP else _text(child), child.tail or ""]
    return "".join(parts)
