"""Reader of tables of captions: an image id or file name, a tab, a caption.

The reader removes what spreadsheets and taggers add: a header, a column of caption numbers, quotes, part-of-speech tags. It
refuses a table whose columns it cannot recognize.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from harness.core.errors import HarnessError
from harness.readers.image_ids import photo_id
from harness.readers.text_files import check_caption, is_blank, read_lines

_HEADINGS = {
    "id": {"id", "image", "img", "file", "filename", "photo", "key", "imageid", "imagename", "imgid", "captionid", "imagekey"},
    "number": {"number", "commentnumber", "captionnumber", "sentid", "sentenceid", "index"},
    "text": {"caption", "captions", "comment", "text", "sentence", "description", "raw", "translation", "english"},
}
"""Headings of columns in lower case, without blanks and underscores."""
_NUMBER = re.compile("[0-9]{1,4}")
_FILE_NAME = re.compile(r"\S+\.(?:jpe?g|png|webp)(?:#\S*)?", re.IGNORECASE)
_PART_OF_SPEECH = re.compile("[A-Za-z]{1,6}[0-9]?")
_MARKS = ":/_"
"""Separators of a word and its part-of-speech tag: `word:n` of BosonNLP, as in Flickr30k-CN, `word/n`, `word_NN`."""


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """A caption of a table. name: the image id or file name, with `#` and the caption number where the table has one."""

    line: int
    name: str
    text: str


@dataclass(frozen=True)
class CaptionTable:
    """The captions of a file in its order, and notes on what was removed from them."""

    rows: tuple[CaptionRow, ...]
    notes: tuple[str, ...]


def read_table(path: Path, form: str = "image id, tab, caption", unspaced: bool = False) -> CaptionTable:
    """Read a table of captions. Empty lines are ignored, and empty captions are returned.

    form: the form of a line, for messages. unspaced: whether the language writes no blanks between words; words that a tagger
    separated are then joined again.
    Raises HarnessError naming a line of another form, or the columns that cannot be recognized.
    """
    lines = [(number, line.removeprefix("\ufeff")) for number, line in enumerate(read_lines(path), start=1)]
    fields = [(number, _fields(path, number, line, form)) for number, line in lines if line.strip()]
    rows = _by_headings(path, fields)
    if rows is None:
        rows = _by_position(path, fields, form)
    for row in rows:
        check_caption(f"{path}, line {row.line:,}", row.text)
    texts, quoted = _unquoted([row.text for row in rows])
    texts, marked = _unmarked(texts, unspaced)
    rows = [replace(row, text=text) for row, text in zip(rows, texts, strict=True)]
    _check_captions(path, rows, form)
    return CaptionTable(tuple(rows), tuple(_notes(path, rows, quoted, marked)))


def _fields(path: Path, number: int, line: str, form: str) -> list[str]:
    """Return the cells of a line. Flickr30k-CN and Flickr8k-CN have a blank instead of a tab after `id#zhm#0`."""
    place = f"{path}, line {number:,}"
    if "\r" in line:
        raise HarnessError(f"{place}: the line contains a carriage return: end all lines in the same way")
    name, tab, rest = line.partition("\t")
    if not tab:
        name, _, rest = line.partition(" ")
        if not re.fullmatch(r"[^#]+#(?:[a-z]+#)?[0-9]+", name):
            raise HarnessError(f"{place}: expected {form}")
        rest = rest.lstrip()
    if not name.strip():
        raise HarnessError(f"{place}: expected {form}")
    return [_inside(name) or name, *rest.split("\t")]


def _by_headings(path: Path, lines: Sequence[tuple[int, list[str]]]) -> list[CaptionRow] | None:
    """Return the rows of a table whose first line has headings of an id and a caption, or None without such headings."""
    if not lines:
        return None
    headings = [re.sub(r"[\s_\"-]", "", field).casefold() for field in lines[0][1]]
    name, number, text = (next((i for i, word in enumerate(headings) if word in known), None) for known in _HEADINGS.values())
    if name is None or text is None:
        return None
    rows = []
    for line, fields in lines[1:]:
        if len(fields) < len(headings) or not is_blank("".join(fields[len(headings) :])):
            raise HarnessError(f"{path}, line {line:,}: {len(fields)} columns, expected {len(headings)} as in the header")
        written = _inside(fields[name]) or fields[name]
        rows.append(CaptionRow(line, written if number is None else _numbered(written, fields[number].strip()), fields[text]))
    return rows


def _by_position(path: Path, lines: Sequence[tuple[int, list[str]]], form: str) -> list[CaptionRow]:
    """Return the rows of a table without headings: id, optionally the number or id of the caption, caption."""
    rows = []
    for line, (name, *rest) in lines:
        number = rest[0].strip()
        if len(rest) > 1 and (_NUMBER.fullmatch(number) or _is_id(number, name)):
            rows.append(CaptionRow(line, _numbered(name, number), "\t".join(rest[1:]).rstrip("\t")))
        else:
            rows.append(CaptionRow(line, name, "\t".join(rest).rstrip("\t")))
    if rows and all("\t" in row.text for row in rows):
        raise HarnessError(
            f"{path} has several columns after the image id and no header that names the caption: expected {form}, or a "
            "header with `image` and `caption`"
        )
    return rows


def _is_id(text: str, name: str) -> bool:
    return photo_id(_inside(text) or text) == photo_id(name)


def _numbered(name: str, number: str) -> str:
    """Return an image id with the caption number of another column, which has a number or a complete caption id."""
    if "#" in name or not number:
        return name
    return number if "#" in number else f"{name}#{number}"


def _inside(field: str) -> str | None:
    """Return the contents of a quoted field with doubled quotes undone, or None if it has no quotes of a spreadsheet."""
    if len(field) < 2 or not field.startswith('"') or not field.endswith('"'):
        return None
    inside = field[1:-1]
    return inside.replace('""', '"') if '"' not in inside.replace('""', "") else None


def _unquoted(texts: Sequence[str]) -> tuple[list[str], int]:
    """Return the captions without the quotes of a spreadsheet, and how many had such quotes.

    Doubled quotes inside a caption prove a spreadsheet. Other quotes may belong to the caption. They come from a spreadsheet if
    no quote is elsewhere, and if every caption is quoted, or exactly those with a comma, a tab or a quote are.
    """
    inside = [_inside(text.strip()) for text in texts]
    found = [(text, text if each is None else each, each is not None) for text, each in zip(texts, inside, strict=True)]
    stray = any('"' in text for text, _, quoted in found if not quoted)
    everywhere = all(quoted for text, _, quoted in found if not is_blank(text))
    needed = all(quoted == any(mark in told for mark in ',\t"') for _, told, quoted in found)
    by_a_program = not stray and (everywhere or needed)
    out = [told if by_a_program or '"' in told else text for text, told, _ in found]
    return out, sum(old != new for old, new in zip(texts, out, strict=True))


def _unmarked(texts: Sequence[str], unspaced: bool) -> tuple[list[str], int]:
    """Return the captions without part-of-speech tags, and how many had tags.

    A file has tags if most of its captions have one at every word.
    """
    for mark in _MARKS:
        words = [[_word(token, mark) for token in text.split()] for text in texts]
        if 2 * sum(bool(each) and None not in each for each in words) > sum(map(bool, words)):
            marked = [any(each) for each in words]
            out = [_unmark(text, mark, unspaced) if has else text for text, has in zip(texts, marked, strict=True)]
            return out, sum(marked)
    return list(texts), 0


def _unmark(text: str, mark: str, unspaced: bool) -> str:
    """Return a caption without its tags. In a script without blanks, only Latin words keep a blank between them."""
    words = [_word(token, mark) or token for token in text.split()]
    if not unspaced:
        return " ".join(words)
    gaps = [" " if _latin(left[-1]) and _latin(right[0]) else "" for left, right in pairwise(words)]
    return "".join(word + gap for word, gap in zip(words, [*gaps, ""], strict=True))


def _latin(char: str) -> bool:
    return char.isascii() and char.isalnum()


def _word(token: str, mark: str) -> str | None:
    """Return the word of a tagged token, or None for a token without a tag."""
    word, _, tag = token.rpartition(mark)
    return word if word and _PART_OF_SPEECH.fullmatch(tag) else None


def _check_captions(path: Path, rows: Sequence[CaptionRow], form: str) -> None:
    """Raise HarnessError if all captions are numbers, ids or file names."""
    told = [row for row in rows if not is_blank(row.text)]
    if told and all(
        row.text.strip().isdecimal() or _FILE_NAME.fullmatch(row.text.strip()) or _is_id(row.text, row.name) for row in told
    ):
        raise HarnessError(f"{path}: the captions are numbers or names, such as {told[0].text[:60]!r}: expected {form}")


def _notes(path: Path, rows: Sequence[CaptionRow], quoted: int, marked: int) -> Iterator[str]:
    if quoted:
        yield f"a spreadsheet's quotes were taken off {quoted:,} captions of {path.name}"
    if marked:
        yield f"marks of parts of speech were taken out of {marked:,} captions of {path.name}"
    twice = sum(count - 1 for name, count in Counter(row.name for row in rows).items() if "#" in name)
    if twice:
        yield f"{twice:,} captions of {path.name} have the number of an earlier one of their image: all are kept"
