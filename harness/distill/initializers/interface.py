"""What an initializer is, and the part that built-in ones share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from harness.core.errors import HarnessError
from harness.core.protocols import LayerDonor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from harness.core.config import DistillConfig
    from harness.core.data import Bitext
    from harness.core.protocols import TextEncoder
    from harness.distill.data.bitext import MonolingualText
    from harness.distill.model.tower import DonatedLayers, TextTower


class Student(NamedTuple):
    """A text tower, and the tokenizer that turns texts into its ids and frames them with special tokens."""

    tower: TextTower
    tokenizer: Tokenizer


class Initializer(Protocol):
    """The student before its first step: its subwords and its weights.

    `INITIALIZERS` maps names to functions `make(argument) -> Initializer`. A plug-in declares the fields of `DistillConfig` that
    it reads by the attribute `reads` of that function or class. Without the attribute it counts as reading all of them.
    """

    def fingerprint(self) -> str:
        """Digest of everything besides options, teacher and sentences that decides the student. Loads no model."""
        ...

    def student(self, teacher: TextEncoder, config: DistillConfig, bitext: Bitext, text: MonolingualText) -> Student:
        """Return the untrained student, whose embeddings have the width of the teacher's joint space.

        bitext: the pairs that the student is trained on. text: the monolingual sentences of `DistillConfig.unpaired`.
        """
        ...


class BuiltinInitializer:
    """An initializer without an argument, whose student is decided by options, teacher and sentences alone."""

    def __init__(self, argument: str = "") -> None:
        if argument:
            raise HarnessError(f"this initializer takes no argument: leave ':{argument}' out of --init")

    def fingerprint(self) -> str:
        """Return an empty text."""
        return ""


def layers_of(teacher: TextEncoder) -> DonatedLayers:
    """Return the teacher's layers. Raises HarnessError if it cannot lend them."""
    if not isinstance(teacher, LayerDonor):
        raise HarnessError("this text tower lends no layers (donate_layers): start the student with --init scratch")
    return teacher.donate_layers()
