"""A teacher's states on disk are the states that it returned, whatever their range."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.core.data import Floats, TokenStates
from harness.distill.model.teacher import as_half_precision, teacher_states
from harness.storage.store import Store

TEXTS = ("a dog", "two dogs run", "snow")


class Teacher:
    """A text encoder whose token states have lengths proportional to `length`."""

    def __init__(self, length: float) -> None:
        self.length = length

    def fingerprint(self) -> str:
        return f"states of length {self.length}"

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        return self.encode_tokens(texts, lang).pooled

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:
        lengths = np.array([len(text.split()) for text in texts])
        tokens = np.random.default_rng(0).normal(size=(lengths.sum(), 8)).astype(np.float32)
        return TokenStates(tokens * np.float32(self.length), lengths, tokens[: len(texts)])


@pytest.mark.parametrize("length", [1.0, 1e5, 1e30, 1e-6, 1e-30])
def test_token_states_keep_their_directions(length: float, tmp_path: Path) -> None:
    """float16 ends at 65,504 and has no normal number under 6e-5. States beyond these limits once became infinity or zero."""
    teacher = Teacher(length)
    states = teacher_states(teacher, TEXTS, Store(tmp_path), lambda _: None).batch([0, 1, 2], torch.device("cpu"))
    truth = torch.from_numpy(Teacher(1.0).encode_tokens(TEXTS, "en").tokens)
    kept = states.states[states.mask].double() / length
    torch.testing.assert_close(kept, truth.double(), atol=2e-3, rtol=2e-3)


def test_states_that_half_precision_holds_take_half_the_room(tmp_path: Path) -> None:
    assert teacher_states(Teacher(1.0), TEXTS, Store(tmp_path), lambda _: None).tokens.dtype == torch.float16
    zeros = np.zeros((1, 4), np.float32)
    assert as_half_precision(zeros).dtype == np.float16
