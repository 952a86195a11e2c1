"""The initializer `scratch`: random weights throughout."""

from __future__ import annotations

import torch

from harness.core.config import DistillConfig
from harness.core.data import Bitext
from harness.core.errors import HarnessError
from harness.core.protocols import TextEncoder
from harness.distill.data.bitext import MonolingualText
from harness.distill.initializers.interface import BuiltinInitializer, Student, layers_of
from harness.distill.initializers.vocabularies import learn_subwords
from harness.distill.model.tower import TextTower, TowerConfig, joint_dim

SHAPES = {"tiny": (2, 128), "small": (6, 384), "base": (12, 512)}
"""Blocks and width of each preset; every head is 64 wide and the feed-forward part four times the width, as in CLIP."""

POSITIONS = 77


class Scratch(BuiltinInitializer):
    """Random weights throughout, with subwords learned from the student's language.

    The shape is that of `config.size`. Without a size it is the teacher's, or `small` where the teacher lends no layers.
    """

    def student(self, teacher: TextEncoder, config: DistillConfig, bitext: Bitext, text: MonolingualText) -> Student:
        """Return the student."""
        tokenizer = learn_subwords(config, bitext, text)
        own = {"vocab_size": tokenizer.get_vocab_size(), "pooling": config.pooling}
        tower = TextTower(shape_for(teacher, config).model_copy(update=own))
        draw_weights(tower, torch.Generator().manual_seed(config.seed))
        return Student(tower, tokenizer)


def shape_for(teacher: TextEncoder, config: DistillConfig) -> TowerConfig:
    """Return the shape of a student from scratch; its vocabulary size is a placeholder."""
    try:
        lent = layers_of(teacher).config
    except HarnessError:
        # A teacher that cannot be loaded at all says so when it is asked to encode.
        lent = None
    if lent is not None and config.size is None:
        return lent
    layers, width = SHAPES[config.size or "small"]
    return TowerConfig(
        vocab_size=1,
        width=width,
        layers=layers,
        heads=width // 64,
        mlp_width=4 * width,
        joint_dim=joint_dim(teacher) if lent is None else lent.joint_dim,
        max_length=POSITIONS,
    )


@torch.no_grad()
def draw_weights(student: TextTower, generator: torch.Generator) -> None:
    """Draw embeddings with standard deviation 0.02 and matrices with 1 / sqrt(fan in), as CLIP initializes its text tower."""
    for name, parameter in student.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        else:
            deviation = 0.02 if "embedding" in name else parameter.shape[1] ** -0.5
            parameter.normal_(std=deviation, generator=generator)
