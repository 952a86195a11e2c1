"""The student's subwords: a byte-pair encoding of its language."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness.core.data import Spans

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")
START, END, UNKNOWN = "<start>", "<end>", "<unk>"


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Train a byte-pair encoding of at most `vocabulary` subwords (Sennrich et al. 2016).

    It converts texts to compatibility form and lower case, and frames them as `<start> ... <end>`.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    # Apostrophes belong to words: in Quechua, Guarani and other languages they are letters.
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
    """Read a tokenizer file."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> list[list[int]]:
    """Return the subword ids of each text, at most `longest`. A truncated text keeps its `<end>`."""
    return [truncate(encoding.ids, longest) for encoding in tokenizer.encode_batch(list(texts))]


def framing_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer adds before and after the tokens of every text."""
    framed, bare = tokenizer.encode("a").ids, tokenizer.encode("a", add_special_tokens=False).ids
    start = next(place for place in range(len(framed)) if framed[place : place + len(bare)] == bare)
    return framed[:start], framed[start + len(bare) :]


def set_framing(tokenizer: Tokenizer, front: list[int], back: list[int]) -> None:
    """Make a tokenizer add these ids before and after the tokens of every text."""
    from tokenizers import processors

    sides = {name: ids for name, ids in (("front", front), ("back", back)) if ids}
    pieces = [{"id": name, "ids": ids, "tokens": [tokenizer.id_to_token(each) for each in ids]} for name, ids in sides.items()]
    single = " ".join([*(["front"] if front else []), "$A", *(["back"] if back else [])])
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=pieces)


def english_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """Return a student's tokenizer for English text: with English's language mark in place of another one, else unchanged."""
    from tokenizers import Tokenizer

    front, back = framing_ids(tokenizer)
    known = tokenizer.get_vocab()
    marks = [known.get(english_mark(str(tokenizer.id_to_token(each))), each) for each in front]
    if marks == front:
        return tokenizer
    english = Tokenizer.from_str(tokenizer.to_str())
    set_framing(english, marks, back)
    return english


def english_mark(token: str) -> str:
    """Return English's language mark for another one, in the form of NLLB or M2M-100, and any other token unchanged.

    >>> english_mark("quy_Latn"), english_mark("__sw__"), english_mark("<s>")
    ('eng_Latn', '__en__', '<s>')
    """
    if re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", token):
        return "eng_Latn"
    return "__en__" if re.fullmatch("__[a-z]{2,3}__", token) else token


def subword_spans(tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> list[Spans]:
    """Return the character spans of the subwords of `tokenize`. Spans of framing tokens are empty."""
    return [tuple(truncate(encoding.offsets, longest)) for encoding in tokenizer.encode_batch(list(texts))]


def truncate(row: list[T], longest: int) -> list[T]:
    """Return the first `longest` - 1 entries of a row and its last, or the row if it is no longer.

    >>> truncate([0, 5, 6, 7, 1], 3)
    [0, 5, 1]
    """
    return row if len(row) <= longest else [*row[: longest - 1], row[-1]]
