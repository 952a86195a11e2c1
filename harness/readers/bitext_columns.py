"""Recognition of the columns in a table of sentence pairs, by its header or by its contents. No order of columns is assumed."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from statistics import StatisticsError, correlation

from harness.core.data import HeldOut, Language
from harness.core.errors import HarnessError
from harness.core.languages import all_languages
from harness.readers.image_ids import photo_id
from harness.readers.language_codes import ENGLISH_LANGUAGE, codes_of, fold_code

MAX_COLUMNS = 16
"""The maximum number of columns of a table of sentence pairs."""
SAMPLED_LINES = 1_000
"""How many lines, spread over the file, columns are recognized by."""
MIN_ENGLISH_RATIO = 1.25
"""The minimum ratio of the shares of English words in the English column and in its translation."""
MIN_CORRELATION_GAP = 0.2
"""The minimum lead, in correlation of text lengths, of the right pair of columns over every other pair."""
MIN_LENGTHS = 20
"""The minimum number of lines for a correlation of lengths, and how often a text may repeat on average."""

_WORD = re.compile(r"[^\W\d_]+")
_OF_NAMES = re.compile(r"[\d/_@]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HEADINGS = _words(
    "image image_id img img_id file filename file_name photo id source target src tgt trg translation sentence text caption "
    "score attribution licence license"
)
_FUNCTION_WORDS = _words(
    "a an the and or but of in on at to with for from by as is are was were be been has have had not his her their its it they "
    "this that these those there who which what while into over under through out up down near behind"
)


@dataclass(frozen=True)
class BitextColumns:
    """The columns of a table, counted from 0.

    width: the maximum number of columns of a line. header: whether the first line is a header.
    """

    english: int
    foreign: int
    image: int | None
    width: int
    header: bool
    notes: tuple[str, ...]


Numbered = tuple[int, list[str]]
"""The number of a line, from 1, and its cells."""


def find_columns(path: Path, lines: Sequence[Numbered], language: Language, held_out: HeldOut) -> BitextColumns:
    """Recognize the columns of a table with at least one line.

    The English column has clearly more English words than its translation. English words are those of the evaluation captions and
    common function words. An image column has ids that the data set lists.
    Raises HarnessError showing the first line if no pair of columns is recognized.
    """
    named = _read_header(path, lines[0], language)
    body, width = lines if named is None else lines[1:], max(3, len(lines[0][1]))
    if wide := next((line for line in lines if len(line[1]) > min(width, MAX_COLUMNS)), None):
        raise _not_told(path, wide, language)
    shown = [
        [*(cell.strip() for cell in cells), *[""] * (width - len(cells))] for _, cells in body[:: len(body) // SAMPLED_LINES or 1]
    ]
    columns = [[cells[k] for cells in shown] for k in range(width)]
    pair = _named_pair(named or {}, columns, language) or _told_pair(columns, held_out, (named or {}).get(ENGLISH_LANGUAGE.code))
    if pair is None:
        raise _not_told(path, (body or lines)[0], language)
    rest = [k for k in range(width) if k not in pair and any(columns[k])]
    image = next((k for k in rest if any(image_of(cell) in held_out.images for cell in columns[k])), None)
    notes = []
    if pair != (0, 1):
        notes.append(f"{path.name}: column {pair[0] + 1} is taken for English and column {pair[1] + 1} for {language.name}")
    notes += [f"column {k + 1} of {path.name} is not an image id of this data set; it is ignored" for k in rest if k != image]
    return BitextColumns(*pair, image, width, named is not None, tuple(notes))


def image_of(cell: str) -> str:
    """Return the image id in a cell that has an image id, a file name or path, or a caption id.

    >>> image_of("flickr30k-images/1000.jpg"), image_of("1000.jpg#0"), image_of(" 1000 ")
    ('1000', '1000', '1000')
    """
    return photo_id(re.split(r"[/\\]", cell.strip())[-1])


def _read_header(path: Path, line: Numbered, language: Language) -> dict[str, int] | None:
    """Return the column of each language that the first line names, by code, or None if the first line is no header.

    A header names English, or has only words that headers use. Raises HarnessError if it names only other languages.
    """
    known = {fold_code(word): each.code for each in all_languages().values() for word in (each.code, each.name, *each.aliases)}
    known |= {word: each.code for each in (language, ENGLISH_LANGUAGE) for word in (*codes_of(each), fold_code(each.name))}
    words = [fold_code(cell.strip().strip("#\"' ")) for cell in line[1]]
    if ENGLISH_LANGUAGE.code not in map(known.get, words) and not all(
        word in known or word in _HEADINGS or not word for word in words
    ):
        return None
    found = {known[word]: k for k, word in enumerate(words) if word in known}
    # `id` is the code of Indonesian, but most often the heading of line numbers.
    others = [code for code in found if code not in (ENGLISH_LANGUAGE.code, "id")]
    if others and language.code not in found:
        raise HarnessError(
            f"{path}, line {line[0]:,}: the header names columns of {', '.join(found)} and none of {language.code}"
        )
    return found


def _named_pair(named: dict[str, int], columns: Sequence[Sequence[str]], language: Language) -> tuple[int, int] | None:
    """Return the columns that the header names if both contain words."""
    english, foreign = (named.get(code) for code in (ENGLISH_LANGUAGE.code, language.code))
    if english is None or foreign is None or not (_has_words(columns[english]) and _has_words(columns[foreign])):
        return None
    return english, foreign


def _told_pair(columns: Sequence[Sequence[str]], held_out: HeldOut, english: int | None) -> tuple[int, int] | None:
    """Return the two text columns of which one is clearly English compared with the other; english: the known English column.

    Of several such pairs, the one whose text lengths correlate clearly more is chosen, since those of translations do.
    """
    known = _FUNCTION_WORDS.union(*(map(str.lower, _WORD.findall(text)) for text in held_out.english))
    shares = {k: _share(cells, known) for k, cells in enumerate(columns) if _is_text(cells, held_out.images)}
    pairs = [(one, other) for one, other in permutations(shares, 2) if shares[one] > max(0.1, MIN_ENGLISH_RATIO * shares[other])]
    pairs = [pair for pair in pairs if english in (None, pair[0])]
    if len(pairs) < 2:
        return pairs[0] if pairs else None
    alike = sorted(((_alike(columns[one], columns[other]), (one, other)) for one, other in pairs), reverse=True)
    return alike[0][1] if alike[0][0] - alike[1][0] > MIN_CORRELATION_GAP else None


def _alike(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the correlation of the text lengths of two columns, or 0 with fewer than `MIN_LENGTHS` lines."""
    lengths = [(len(text), len(twin)) for text, twin in zip(one, other, strict=True) if text and twin]
    try:
        return correlation(*zip(*lengths, strict=True)) if len(lengths) >= MIN_LENGTHS else 0.0
    except StatisticsError:  # all texts have one length
        return 0.0


