"""Tables of captions, as people and programs write them: an image's id or file name, a tab, a caption.

What spreadsheets and taggers put around these is taken off: a line of headings, a column of caption numbers, quotes, marks of
parts of speech. A table whose columns cannot be recognized is refused.
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
"""Headings of columns, in small letters, without blanks and underscores."""
_NUMBER = re.compile("[0-9]{1,4}")
_FILE_NAME = re.compile(r"\S+\.(?:jpe?g|png|webp)(?:#\S*)?", re.IGNORECASE)
_PART_OF_SPEECH = re.compile("[A-Za-z]{1,6}[0-9]?")
_MARKS = ":/_"
"""What stands between a word and its part of speech: BosonNLP's `word:n`, as in Flickr30k-CN, `word/n`, `word_NN`."""


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """A caption of a table. name: the image's id or file name, with `#` and the caption's number where the table has one."""

    line: int
    name: str
    text: str


@dataclass(frozen=True)
class CaptionTable:
    """The captions of a file in its order, and what was taken off them."""

    rows: tuple[CaptionRow, ...]
    notes: tuple[str, ...]


def read_table(path: Path, form: str = "image id, tab, caption", unspaced: bool = False) -> CaptionTable:
    """Read a table of captions; empty lines are passed over, and empty captions kept.

    form: what a line is, for messages. unspaced: whether the language puts no blanks between words, so that words that were
    taken apart to be marked are put together again.
    Raises HarnessError naming the line that is not in the form, or the columns that cannot be recognized.
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
    """The columns of a line. Flickr30k-CN and Flickr8k-CN have a blank, no tab, behind `id#zhm#0`."""
    place = f"{path}, line {number:,}"
    if "\r" in line:
        raise HarnessError(f"{place}: a carriage return inside a line: end all lines alike")
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
    """The rows of a table whose first line has headings for the id and the caption; None if it has none."""
    if not lines:
        return None
    headings = [re.sub(r"[\s_\"-]", "", field).casefold() for field in lines[0][1]]
    name, number, text = (next((i for i, word in enumerate(headings) if word in known), None) for known in _HEADINGS.values())
    if name is None or text is None:
        return None
    rows = []
    for line, fields in lines[1:]:
        if len(fields) < len(headings) or not is_blank("".join(fields[len(headings) :])):
            raise HarnessError(
                f"{path}, line {line:,}: {len(fields)} columns, expected {len(headings)}, as in the line of headings"
            )
        written = _inside(fields[name]) or fields[name]
        rows.append(CaptionRow(line, written if number is None else _numbered(written, fields[number].strip()), fields[text]))
    return rows


def _by_position(path: Path, lines: Sequence[tuple[int, list[str]]], form: str) -> list[CaptionRow]:
    """The rows of a table without headings: id, number or id of the caption if there is one, caption."""
    rows = []
    for line, (name, *rest) in lines:
        number = rest[0].strip()
        if len(rest) > 1 and (_NUMBER.fullmatch(number) or _is_id(number, name)):
            rows.append(CaptionRow(line, _numbered(name, number), "\t".join(rest[1:]).rstrip("\t")))
        else:
            rows.append(CaptionRow(line, name, "\t".join(rest).rstrip("\t")))
    if rows and all("\t" in row.text for row in rows):
        raise HarnessError(
            f"{path} has several columns behind the image id, and which is the caption cannot be told: expected {form}, or a "
            "first line of headings with `image` and `caption`"
        )
    return rows


def _is_id(text: str, name: str) -> bool:
    return photo_id(_inside(text) or text) == photo_id(name)


def _numbered(name: str, number: str) -> str:
    """An id with the number of its caption, which its own column has, as a number or as a whole id."""
    if "#" in name or not number:
        return name
    return number if "#" in number else f"{name}#{number}"


def _inside(field: str) -> str | None:
    """What stands in a field in quotes, doubled quotes undone; None for one that is not in a spreadsheet's quotes."""
    if len(field) < 2 or not field.startswith('"') or not field.endswith('"'):
        return None
    inside = field[1:-1]
    return inside.replace('""', '"') if '"' not in inside.replace('""', "") else None


def _unquoted(texts: Sequence[str]) -> tuple[list[str], int]:
    """Captions without a spreadsheet's quotes, and how many had any.

    Doubled quotes inside are proof. Without them quotes may be the writer's own: they are a spreadsheet's if every caption is in
    quotes, or those and only those with a comma, a tab or a quote are, and no quote stands anywhere else.
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
    """Captions without marks of parts of speech, and how many had any.

    A file is taken to have them if most of its captions have one at every word.
    """
    for mark in _MARKS:
        words = [[_word(token, mark) for token in text.split()] for text in texts]
        if 2 * sum(bool(each) and None not in each for each in words) > sum(map(bool, words)):
            marked = [any(each) for each in words]
            out = [_unmark(text, mark, unspaced) if has else text for text, has in zip(texts, marked, strict=True)]
            return out, sum(marked)
    return list(texts), 0


def _unmark(text: str, mark: str, unspaced: bool) -> str:
    """The words of a caption without their marks. In a script without blanks they stand only between Latin words."""
    words = [_word(token, mark) or token for token in text.split()]
    if not unspaced:
        return " ".join(words)
    gaps = [" " if _latin(left[-1]) and _latin(right[0]) else "" for left, right in pairwise(words)]
    return "".join(word + gap for word, gap in zip(words, [*gaps, ""], strict=True))


def _latin(char: str) -> bool:
    return char.isascii() and char.isalnum()


def _word(token: str, mark: str) -> str | None:
    """The word of a marked token; None for one without a mark."""
    word, _, tag = token.rpartition(mark)
    return word if word and _PART_OF_SPEECH.fullmatch(tag) else None


def _check_captions(path: Path, rows: Sequence[CaptionRow], form: str) -> None:
    """Raise HarnessError if the captions are no captions, but numbers, ids or names of files."""
    told = [row for row in rows if not is_blank(row.text)]
    if told and all(
        row.text.strip().isdecimal() or _FILE_NAME.fullmatch(row.text.strip()) or _is_id(row.text, row.name) for row in told
    ):
        raise HarnessError(f"{path}: its captions are numbers or names, such as {told[0].text[:60]!r}: expected {form}")


def _notes(path: Path, rows: Sequence[CaptionRow], quoted: int, marked: int) -> Iterator[str]:
    if quoted:
        yield f"a spreadsheet's quotes were taken off {quoted:,} captions of {path.name}"
    if marked:
        yield f"marks of parts of speech were taken out of {marked:,} captions of {path.name}"
    twice = sum(count - 1 for name, count in Counter(row.name for row in rows).items() if "#" in name)
    if twice:
        yield f"{twice:,} captions of {path.name} have the number of an earlier one of their image: all are kept"
