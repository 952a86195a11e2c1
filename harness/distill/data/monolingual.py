"""Monolingual text for distillation, from files or from one side each of unused pairs."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.errors import HarnessError
from harness.distill.data.bitext import MonolingualText, shuffled_rows
from harness.distill.data.leakage import GuardedBitext, bitext_keys, leakage_keys


def select_monolingual_text(guarded: Sequence[GuardedBitext], sentences: int, pairs: int | None, seed: int) -> MonolingualText:
    """Return so many sentences of each side for each language, from its monolingual texts or from its bitext.

    The bitext gives the English side of some pairs and the foreign side of others. These pairs are the last of the shuffle of
    `subset`, independent of the subset's size. Raises HarnessError if there are too few besides those of the subset.
    """
    parts = [
        text_from_files(each, sentences, seed) if each.texts else text_from_pairs(each, sentences, pairs, seed)
        for each in guarded
        if sentences
    ]
    return MonolingualText(
        english=sum((part.english for part in parts), ()),
        foreign=sum((part.foreign for part in parts), ()),
        marks=sum((part.marks for part in parts), ()),
    )


def text_from_pairs(guarded: GuardedBitext, sentences: int, pairs: int | None, seed: int) -> MonolingualText:
    """Return the sentences of one language, from its bitext."""
    bitext, used = guarded.bitext, len(guarded.bitext) if pairs is None else pairs
    if used + 2 * sentences > len(bitext):
        raise HarnessError(
            f"--unpaired {sentences:,} takes one side each of {2 * sentences:,} pairs besides the {used:,} that are used; "
            f"{bitext.source} has {len(bitext):,} in {bitext.lang}: ask for fewer, or give texts with --text"
        )
    last = bitext.take(shuffled_rows(len(bitext), seed)[len(bitext) - 2 * sentences :])
    return MonolingualText(last.english[:sentences], last.foreign[sentences:], tuple(bitext_keys(last)))


def text_from_files(guarded: GuardedBitext, sentences: int, seed: int) -> MonolingualText:
    """Return the sentences of one language, from its monolingual texts."""
    sides = []
    for texts in guarded.texts or ():
        if sentences > len(texts):
            raise HarnessError(
                f"--unpaired {sentences:,} requested, but a text for {guarded.bitext.lang} has {len(texts):,} sentences"
            )
        sides.append(tuple(texts[row] for row in shuffled_rows(len(texts), seed)[:sentences]))
    english, foreign = sides
    return MonolingualText(english, foreign, tuple(leakage_keys(english=english, foreign=foreign)))