def _share(cells: Sequence[str], known: Collection[str]) -> float:
    words = [word.lower() for cell in cells for word in _WORD.findall(cell)]
    return sum(word in known for word in words) / len(words) if words else 0.0


def _is_text(cells: Sequence[str], images: Collection[str]) -> bool:
    """Return whether a column has words, and neither image ids nor a few repeated labels."""
    there = [cell for cell in cells if cell]
    ids = sum(image_of(cell) in images for cell in there)
    return _has_words(cells) and 2 * ids < len(there) and len(set(there)) > len(there) / MIN_LENGTHS


def _has_words(cells: Sequence[str]) -> bool:
    """Return whether most cells of a column hold words, and not numbers or file names."""
    there = [cell for cell in cells if cell]
    return 2 * sum(bool(_WORD.search(cell)) and not _is_name(cell) for cell in there) > len(there)


def _is_name(cell: str) -> bool:
    """Return whether a cell is one word in the form of a file name, an address or an id."""
    return len(cell.split()) == 1 and cell.isascii() and _OF_NAMES.search(cell) is not None


def _not_told(path: Path, line: Numbered, language: Language) -> HarnessError:
    cells = ", ".join(repr(cell if len(cell) <= 40 else f"{cell[:40]}...") for cell in line[1][:4])
    return HarnessError(
        f"{path}, line {line[0]:,}: expected English, tab, translation, and optionally a tab and an image id, not {cells}"
        f"{', ...' if len(line[1]) > 4 else ''}; if the line is right, name the columns in a header: "
        f"en, tab, {language.code}, and image for image ids"
    )
