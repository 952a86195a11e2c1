"""Language codes in the names and contents of files: ISO 639, FLORES-200, and BCP 47 with regions and scripts, in any case."""

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
    """Return a code in the spelling in which codes are compared: casefolded, with underscores.

    >>> fold_code("zh-Hant") == fold_code("ZH_hant ")
    True
    """
    return code.strip().casefold().replace("-", "_")


def codes_of(language: Language) -> list[str]:
    """Return the folded codes of a language: its own code first, then the aliases that are codes."""
    others = sorted({fold_code(word) for word in language.aliases if " " not in word} - {fold_code(language.code)})
    return [fold_code(language.code), *others]


def stands_for(code: str, language: Language) -> bool:
    """Return whether a code means a language: one of its codes, or its code with a region or script that fits no other language.

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
    """Return the value whose key means a language, or None. The code wins over an alias, and both over a code with a region."""
    folded = {fold_code(code): value for code, value in reversed(found.items())}
    exact = [folded[code] for code in codes_of(language) if code in folded]
    return next(iter([*exact, *(value for code, value in found.items() if stands_for(code, language))]), None)


def find_language_file(folder: Path, language: Language, name: Callable[[str], str]) -> Path | None:
    """Return the file of a folder named `name(code)` for a code of the language in any case, or None. Plain wins over gzip."""
    mark = "\0"
    start, end = name(mark).split(mark)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (path.name.endswith(".gz"), path.name)) if folder.is_dir() else ():
        plain = path.name.removesuffix(".gz")
        if plain.startswith(start) and plain.endswith(end) and path.is_file():
            found.setdefault(plain[len(start) : len(plain) - len(end)], path)
    return best_match(found, language)
