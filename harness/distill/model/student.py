"""The student before its first step."""

from __future__ import annotations

from tokenizers import Tokenizer

from harness.core.builtins import load_initializer
from harness.core.config import DistillConfig
from harness.core.data import Bitext
from harness.core.protocols import TextEncoder
from harness.distill.data.bitext import NO_TEXT, MonolingualText
from harness.distill.model.tower import TextTower


def student_tokenizer(config: DistillConfig, bitext: Bitext, text: MonolingualText = NO_TEXT) -> Tokenizer:
    """Return the student's tokenizer, as the initializer `config.init` makes it."""
    return load_initializer(config.init).tokenizer(config, bitext, text)


def new_student(
    teacher: TextEncoder, tokenizer: Tokenizer, config: DistillConfig, bitext: Bitext, text: MonolingualText = NO_TEXT
) -> TextTower:
    """Return the untrained student, as the initializer `config.init` makes it from the pairs that it will be trained on.

    Raises HarnessError if the initializer needs the teacher's layers and the teacher cannot lend them. With `config.spelling`
    the teacher must be a `TokenLocator`, which `Recipe` checks.
    """
    return load_initializer(config.init).student(teacher, tokenizer, config, bitext, text)
