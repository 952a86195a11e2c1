"""Monolingual text for distillation: from files, or one side each of pairs that are not used."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.errors import HarnessError
from harness.distill.data.bitext import Unpaired, shuffled
from harness.distill.data.leakage import Guarded, marks, marks_of


def unpaired(guarded: Sequence[Guarded], sentences: int, pairs: int | None, seed: int) -> Unpaired:
    """So many sentences of each side for each language: of its own texts, or the one side of some pairs and the other of others.

    Those of pairs are the last of the shuffle of `subset`, the same whatever the subset is. Raises HarnessError if there are not
    so many, besides those that the subset needs.
    """
    parts = [
        of_texts(each, sentences, seed) if each.texts else of_pairs(each, sentences, pairs, seed) for each in guarded if sentences
    ]
    return Unpaired(
        english=sum((part.english for part in parts), ()),
        foreign=sum((part.foreign for part in parts), ()),
        marks=sum((part.marks for part in parts), ()),
    )


def of_pairs(guarded: Guarded, sentences: int, pairs: int | None, seed: int) -> Unpaired:
    """The sentences of `unpaired` in one language, from its bitext."""
    bitext, used = guarded.bitext, len(guarded.bitext) if pairs is None else pairs
    if used + 2 * sentences > len(bitext):
        raise HarnessError(
            f"--unpaired {sentences:,} takes one side each of {2 * sentences:,} pairs besides the {used:,} that are used; "
            f"{bitext.source} has {len(bitext):,} in {bitext.lang}: ask for fewer, or give texts with --text"
        )
    last = bitext.take(shuffled(len(bitext), seed)[len(bitext) - 2 * sentences :])
    return Unpaired(last.english[:sentences], last.foreign[sentences:], tuple(marks_of(last)))


def of_texts(guarded: Guarded, sentences: int, seed: int) -> Unpaired:
    """The sentences of `unpaired` in one language, from texts of its own."""
    sides = []
    for texts in guarded.texts or ():
        if sentences > len(texts):
            raise HarnessError(
                f"--unpaired {sentences:,} asked for, but a text for {guarded.bitext.lang} has {len(texts):,} sentences"
            )
        sides.append(tuple(texts[row] for row in shuffled(len(texts), seed)[:sentences]))
    english, foreign = sides
    return Unpaired(english, foreign, tuple(marks(english=english, foreign=foreign)))
