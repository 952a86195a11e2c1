"""Cleaning of bitext: pairs that are empty, looping, duplicate or in another script are dropped and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from harness.core.data import Bitext
from harness.core.errors import HarnessError
from harness.distill.data.leakage import normalise

LONGEST_SENTENCE = 400
"""The most characters of either side. Longer captions are lists or faulty translations."""

# Two to forty characters repeated four times in a row: a loop of a machine translator.
_LOOP = re.compile(r"(\S.{1,39}?)\1{3,}")
_WRITTEN = {"Hans": ("Han",), "Hant": ("Han",), "Jpan": ("Han", "Hira", "Kana"), "Kore": ("Hang", "Han")}


def clean(bitext: Bitext, script: str) -> Bitext:
    """Drop pairs with empty, over-long or looping lines, in another script, copies of the English, and duplicates.

    A pair counts under the first of these that applies. The counts become the last note. A bitext without such pairs is returned
    unchanged. script: ISO 15924 code of the translation. Raises HarnessError if no pair remains.
    """
    reasons: Counter[str] = Counter()
    keep = []
    judge = pair_judge(script)
    for row, pair in enumerate(zip(bitext.english, bitext.foreign, strict=True)):
        reason = judge(*pair)
        if reason:
            reasons[reason] += 1
        else:
            keep.append(row)
    if not reasons:
        return bitext
    counted = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    if not keep:
        raise HarnessError(f"no pair of {bitext.source} ({bitext.lang}) is left once it is cleaned: {counted}")
    note = f"cleaning left out {reasons.total():,} of {len(bitext):,} pairs: {counted}"
    return replace(bitext.take(keep), notes=(*bitext.notes, note))


def pair_judge(script: str) -> Callable[[str, str], str]:
    """Return a function from a pair to the reason for dropping it, or "". It remembers the pairs that it has seen.

    >>> judge = pair_judge("Latn")
    >>> judge("A dog.", "Ein Hund."), judge("A dog!", "ein Hund"), judge("A dog.", "Хунд")
    ('', 'duplicates', 'in another script')
    """
    seen: set[tuple[str, str]] = set()

    def judge(english: str, foreign: str) -> str:
        if fault := pair_fault(english, foreign, script):
            return fault
        pair = (normalise(english), normalise(foreign))
        if pair[0] == pair[1]:
            return "the same as their English"
        if pair in seen:
            return "duplicates"
        seen.add(pair)
        return ""

    return judge


def pair_fault(english: str, foreign: str, script: str) -> str:
    """Return the fault of a pair's lines, or ""."""
    if not english.strip() or not foreign.strip():
        return "empty"
    if max(len(english), len(foreign)) > LONGEST_SENTENCE:
        return f"over {LONGEST_SENTENCE} characters"
    if is_looping(foreign) or is_looping(english):
        return "looping"
    return "" if is_mostly_in_script(script, foreign) else "in another script"


def is_looping(text: str) -> bool:
    """Return whether some words of a line are repeated four times or more in a row.

    >>> is_looping("uka uka uka uka uka"), is_looping("very very good"), is_looping("..........")
    (True, False, False)
    """
    return any(re.search(r"\w", found[1]) for found in _LOOP.finditer(text + " "))


def is_mostly_in_script(script: str, text: str) -> bool:
    """Return whether at least half of a line's letters belong to a script. False for a line without letters.

    >>> is_mostly_in_script("Latn", "Ein T-Shirt von 北京"), is_mostly_in_script("Arab", "Ein Hund")
    (True, False)
    """
    letters = _letters().findall(text)
    return bool(letters) and 2 * len(_of_script(script).findall(text)) >= len(letters)


@cache
def _letters() -> re.Pattern[str]:
    import regex

    letters: re.Pattern[str] = regex.compile(r"\p{L}")
    return letters


@cache
def _of_script(script: str) -> re.Pattern[str]:
    import regex

    classes = "".join(rf"\p{{Script={name}}}" for name in _WRITTEN.get(script, (script,)))
    letters: re.Pattern[str] = regex.compile(rf"[[{classes}]&&\p{{L}}]", regex.VERSION1)
    return letters
