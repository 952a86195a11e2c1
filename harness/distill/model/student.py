"""The student before its first step."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from tokenizers import Tokenizer

from harness.core.builtins import starting_model
from harness.core.config import DistillConfig
from harness.core.data import Bitext
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH
from harness.core.protocols import TextEncoder, TokenLocator
from harness.distill.data.bitext import NO_TEXT, Unpaired
from harness.distill.data.subwords import END, START, locate, tokenize, train_tokenizer
from harness.distill.initializers.alignment import Alignment, alignment, embed
from harness.distill.initializers.distributional import DistributionalContext
from harness.distill.initializers.orthography import spelled
from harness.distill.model.tower import DonatedLayers, LayerDonor, TextTower, TowerConfig

SIZES = {"tiny": (2, 128), "small": (6, 384), "base": (12, 512)}
"""Blocks and width of each preset; every head is 64 wide and the feed-forward part four times the width, as in CLIP."""

POSITIONS = 77


def student_tokenizer(config: DistillConfig, bitext: Bitext, text: Unpaired = NO_TEXT) -> Tokenizer:
    """The student's subwords: those of the model that it starts from, else a byte-pair encoding learned from its language."""
    model = starting_model(config.init)
    return model.tokenizer() if model else train_tokenizer([*bitext.foreign, *text.foreign], config.vocabulary)


def new_student(
    teacher: TextEncoder, tokenizer: Tokenizer, config: DistillConfig, bitext: Bitext, text: Unpaired = NO_TEXT
) -> TextTower:
    """A tower over the student's own subwords, decided by `config.seed`, the bitext that it is going to be trained on, and text.

    `init="teacher"` keeps the teacher's layers and draws new token embeddings from a normal distribution of the mean and
    the spread of the teacher's; `ot-contexts`, `ot-sentences`, `ot-vocabulary`, `association` and `ibm1` keep them too and make
    each embedding of the teacher's English ones (`harness.distill.initializers.alignment`), drawing it only where a subword goes
    with none.
    `scratch` draws everything: in the shape of `config.size`, else in the teacher's, else, where it lends no layers, in that of
    `small`. `hf:NAME-or-FOLDER` keeps that model's layers and subwords, and draws the projection into the teacher's joint space.

    Raises HarnessError if the teacher cannot lend its layers, for an init that needs them. With `config.spelling` it must be a
    `TokenLocator`, which a `Recipe` sees to.
    """
    generator = torch.Generator().manual_seed(config.seed)
    own = {"vocab_size": tokenizer.get_vocab_size(), "pooling": config.pooling}
    if model := starting_model(config.init):
        return take_model(model.donate_layers(), joint_dim(teacher), config, generator)
    if config.init == "scratch":
        student = TextTower(shape_for(teacher, config).model_copy(update=own))
        draw_weights(student, generator)
        return student
    donated = layers_of(teacher)
    student = TextTower(donated.config.model_copy(update=own))
    take_layers(student, donated, tokenizer, generator)
    if config.init != "teacher":
        align_vocabulary(student, teacher, donated, tokenizer, bitext, text, config)
    return student


@torch.no_grad()
def take_model(lent: DonatedLayers, dim: int, config: DistillConfig, generator: torch.Generator) -> TextTower:
    """A tower of another model's layers and subwords, its projection (dim, width) drawn with spread 1 / sqrt(width)."""
    student = TextTower(lent.config.model_copy(update={"pooling": config.pooling, "joint_dim": dim}))
    drawn = torch.randn(dim, lent.config.width, generator=generator) * lent.config.width**-0.5
    student.load_state_dict(student.state_dict() | lent.weights | {"projection.weight": drawn}, strict=True)
    return student


def joint_dim(teacher: TextEncoder) -> int:
    """Width d of the teacher's joint space."""
    return int(teacher.encode_texts(["a"], "en").shape[1])


def layers_of(teacher: TextEncoder) -> DonatedLayers:
    """The teacher's layers. Raises HarnessError if it lends none."""
    if not isinstance(teacher, LayerDonor):
        raise HarnessError("this text tower lends no layers (donate_layers): start the student with --init scratch")
    return teacher.donate_layers()


def shape_for(teacher: TextEncoder, config: DistillConfig) -> TowerConfig:
    """The shape of a student from scratch, its vocabulary aside."""
    try:
        lent = layers_of(teacher).config
    except HarnessError:
        # Also of a teacher that cannot be loaded at all, which then says so when it is asked to encode.
        lent = None
    if lent is not None and config.size is None:
        return lent
    layers, width = SIZES[config.size or "small"]
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
    """Random weights: normal with spread 0.02, and 1 / sqrt(fan in) for matrices (as CLIP starts its text tower)."""
    for name, parameter in student.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        else:
            spread = 0.02 if "embedding" in name else parameter.shape[1] ** -0.5
            parameter.normal_(std=spread, generator=generator)


@torch.no_grad()
def take_layers(student: TextTower, donated: DonatedLayers, tokenizer: Tokenizer, generator: torch.Generator) -> None:
    """The teacher's layers under new subwords. The framing tokens keep the embeddings that the layers know them by."""
    known = donated.weights["token_embedding.weight"]
    embedding = known.mean(0) + torch.randn(student.token_embedding.weight.shape, generator=generator) * known.std(0)
    for name, row in ((START, donated.start), (END, donated.end)):
        if row is not None:
            embedding[tokenizer.token_to_id(name)] = known[row]
    # What the teacher has no counterpart of (the query of attention pooling) stays as the tower makes it.
    student.load_state_dict(student.state_dict() | donated.weights | {"token_embedding.weight": embedding}, strict=True)


@torch.no_grad()
def align_vocabulary(
    student: TextTower,
    teacher: TextEncoder,
    donated: DonatedLayers,
    tokenizer: Tokenizer,
    bitext: Bitext,
    text: Unpaired,
    config: DistillConfig,
) -> None:
    """Make the embeddings of the subwords that go with English tokens of those tokens' embeddings."""
    known = donated.weights["token_embedding.weight"].double().numpy()
    sizes, longest = (student.config.vocab_size, len(known)), student.config.max_length
    foreign, english = tokenize(tokenizer, bitext.foreign, longest), donated.tokenize(bitext.english)
    company, spelling = None, None
    if config.init == "ot-contexts":
        more = tokenize(tokenizer, text.foreign, longest), donated.tokenize(text.english)
        company = DistributionalContext([*foreign, *more[0]], [*english, *more[1]], sizes)
    if config.spelling:
        spans = locate(tokenizer, bitext.foreign, longest), cast(TokenLocator, teacher).locate_tokens(bitext.english, ENGLISH)
        spelling = spelled(bitext, (foreign, english), spans, config.spelling)
    weights = alignment(foreign, english, sizes, cast(Alignment, config.init), company, spelling)
    rows = np.flatnonzero(np.diff(weights.indptr))
    student.token_embedding.weight[torch.from_numpy(rows)] = torch.from_numpy(embed(weights[rows], known)).float()
