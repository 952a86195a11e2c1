"""Readers of sentence pairs and monolingual text: tab-separated files, Moses pairs and TMX, plain or gzip."""

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
    """An English sentence, its translation, and the id of their image or ""."""

    english: str
    foreign: str
    image: str = ""


class FilePairs(NamedTuple):
    """The sentence pairs of a file, and notes on how they were read."""

    name: str
    rows: Sequence[SentencePair]
    notes: tuple[str, ...] = ()


def load_bitext_file(path: Path, language: Language, held_out: HeldOut = NOTHING_HELD_OUT) -> Bitext:
    """Read the sentence pairs of English and one language from a file. The texts are returned unchanged.

    A `.tsv` file holds English, tab, translation, and optionally a tab and an image id, or names its columns in a header. A
    `.tmx` file is parsed incrementally. Any other file is one of a Moses pair, `x.en` and `x.sw`, or their common name `x`. Each
    may also end in `.gz`. held_out: the evaluation data, by which `find_columns` recognizes columns.
    Raises HarnessError if the file does not exist, is damaged, has columns that cannot be recognized, or has no pair in the
    language.
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
        raise HarnessError(f"{path} has no sentence pair of English and {language.name}, whose codes are {codes}")
    return _bitext(language, [pairs])


def load_bitext_folder(data: Path, language: Language, held_out: HeldOut = NOTHING_HELD_OUT) -> Bitext:
    """Read all bitext of a language in a data folder's `bitext/`: `<code>.tsv`, Moses pairs, and TMX files, in that order.

    Raises MissingError if there is none.
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
    """Read monolingual text: the sentences of a folder's `en.txt` and `<code>.txt`, plain or gzip, one a line.

    The lines need not be translations of each other. Raises HarnessError if either file does not exist, cannot be read, or has no
    sentence.
    """
    sides = []
    for side in (ENGLISH_LANGUAGE, language):
        path = find_language_file(folder, side, "{}.txt".format)
        if path is None:
            missing = folder / f"{side.code}.txt"
            raise HarnessError(f"{missing} does not exist: --text takes a folder with en.txt and {language.code}.txt")
        sides.append([line.strip() for line in _sentences(path) if line.strip()])
        if not sides[-1]:
            raise HarnessError(f"{path} has no sentence: expected one sentence a line")
    return sides[0], sides[1]


def _bitext(language: Language, found: Sequence[FilePairs]) -> Bitext:
    english, foreign, images = zip(*(pair for pairs in found for pair in pairs.rows), strict=True)
    notes = tuple(note for pairs in found for note in pairs.notes)
    return Bitext(language.code, " + ".join(pairs.name for pairs in found), "unstated", english, foreign, images, notes)


def _there(path: Path) -> Path:
    found = find_plain_or_gzip(path)
    if found is None:
        raise HarnessError(f"{path} does not exist: --bitext takes a .tsv, a .tmx, or a Moses pair x.en and x.<code>")
    return found


def _sentences(path: Path) -> list[str]:
    """Return the lines of a file. Raises HarnessError naming the first line that is too long, and as `read_lines`."""
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        _check_length(f"{path}, line {number:,}", line)
    return lines


def _check_length(place: str, text: str) -> None:
    if len(text) > MAX_TEXT_CHARACTERS:
        raise HarnessError(
            f"{place}: the sentence has {len(text):,} characters, expected at most {MAX_TEXT_CHARACTERS:,}: split it or remove it"
        )


def _tsv(path: Path, language: Language, held_out: HeldOut) -> FilePairs:
    lines = [(number, line.split("\t")) for number, line in enumerate(_sentences(path), start=1) if line.strip()]
    if not lines:
        return FilePairs(path.name, ())
    columns = find_columns(path, lines, language, held_out)
    rows, strangers = [], 0
    for number, cells in lines[columns.header :]:
        if len(cells) <= max(columns.english, columns.foreign):
            raise HarnessError(
                f"{path}, line {number:,}: expected English, tab, translation, in the same columns as the other lines"
            )
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
        raise HarnessError(f"{stem}.{missing} does not exist: a Moses corpus is a pair of files")
    left, right = _sentences(english), _sentences(foreign)
    if len(left) != len(right):
        raise HarnessError(
            f"{english} has {len(left):,} lines and {foreign.name} has {len(right):,}: line i must translate line i"
        )
    yield from map(SentencePair, left, right)


def _tmx(path: Path, language: Language) -> Iterator[SentencePair]:
    """Yield the first segment of each language from every translation unit that has both, in any XML namespace."""
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
                    # Elements are freed as soon as they are read, since a TMX file may be larger than memory.
                    if body is not None:
                        body.clear()
    except (ParseError, DefusedXmlException, OSError, EOFError, zlib.error, ValueError, LookupError, RecursionError) as error:
        raise HarnessError(f"{path} is not a complete TMX file: {error}") from None


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
    """Return the text of a segment without the native formatting codes inside it."""
    parts = [element.text or ""]
    for child in element:
        parts += ["" if _tag(child) in _MARKUP else _text(child), child.tail or ""]
    return "".join(parts)
