"""A small student and its training."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from harness.core.config import DistillConfig
from harness.core.data import Bitext, Floats
from harness.distill.checkpoint import TrainingState
from harness.distill.data.subwords import tokenize, train_tokenizer
from harness.distill.entity_marks import EntityMarks
from harness.distill.model.student import new_student
from harness.distill.model.teacher import TeacherStates
from harness.distill.model.tower import DonatedLayers, TextTower, TowerConfig
from harness.distill.trainer import EnglishSide, train

SHAPE = TowerConfig(vocab_size=40, width=16, layers=2, heads=2, mlp_width=32, joint_dim=8, max_length=12)


WORDS = ["ein", "hund", "läuft", "im", "schnee", "die", "frau", "spielt", "gitarre", "rot"]


def pairs(count: int, ids: bool = True) -> Bitext:
    rng = np.random.default_rng(0)
    foreign = tuple(" ".join(rng.choice(WORDS, size=rng.integers(2, 7))) for _ in range(count))
    english = tuple(f"Sentence number {i} ." for i in range(count))
    return Bitext("de", "test", "human translation", english, foreign, tuple(f"img{i}" if ids else "" for i in range(count)))


class Teacher:
    """A text encoder that donates random layers."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.tower = TextTower(SHAPE)

    def fingerprint(self) -> str:
        return "teacher"

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        raise NotImplementedError

    def donate_layers(self) -> DonatedLayers:
        weights = {name: value.clone() for name, value in self.tower.state_dict().items()}
        return DonatedLayers(SHAPE, weights, 38, 39, lambda texts: [[38, 39] for _ in texts], word_tokenizer())


def word_tokenizer() -> Tokenizer:
    """Return the tokenizer of `Teacher`: one id for each word of WORDS, framed by 38 and 39."""
    ids = {word: id_ for id_, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids | {"<start>": 38, "<end>": 39}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    framing = [("<start>", 38), ("<end>", 39)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=framing)
    return tokenizer


class Training:
    """A small training that can run to its end or be interrupted."""

    def __init__(self, objective: str = "ot-token", **choices: object) -> None:
        self.bitext = pairs(40)
        self.config = DistillConfig(**{"objective": objective, "steps": 12, "batch": 8, "vocabulary": 200} | choices)  # type: ignore[arg-type]
        english = self.bitext.english if self.config.english_side else ()
        self.tokenizer = train_tokenizer([*self.bitext.foreign, *english], self.config.vocabulary)
        self.texts = tokenize(self.tokenizer, self.bitext.foreign, SHAPE.max_length)
        self.english = EnglishSide(tokenize(self.tokenizer, english, SHAPE.max_length)) if english else None
        rng = np.random.default_rng(0)
        lengths = rng.integers(2, 9, len(self.bitext))
        self.teacher = TeacherStates(
            torch.from_numpy(rng.normal(size=(lengths.sum(), 8)).astype(np.float16)),
            np.cumsum(lengths) - lengths,
            lengths,
            torch.from_numpy(rng.normal(size=(len(lengths), 8)).astype(np.float32)),
        )
        self.marks: EntityMarks | None = None

    def student(self) -> TextTower:
        return new_student(Teacher(), self.config, self.bitext).tower

    def run(self, tower: TextTower, checkpoint: Path, interrupt_at: int | None = None) -> list[float]:
        return self.state(tower, checkpoint, interrupt_at).losses

    def state(self, tower: TextTower, checkpoint: Path, interrupt_at: int | None = None) -> TrainingState:
        def report(step: int, _: object) -> None:
            if step == interrupt_at:
                signal.raise_signal(signal.SIGINT)

        places, english = self.bitext.places, self.english
        return train(tower, self.texts, self.teacher, self.config, places, checkpoint, report, self.marks, english=english)
