"""Sentence pairs made ready for distillation: the leakage guard, nested subsets, and the student's subwords."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from harness.api import Bitext, HarnessError, HeldOut, Spans

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")

START, END, UNKNOWN = "<start>", "<end>", "<unk>"


def normalise(text: str) -> str:
    """A sentence without what its writing may differ in: compatibility form, lower case, letters, their marks, and digits only.

    >>> normalise("Two dogs ,  running .") == normalise("two dogs, running")
    True
    """
    return str(_between_words().sub(" ", unicodedata.normalize("NFKC", text).lower()).strip())


@cache
def _between_words() -> re.Pattern[str]:
    """What stands between words. A vowel sign does not: without them, a Hindi boy and a Hindi girl are one."""
    import regex

    between: re.Pattern[str] = regex.compile(r"[^\w\p{M}]+")
    return between


def compared(text: str) -> str:
    """A sentence as the guard compares it: normalised, and without spaces, which tokenizers and segmenters set as they like.

    >>> compared("A T-shirt does n't fit .") == compared("a tshirt doesn't fit")
    True
    """
    return normalise(text).replace(" ", "")


@dataclass(frozen=True)
class Guarded:
    """Bitext that holds nothing of the evaluation images, and how many pairs were dropped for that.

    texts: sentences of English and of its language without translations; None where they are to be taken from the bitext.
    """

    bitext: Bitext
    offered: int
    dropped: int
    texts: tuple[tuple[str, ...], tuple[str, ...]] | None = None


def guard(bitext: Bitext, held_out: HeldOut, refuse: bool = False) -> Guarded:
    """Drop the pairs of evaluation images: those with the image, its English caption, or its caption in the language.

    The sentences are compared whether or not a pair has an image, so that an id that says nothing hides nothing. A pair counts
    under the first of the three that fits it; a note says how many each is if a sentence ever decides.
    Raises HarnessError if `refuse` is set and there is any, or if nothing is left.
    """
    english, foreign = _all_compared(held_out.english), _all_compared(held_out.foreign)
    by_image, by_english, by_foreign = reasons = ("image id", "English sentence", f"{bitext.lang} sentence")
    keep, dropped = [], Counter[str]()
    for row, (image, *sentences) in enumerate(zip(bitext.image_ids, bitext.english, bitext.foreign, strict=True)):
        if image in held_out.image_ids:
            dropped[by_image] += 1
        elif compared(sentences[0]) in english:
            dropped[by_english] += 1
        elif compared(sentences[1]) in foreign:
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
    return Guarded(kept, len(bitext), dropped.total())


def guarded_texts(english: Sequence[str], foreign: Sequence[str], held_out: HeldOut) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts without the sentences that are captions of evaluation images, in English and in the other language."""
    sides = (english, _all_compared(held_out.english)), (foreign, _all_compared(held_out.foreign))
    left, right = (tuple(text for text in texts if compared(text) not in captions) for texts, captions in sides)
    return left, right


def _all_compared(captions: Iterable[str]) -> set[str]:
    """Captions as the guard compares sentences. One without a letter is no sentence that a pair could have from it."""
    return {compared(text) for text in captions} - {""}


def seen(bitext: Bitext, text: Unpaired) -> npt.NDArray[np.uint64]:
    """What a tower that was made of these has seen: sorted hashes of the image ids and of the sentences of both sides.

    Kept beside the tower, so that whoever measures it can tell without the pairs whether it saw what it is measured on.
    """
    return hashes([*marks_of(bitext), *text.marks])


def leaked(seen: npt.NDArray[np.uint64], held_out: HeldOut) -> int:
    """How many evaluation images and sentences are among what a tower has seen.

    Towers made before foreign sentences were compared have the normalised English, as `sentence`, of pairs without an image id.

    >>> held_out = HeldOut(frozenset({"7", "8"}), frozenset({"A dog ."}), frozenset({"Ein Hund ."}))
    >>> leaked(hashes(["image 7", "image 9", "sentence a dog", "foreign einhund"]), held_out)
    3
    """
    former = [f"sentence {normalise(text)}" for text in held_out.english if normalise(text)]
    return int(np.isin(hashes([*marks(held_out.image_ids, held_out.english, held_out.foreign), *former]), seen).sum())


