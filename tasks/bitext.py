"""Sentence pairs in the files that people have: tab-separated, Moses and TMX, plain or gzip."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from harness.api import Bitext, HarnessError, Language, MissingError
from harness.bombs import Unpacked
from harness.tasks.karpathy import photo_id
from harness.tasks.textfiles import find, read_lines

FOLDER = "bitext"
ENGLISH = frozenset({"en", "eng", "eng_latn"})
_MARKUP = frozenset({"bpt", "ept", "it", "ph", "ut"})
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"


class Pair(NamedTuple):
    """English, its translation, and the image that both belong to, or ""."""

    english: str
    foreign: str
    image: str = ""


def load_bitext_file(path: Path, language: Language) -> Bitext:
    """Read the pairs of a file, as they stand: English with one language.

    `.tsv` holds English, tab, translation, and may hold a tab and an image id. `.tmx` is read piece by piece. Anything else is
    Moses' form: either file of the pair `x.en` and `x.sw`, or their common name `x`. All may end in `.gz` as well.
    Raises HarnessError if the file is not there, is broken, or has no pair in the language.
    """
    codes = _codes(language)
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind == ".tsv":
        pairs = list(_tsv(_there(path)))
    elif kind == ".tmx":
        pairs = list(_tmx(_there(path), codes))
    else:
        pairs = list(_moses(path, language, codes))
    if not pairs:
        raise HarnessError(f"{path} has no pair of English and {language.name}: its codes are {', '.join(sorted(codes))}")
    return _bitext(language, path.name, pairs)


def load_bitext_folder(data: Path, language: Language) -> Bitext:
    """Read everything in a data folder's `bitext/` that has the language: `<code>.tsv`, Moses pairs, and TMX, in that order.

    Raises MissingError if there is nothing.
    """
    folder, codes = data / FOLDER, _codes(language)
    tsv = find(folder / f"{language.code}.tsv")
    found = [(tsv.name, list(_tsv(tsv)))] if tsv else []
    for foreign in sorted(path for code in codes for end in ("", ".gz") for path in folder.glob(f"*.{code}{end}")):
        found.append((foreign.name, list(_moses(foreign, language, codes))))
    for path in sorted(path for end in ("", ".gz") for path in folder.glob(f"*.tmx{end}")):
        found.append((path.name, list(_tmx(path, codes))))
    found = [(name, pairs) for name, pairs in found if pairs]
    if not found:
        raise MissingError(f"{folder} has no {language.code}.tsv, no *.en with *.{language.code}, and no TMX in {language.name}")
    return _bitext(language, " + ".join(name for name, _ in found), [pair for _, pairs in found for pair in pairs])


def load_texts(folder: Path, language: Language) -> tuple[list[str], list[str]]:
    """The sentences of a folder's `en.txt` and `<code>.txt`, plain or gzip, one a line; no line need translate another.

    Raises HarnessError if either is not there, cannot be read, or has no sentence.
    """
    own = _of_language(language, lambda code: folder / f"{code}.txt")
    english = find(folder / "en.txt")
    if english is None or own is None:
        missing = "en.txt" if english is None else f"{language.code}.txt"
        raise HarnessError(f"{folder / missing} is not there: --text takes a folder with en.txt and {language.code}.txt")
    sides = []
    for path in (english, own):
        sides.append([line.strip() for line in read_lines(path) if line.strip()])
        if not sides[-1]:
            raise HarnessError(f"{path} has no sentence: expected one a line")
    return sides[0], sides[1]


def _bitext(language: Language, name: str, pairs: list[Pair]) -> Bitext:
    english, foreign, images = zip(*pairs, strict=True)
    return Bitext(language.code, name, "unstated", english, foreign, images)


def _codes(language: Language) -> set[str]:
    """What may stand for a language in a file: its code and every alias that is one, in small letters."""
    return {word.casefold() for word in (language.code, *language.aliases) if " " not in word}


def _of_language(language: Language, named: Callable[[str], Path]) -> Path | None:
    """The file that is named after one of a language's codes, or None."""
    return next(filter(None, (find(named(code)) for code in [language.code, *sorted(_codes(language))])), None)


def _there(path: Path) -> Path:
    found = find(path)
    if found is None:
        raise HarnessError(f"{path} is not there: --bitext takes a .tsv, a .tmx, or Moses' pair x.en and x.<code>")
    return found


def _tsv(path: Path) -> Iterator[Pair]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        english, *rest = line.split("\t")
        if not 1 <= len(rest) <= 2:
            raise HarnessError(f"{path}, line {number:,}: expected English, tab, translation, and perhaps a tab and an image id")
        yield Pair(english, rest[0], photo_id(rest[1]) if len(rest) > 1 else "")


def _moses(path: Path, language: Language, codes: Collection[str]) -> Iterator[Pair]:
    stem = path.with_suffix("") if path.suffix == ".gz" else path
    stem = stem.with_suffix("") if stem.suffix[1:].casefold() in {*codes, *ENGLISH} else stem
    english = find(stem.with_name(f"{stem.name}.en"))
    foreign = _of_language(language, lambda code: stem.with_name(f"{stem.name}.{code}"))
    if english is None or foreign is None:
        raise HarnessError(f"{stem}.{'en' if english is None else language.code} is not there: Moses' form is a pair of files")
    left, right = read_lines(english), read_lines(foreign)
    if len(left) != len(right):
        raise HarnessError(f"{english} has {len(left):,} lines and {foreign.name} {len(right):,}: line i translates line i")
    yield from map(Pair, left, right)


def _tmx(path: Path, codes: Collection[str]) -> Iterator[Pair]:
    """The first segment in each of the two languages of every translation unit that has both."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    try:
        with Unpacked(path) if path.suffix == ".gz" else path.open("rb") as file:
            body: Element | None = None
            for event, element in iterparse(file, events=("start", "end")):
                if event == "start" and element.tag == "body":
                    body = element
                elif event == "end" and element.tag == "tu":
                    if pair := _unit(element, codes):
                        yield pair
                    # What has been read is let go: a TMX may be larger than memory.
                    if body is not None:
                        body.clear()
    except (ParseError, DefusedXmlException, OSError, EOFError, zlib.error, ValueError, LookupError, RecursionError) as error:
        raise HarnessError(f"{path} is not a whole TMX file: {error}") from None


def _unit(unit: Element, codes: Collection[str]) -> Pair | None:
    said: dict[str, str] = {}
    for variant in unit.iter("tuv"):
        code = (variant.get(_LANG) or variant.get("lang") or "").casefold().replace("-", "_")
        segment = variant.find("seg")
        if segment is not None:
            said.setdefault(code, _text(segment).strip())
    english, foreign = _say(said, ENGLISH), _say(said, {code.replace("-", "_") for code in codes})
    return Pair(english, foreign) if english is not None and foreign is not None else None


def _text(element: Element) -> str:
    """The words of a segment, without the native formatting codes that stand in it."""
    parts = [element.text or ""]
    for child in element:
        parts += ["" if child.tag in _MARKUP else _text(child), child.tail or ""]
    return "".join(parts)


def _say(said: dict[str, str], codes: Collection[str]) -> str | None:
    """The segment in a language: by its own code, else by one with a region (`en_GB`)."""
    exact = next((text for code, text in said.items() if code in codes), None)
    return exact if exact is not None else next((text for code, text in said.items() if code.partition("_")[0] in codes), None)
