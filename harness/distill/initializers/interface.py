"""What an initializer is, and the part that built-in ones share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from harness.core.errors import HarnessError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from harness.core.config import DistillConfig
    from harness.core.data import Bitext
    from harness.core.protocols import TextEncoder
    from harness.distill.data.bitext import MonolingualText
    from harness.distill.model.tower import TextTower


class Initializer(Protocol):
    """The student before its first step: its subwords and its weights.

    `INITIALIZERS` maps names to functions `make(argument) -> Initializer`. A plug-in declares the fields of `DistillConfig` that
    it reads by the attribute `reads` of that function or class. Without the attribute it counts as reading all of them.

    bitext holds the pairs that the student is trained on, text the monolingual sentences of `DistillConfig.unpaired`.
    """

    def fingerprint(self) -> str:
        """Digest of everything besides options, teacher and sentences that decides the student. Loads no model."""
        ...

    def tokenizer(self, config: DistillConfig, bitext: Bitext, text: MonolingualText) -> Tokenizer:
        """Return the student's tokenizer, which frames every text with special tokens."""
        ...

    def student(
        self, teacher: TextEncoder, tokenizer: Tokenizer, config: DistillConfig, bitext: Bitext, text: MonolingualText
    ) -> TextTower:
        """Return the untrained student, whose embeddings have the width of the teacher's joint space."""
        ...


class LearnedSubwords:
    """A built-in initializer whose tokenizer is a byte-pair encoding, learned from the sentences of the student's language."""

    def __init__(self, argument: str = "") -> None:
        if argument:
            raise HarnessError(f"this initializer takes no argument: leave ':{argument}' out of --init")

    def fingerprint(self) -> str:
        """Return an empty text: options, teacher and sentences decide the student."""
        return ""

    def tokenizer(self, config: DistillConfig, bitext: Bitext, text: MonolingualText) -> Tokenizer:
        """Learn at most `config.vocabulary` subwords."""
        from harness.distill.data.subwords import train_tokenizer

        return train_tokenizer([*bitext.foreign, *text.foreign], config.vocabulary)
