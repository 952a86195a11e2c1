"""Language codes as files of others write them: ISO 639, FLORES-200, BCP 47 with regions and scripts, in any case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness.core.data import Language

T = TypeVar("T")

ENGLISH_LANGUAGE = Language("en", "English", "Latn", 5, (), ("eng", "eng_Latn"))
_SCRIPTS_BY_REGION = {
    ("zh", "tw"): "Hant",
    ("zh", "hk"): "Hant",
    ("zh", "mo"): "Hant",
    ("zh", "cn"): "Hans",
    ("zh", "sg"): "Hans",
}


def fold_code(code: str) -> str:
    """A code in the one spelling in which codes are compared.

    >>> fold_code("zh-Hant") == fold_code("ZH_hant ")
    True
    """
    return code.strip().casefold().replace("-", "_")


def codes_of(language: Language) -> list[str]:
    """What may stand for a language in a file: its code, then every alias that is one, folded."""
    others = sorted({fold_code(word) for word in language.aliases if " " not in word} - {fold_code(language.code)})
    return [fold_code(language.code), *others]


def stands_for(code: str, language: Language) -> bool:
    """Whether a code means a language: its own, or its own with a region or script that is not another one's.

    >>> from harness.core.languages import all_languages
    >>> [lang for lang in ("zh", "zh-Hant") if stands_for("zh-TW", all_languages()[lang])]
    ['zh-Hant']
    """
    codes, code = codes_of(language), fold_code(code)
    if code in codes:
        return True
    base, *subtags = code.split("_")
    by_region = (_SCRIPTS_BY_REGION.get((base, subtag)) for subtag in subtags)
    script = next((subtag.title() for subtag in subtags if len(subtag) == 4 and subtag.isalpha()), None)
    script = script or next(filter(None, by_region), None)
    if script is None:
        return bool(subtags) and base in codes
    return script == language.script and base in {known.partition("_")[0] for known in codes}


def best_match(found: dict[str, T], language: Language) -> T | None:
    """Of things by code that of a language: its code's before an alias's, and these before one with a region."""
    folded = {fold_code(code): value for code, value in reversed(found.items())}
    exact = [folded[code] for code in codes_of(language) if code in folded]
    return next(iter([*exact, *(value for code, value in found.items() if stands_for(code, language))]), None)


def find_language_file(folder: Path, language: Language, name: Callable[[str], str]) -> Path | None:
    """The file in a folder that is called `name(code)` with a code of a language, in any case of the code, plain before gzip."""
    mark = "\0"
    start, end = name(mark).split(mark)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (path.name.endswith(".gz"), path.name)) if folder.is_dir() else ():
        plain = path.name.removesuffix(".gz")
        if plain.startswith(start) and plain.endswith(end) and path.is_file():
            found.setdefault(plain[len(start) : len(plain) - len(end)], path)
    return best_match(found, language)
