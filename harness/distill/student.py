"""The student before its first step."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer

from harness.api import HarnessError, TextEncoder
from harness.config import DistillConfig
from harness.distill.bitext import END, START
from harness.distill.tower import DonatedLayers, LayerDonor, TextTower


def new_student(teacher: TextEncoder, tokenizer: Tokenizer, config: DistillConfig) -> TextTower:
    """A tower of the teacher's shape over the student's own subwords, decided by `config.seed`.

    `init="teacher"` keeps the teacher's layers and draws new token embeddings from a normal distribution of the mean and
    the spread of the teacher's; `scratch` draws everything. Raises HarnessError if the teacher cannot lend its layers.
    """
    if not isinstance(teacher, LayerDonor):
        raise HarnessError("this text tower lends no layers (donate_layers), so no student can take its shape")
    donated = teacher.donate_layers()
    student = TextTower(donated.config.model_copy(update={"vocab_size": tokenizer.get_vocab_size()}))
    generator = torch.Generator().manual_seed(config.seed)
    if config.init == "scratch":
        draw_weights(student, generator)
    else:
        take_layers(student, donated, tokenizer, generator)
    return student


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
    weights = dict(donated.weights)
    known = weights.pop("token_embedding.weight")
    student.load_state_dict(weights | {"token_embedding.weight": student.token_embedding.weight}, strict=True)
    drawn = torch.randn(student.token_embedding.weight.shape, generator=generator)
    student.token_embedding.weight.copy_(known.mean(0) + drawn * known.std(0))
    for name, row in ((START, donated.start), (END, donated.end)):
        if row is not None:
            student.token_embedding.weight[tokenizer.token_to_id(name)] = known[row]
