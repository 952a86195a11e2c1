"""The leakage guard, which drops the sentence pairs of evaluation images and captions."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt

from harness.core.data import Bitext, HeldOut
from harness.core.errors import HarnessError
from harness.distill.data.bitext import MonolingualText


def normalise(text: str) -> str:
    """Return a sentence in compatibility form and lower case, with letters, combining marks and digits only.

    >>> normalise("Two dogs ,  running .") == normalise("two dogs, running")
    True
    """
    return str(_between_words().sub(" ", unicodedata.normalize("NFKC", text).lower()).strip())


@cache
def _between_words() -> re.Pattern[str]:
    """The characters between words. Vowel signs belong to words: without them the Hindi words for boy and girl are the same."""
    import regex

    between: re.Pattern[str] = regex.compile(r"[^\w\p{M}]+")
    return between


def comparison_form(text: str) -> str:
    """Return a sentence as the guard compares it: normalised and without spaces, which tokenizers and segmenters vary.

    >>> comparison_form("A T-shirt does n't fit .") == comparison_form("a tshirt doesn't fit")
    True
    """
    return normalise(text).replace(" ", "")


@dataclass(frozen=True)
class GuardedBitext:
    """Bitext without pairs of evaluation images, and how many pairs were offered and dropped.

    texts: monolingual sentences, English and foreign; None to take them from the bitext.
    """

    bitext: Bitext
    offered: int
    dropped: int
    texts: tuple[tuple[str, ...], tuple[str, ...]] | None = None


def guard(bitext: Bitext, held_out: HeldOut, refuse: bool = False) -> GuardedBitext:
    """Drop pairs with an evaluation image, its English caption, or its caption in the language.

    Sentences are compared even if a pair has an image id, since ids can be meaningless. A pair counts under the first of the
    three that applies. A note gives the counts if sentences decided any.
    Raises HarnessError if `refuse` is set and there is such a pair, or if no pair remains.
    """
    english, foreign = _all_compared(held_out.english), _all_compared(held_out.foreign)
    by_image, by_english, by_foreign = reasons = ("image id", "English sentence", f"{bitext.lang} sentence")
    keep, dropped = [], Counter[str]()
    for row, (image, *sentences) in enumerate(zip(bitext.image_ids, bitext.english, bitext.foreign, strict=True)):
        if image in held_out.image_ids:
            dropped[by_image] += 1
        elif comparison_form(sentences[0]) in english:
            dropped[by_english] += 1
        elif comparison_form(sentences[1]) in foreign:
            dropped[by_foreign] += 1
        else:
            keep.append(row)
    what = f"{bitext.source} ({bitext.lang})"
    counted = ", ".join(f"{dropped[reason]:,} by {reason}" for reason in reasons if dropped[reason])
    if dropped and refuse:
        raise HarnessError(
            f"{dropped.total():,} of {len(bitext):,} pairs of {what} belong to evaluation images ({counted}); "
            "pass --leakage drop to leave them out"
        )
    if not keep:
        raise HarnessError(f"no pair of {what} is left once those of evaluation images are dropped: {counted}")
    kept = bitext.take(keep)
    if dropped.keys() - {by_image}:
        kept = replace(kept, notes=(*bitext.notes, f"the leakage guard dropped {dropped.total():,} pairs of {what}: {counted}"))
    return GuardedBitext(kept, len(bitext), dropped.total())


def guarded_texts(english: Sequence[str], foreign: Sequence[str], held_out: HeldOut) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return both texts without the captions of evaluation images."""
    sides = (english, _all_compared(held_out.english)), (foreign, _all_compared(held_out.foreign))
    left, right = (tuple(text for text in texts if comparison_form(text) not in captions) for texts, captions in sides)
    return left, right


def _all_compared(captions: Iterable[str]) -> set[str]:
    """Return captions as the guard compares them, without those that have no letter."""
    return {comparison_form(text) for text in captions} - {""}


def seen_hashes(bitext: Bitext, text: MonolingualText) -> npt.NDArray[np.uint64]:
    """Return sorted hashes of the image ids and of both sides' sentences that a tower is trained on.

    They are stored with the tower, so that its leakage can be checked without the pairs.
    """
    return hash_keys([*bitext_keys(bitext), *text.marks])


def count_leaked(seen: npt.NDArray[np.uint64], held_out: HeldOut) -> int:
    """Return how many evaluation images and sentences a tower has seen.

    Older towers have the normalised English, as `sentence`, of pairs without an image id.

    >>> held_out = HeldOut(frozenset({"7", "8"}), frozenset({"A dog ."}), frozenset({"Ein Hund ."}))
    >>> count_leaked(hash_keys(["image 7", "image 9", "sentence a dog", "foreign einhund"]), held_out)
    3
    """
    former = [f"sentence {normalise(text)}" for text in held_out.english if normalise(text)]
    return int(np.isin(hash_keys([*leakage_keys(held_out.image_ids, held_out.english, held_out.foreign), *former]), seen).sum())


def leakage_keys(images: Iterable[str] = (), english: Iterable[str] = (), foreign: Iterable[str] = ()) -> list[str]:
    """Return the guard's keys of images and sentences, none for an empty id or a sentence without a letter."""
    kinds = {"image": images, "english": map(comparison_form, english), "foreign": map(comparison_form, foreign)}
    return [f"{kind} {value}" for kind, values in kinds.items() for value in values if value]


def bitext_keys(bitext: Bitext) -> list[str]:
    """Return the guard's keys of all pairs: of images and of both sides' sentences."""
    return leakage_keys(bitext.image_ids, bitext.english, bitext.foreign)


def hash_keys(marks: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return the first 64 bits of each key's SHA-256, sorted and unique."""
    return np.unique(np.array([int.from_bytes(hashlib.sha256(m.encode()).digest()[:8], "big") for m in marks], dtype=np.uint64))
