"""Bitext made clean: lines that teach nothing, or the wrong thing, are left out and counted."""

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
"""Characters on either side. A caption that is longer is a list, or a translation that has run wild."""

# The same two to forty characters four times running: what a translator does that has lost the thread.
_LOOP = re.compile(r"(\S.{1,39}?)\1{3,}")
_WRITTEN = {"Hans": ("Han",), "Hant": ("Han",), "Jpan": ("Han", "Hira", "Kana"), "Kore": ("Hang", "Han")}


def clean(bitext: Bitext, script: str) -> Bitext:
    """Leave out empty, over-long and looping lines, wrong script, copies of the English, and duplicates.

    A pair counts under the first of these that fits it; the count of each is the last of the notes, and a bitext of which
    nothing is left out is given back as it is. script: ISO 15924 code of the translation.
    Raises HarnessError if nothing is left.
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
    """A function that says why a pair is left out, or nothing. It remembers the pairs it has seen.

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
    """What is wrong with the lines of a pair as they stand, or nothing."""
    if not english.strip() or not foreign.strip():
        return "empty"
    if max(len(english), len(foreign)) > LONGEST_SENTENCE:
        return f"over {LONGEST_SENTENCE} characters"
    if is_looping(foreign) or is_looping(english):
        return "looping"
    return "" if is_mostly_in_script(script, foreign) else "in another script"


def is_looping(text: str) -> bool:
    """Whether some words of a line follow on themselves four times or more.

    >>> is_looping("uka uka uka uka uka"), is_looping("very very good"), is_looping("..........")
    (True, False, False)
    """
    return any(re.search(r"\w", found[1]) for found in _LOOP.finditer(text + " "))


def is_mostly_in_script(script: str, text: str) -> bool:
    """Whether at least half of a line's letters are of a script; a line without letters is not.

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
