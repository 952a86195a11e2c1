"""The initializer `teacher`: the teacher's layers under random subword embeddings."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer

from harness.core.config import DistillConfig
from harness.core.data import Bitext
from harness.core.errors import HarnessError
from harness.core.protocols import TextEncoder
from harness.distill.data.bitext import MonolingualText
from harness.distill.data.subwords import END, START
from harness.distill.initializers.interface import LearnedSubwords
from harness.distill.model.tower import DonatedLayers, LayerDonor, TextTower


class TeacherLayers(LearnedSubwords):
    """The teacher's layers under random subword embeddings."""

    def student(
        self, teacher: TextEncoder, tokenizer: Tokenizer, config: DistillConfig, _: Bitext, __: MonolingualText
    ) -> TextTower:
        """Return the student. Raises HarnessError if the teacher cannot lend its layers."""
        return student_of_layers(layers_of(teacher), tokenizer, config)


def layers_of(teacher: TextEncoder) -> DonatedLayers:
    """Return the teacher's layers. Raises HarnessError if it cannot lend them."""
    if not isinstance(teacher, LayerDonor):
        raise HarnessError("this text tower lends no layers (donate_layers): start the student with --init scratch")
    return teacher.donate_layers()


@torch.no_grad()
def student_of_layers(donated: DonatedLayers, tokenizer: Tokenizer, config: DistillConfig) -> TextTower:
    """Return a student with the donated layers and new token embeddings.

    Embeddings are drawn from a normal distribution with the mean and the standard deviation of the donated ones. The framing
    tokens keep the embeddings that the layers know them by.
    """
    own = {"vocab_size": tokenizer.get_vocab_size(), "pooling": config.pooling}
    student = TextTower(donated.config.model_copy(update=own))
    generator = torch.Generator().manual_seed(config.seed)
    known = donated.weights["token_embedding.weight"]
    embedding = known.mean(0) + torch.randn(student.token_embedding.weight.shape, generator=generator) * known.std(0)
    for name, row in ((START, donated.start), (END, donated.end)):
        if row is not None:
            embedding[tokenizer.token_to_id(name)] = known[row]
    # Parameters that the teacher does not have (the query of attention pooling) keep their initial value.
    student.load_state_dict(student.state_dict() | donated.weights | {"token_embedding.weight": embedding}, strict=True)
    return student
