"""The student's subwords: a byte-pair encoding of its language."""

from __future__ import annotations

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


def subword_spans(tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> list[Spans]:
    """Return the character spans of the subwords of `tokenize`. Spans of framing tokens are empty."""
    return [tuple(truncate(encoding.offsets, longest)) for encoding in tokenizer.encode_batch(list(texts))]


def truncate(row: list[T], longest: int) -> list[T]:
    """Return the first `longest` - 1 entries of a row and its last, or the row if it is no longer.

    >>> truncate([0, 5, 6, 7, 1], 3)
    [0, 5, 1]
    """
    return row if len(row) <= longest else [*row[: longest - 1], row[-1]]
