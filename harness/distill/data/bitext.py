"""Bitext for distillation: nested subsets, monolingual text, and the pairs of several languages joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.data import Bitext
from harness.core.errors import HarnessError


def subset(bitext: Bitext, pairs: int | None, seed: int) -> Bitext:
    """Return the first `pairs` of a shuffle that the seed decides, so that larger subsets contain smaller ones.

    Raises HarnessError if there are fewer pairs.
    """
    if pairs is not None and pairs > len(bitext):
        raise HarnessError(f"--pairs {pairs:,} requested, but {bitext.source} has {len(bitext):,} usable pairs in {bitext.lang}")
    return bitext.take(shuffled_rows(len(bitext), seed)[:pairs])


def shuffled_rows(rows: int, seed: int) -> list[int]:
    """Return the numbers below `rows`, in an order that the seed and their number decide."""
    order: list[int] = np.random.default_rng([seed, 1]).permutation(rows).tolist()
    return order


def without_translations(bitext: Bitext) -> Bitext:
    """Return a bitext with empty translations, for training that reads English alone."""
    return replace(bitext, kind="English alone", foreign=("",) * len(bitext), foreign_entities=())


@dataclass(frozen=True)
class MonolingualText:
    """Sentences of two languages that are not translations of each other. marks: leakage keys of the pairs they come from."""

    english: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


NO_TEXT = MonolingualText()


def join_bitexts(parts: Sequence[Bitext], held_out: int) -> Bitext:
    """Join the pairs of the languages that share a tower, with `held_out` pairs, an equal share of each, at the end.

    Raises HarnessError if fewer than two pairs remain to train on.
    """
    whole = Bitext(
        lang=",".join(part.lang for part in parts),
        source=" + ".join(dict.fromkeys(part.source for part in parts)),
        kind=" + ".join(dict.fromkeys(part.kind for part in parts)),
        english=sum((part.english for part in parts), ()),
        foreign=sum((part.foreign for part in parts), ()),
        image_ids=sum((part.image_ids for part in parts), ()),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        places=sum((part.places for part in parts), ()),
        english_entities=sum((part.english_entities for part in parts), ()),
        foreign_entities=sum((part.foreign_entities for part in parts), ()),
    )
    if len(whole) - held_out < 2:
        why = f" ({'; '.join(whole.notes)})" if whole.notes else ""
        raise HarnessError(f"--held-out {held_out:,} of the {len(whole):,} remaining pairs{why} leaves nothing to train on")
    shares = np.diff(np.linspace(0, held_out, len(parts) + 1).astype(int))
    ends = np.cumsum([len(part) for part in parts])
    last = [row for end, share in zip(ends.tolist(), shares.tolist(), strict=True) for row in range(end - share, end)]
    rest = sorted(set(range(len(whole))) - set(last))
    return whole.take(rest + last)