def marks(images: Iterable[str] = (), english: Iterable[str] = (), foreign: Iterable[str] = ()) -> list[str]:
    """What the leakage guard knows images and sentences by; nothing for no image, or for a sentence without a letter."""
    kinds = {"image": images, "english": map(compared, english), "foreign": map(compared, foreign)}
    return [f"{kind} {value}" for kind, values in kinds.items() for value in values if value]


def marks_of(bitext: Bitext) -> list[str]:
    """Those of all pairs: of images, and of both sides' sentences."""
    return marks(bitext.image_ids, bitext.english, bitext.foreign)


def hashes(marks: Iterable[str]) -> npt.NDArray[np.uint64]:
    """The first 64 bits of each mark's SHA-256, sorted, each once."""
    return np.unique(np.array([int.from_bytes(hashlib.sha256(m.encode()).digest()[:8], "big") for m in marks], dtype=np.uint64))


def subset(bitext: Bitext, pairs: int | None, seed: int) -> Bitext:
    """The first `pairs` of a shuffle that depends on the seed alone, so that smaller subsets lie inside larger ones.

    Raises HarnessError if there are fewer pairs than asked for.
    """
    if pairs is not None and pairs > len(bitext):
        raise HarnessError(f"--pairs {pairs:,} asked for, but {bitext.source} has {len(bitext):,} usable pairs in {bitext.lang}")
    return bitext.take(shuffled(len(bitext), seed)[:pairs])


def shuffled(rows: int, seed: int) -> list[int]:
    """So many rows, in an order that the seed and their number decide."""
    order: list[int] = np.random.default_rng([seed, 1]).permutation(rows).tolist()
    return order


@dataclass(frozen=True)
class Unpaired:
    """Sentences of two languages of which none translates another. marks: what the leakage guard knows their pairs by."""

    english: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


NO_TEXT = Unpaired()


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


def joined(parts: Sequence[Bitext], held_out: int) -> Bitext:
    """The pairs of one language, or of several that share a tower, with `held_out` of them, as many of each, at the end.

    Raises HarnessError if that leaves fewer than two pairs to train on.
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
        raise HarnessError(f"--held-out {held_out:,} of the {len(whole):,} pairs that are left{why} leaves nothing to train on")
    shares = np.diff(np.linspace(0, held_out, len(parts) + 1).astype(int))
    ends = np.cumsum([len(part) for part in parts])
    last = [row for end, share in zip(ends.tolist(), shares.tolist(), strict=True) for row in range(end - share, end)]
    rest = sorted(set(range(len(whole))) - set(last))
    return whole.take(rest + last)


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A byte-pair encoder of at most `vocabulary` subwords, trained on the student's language (Sennrich et al. 2016).

    Texts are lower-cased in compatibility form and framed as `<start> ... <end>`.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    # An apostrophe stays inside its word: in Quechua, Guarani and others it is a letter.
    punctuation = pre_tokenizers.Split(Regex(r"[^\w\s'’ʼ▁]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), punctuation])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=[UNKNOWN, START, END], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(name, tokenizer.token_to_id(name)) for name in (START, END)]
    )
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer that `train_tokenizer` made."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> list[list[int]]:
    """Subword ids of each text, at most `longest` of them; a text that is cut keeps its `<end>`."""
    return [cut(encoding.ids, longest) for encoding in tokenizer.encode_batch(list(texts))]


def locate(tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> list[Spans]:
    """Where in its text each of the subwords stands that `tokenize` gives; the framing stands nowhere."""
    return [tuple(cut(encoding.offsets, longest)) for encoding in tokenizer.encode_batch(list(texts))]


def cut(row: list[T], longest: int) -> list[T]:
    """A row without what stands before its last and is too much.

    >>> cut([0, 5, 6, 7, 1], 3)
    [0, 5, 1]
    """
    return row if len(row) <= longest else [*row[: longest - 1], row[-1]]
