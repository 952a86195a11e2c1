"""The student before its first step."""

from __future__ import annotations

from harness.core.builtins import load_initializer
from harness.core.config import DistillConfig
from harness.core.data import Bitext
from harness.core.protocols import TextEncoder
from harness.distill.data.bitext import NO_TEXT, MonolingualText
from harness.distill.initializers.interface import Student


def new_student(teacher: TextEncoder, config: DistillConfig, bitext: Bitext, text: MonolingualText = NO_TEXT) -> Student:
    """Return the untrained student, as the initializer `config.init` makes it from the pairs that it will be trained on.

    Raises HarnessError if the initializer needs the teacher's layers and the teacher cannot lend them. With `config.spelling`
    the teacher must be a `TokenLocator`, which `Recipe` checks.
    """
    return load_initializer(config.init).student(teacher, config, bitext, text)
