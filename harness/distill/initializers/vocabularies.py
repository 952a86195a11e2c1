"""The vocabulary of a student with the teacher's layers: subwords learned from its language, or the teacher's own tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from harness.core.config import DistillConfig
from harness.core.data import Bitext, Doubles
from harness.core.errors import HarnessError
from harness.distill.data.bitext import MonolingualText
from harness.distill.data.pieces import with_new_pieces
from harness.distill.data.subwords import END, START, train_tokenizer
from harness.distill.model.tower import DonatedLayers, TextTower


class Vocabulary(ABC):
    """The subwords of a student with the teacher's layers, and their embeddings before any alignment."""

    @abstractmethod
    def build(
        self, donated: DonatedLayers, config: DistillConfig, bitext: Bitext, text: MonolingualText
    ) -> tuple[Tokenizer, Tensor]:
        """Return the student's tokenizer, and the embedding (f, width) of each subword before any alignment."""

    @abstractmethod
    def shares(self, donated: DonatedLayers, rows: int, config: DistillConfig) -> Doubles:
        """Return the share (rows,) that the aligned mean has in a subword's embedding. The rest is the one before."""


def tower_with_embeddings(donated: DonatedLayers, embeddings: Tensor, config: DistillConfig) -> TextTower:
    """Return a student with the donated layers and embeddings (f, width).

    Parameters that the teacher does not have (the query of attention pooling) keep their initial value.
    """
    tower = TextTower(donated.config.model_copy(update={"vocab_size": len(embeddings), "pooling": config.pooling}))
    weights = donated.weights | {"token_embedding.weight": embeddings}
    tower.load_state_dict(tower.state_dict() | weights, strict=True)
    return tower


class NewSubwords(Vocabulary):
    """At most `config.vocabulary` subwords learned from the student's language, with random embeddings.

    Embeddings are drawn from a normal distribution: with the mean and the standard deviation of the donated ones, or, with
    `standard`, with the mean 0 and the variance 1 / width. The framing tokens keep the embeddings that the layers know them by.
    """

    def __init__(self, standard: bool = False) -> None:
        self.standard = standard

    def build(
        self, donated: DonatedLayers, config: DistillConfig, bitext: Bitext, text: MonolingualText
    ) -> tuple[Tokenizer, Tensor]:
        """Return the byte-pair encoding and its embeddings."""
        tokenizer = learn_subwords(config, bitext, text)
        known = donated.weights["token_embedding.weight"]
        generator = torch.Generator().manual_seed(config.seed)
        drawn = torch.randn((tokenizer.get_vocab_size(), known.shape[1]), generator=generator)
        embeddings = drawn * known.shape[1] ** -0.5 if self.standard else known.mean(0) + drawn * known.std(0)
        for name, row in ((START, donated.start), (END, donated.end)):
            if row is not None:
                embeddings[tokenizer.token_to_id(name)] = known[row]
        return tokenizer, embeddings

    def shares(self, _: DonatedLayers, rows: int, __: DistillConfig) -> Doubles:
        """Return ones: a random embedding is replaced."""
        return np.ones(rows)


class TeacherTokens(Vocabulary):
    """The teacher's tokenizer and embeddings, and optionally new pieces.

    adds_pieces: whether words that the teacher's tokenizer splits into single characters get pieces of their own, at most
    `config.vocabulary` of them (`harness.distill.data.pieces`). Before alignment, their
    embeddings are means of those of the pieces that they replace.
    """

    def __init__(self, adds_pieces: bool) -> None:
        self.adds_pieces = adds_pieces

    def build(
        self, donated: DonatedLayers, config: DistillConfig, bitext: Bitext, text: MonolingualText
    ) -> tuple[Tokenizer, Tensor]:
        """Return the teacher's tokenizer and embeddings, followed by those of new pieces.

        Raises HarnessError if the teacher's tokenizer has no form of the `tokenizers` library.
        """
        if donated.tokenizer is None:
            raise HarnessError("this teacher's tokenizer cannot be kept (it has no tokenizer.json): use --init random")
        tokenizer, known = Tokenizer.from_str(donated.tokenizer.to_str()), donated.weights["token_embedding.weight"]
        if not self.adds_pieces:
            return tokenizer, known
        extended = with_new_pieces(tokenizer, [*bitext.foreign, *text.foreign], config.vocabulary, len(known))
        new = [known[ids].mean(0, keepdim=True) for ids in extended.parts]
        return extended.tokenizer, torch.cat([known, *new])

    def shares(self, donated: DonatedLayers, rows: int, config: DistillConfig) -> Doubles:
        """Return `config.share` for the teacher's tokens, and 1 for new pieces."""
        return np.where(np.arange(rows) < len(donated.weights["token_embedding.weight"]), config.share, 1.0)


def learn_subwords(config: DistillConfig, bitext: Bitext, text: MonolingualText) -> Tokenizer:
    """Learn at most `config.vocabulary` subwords from the foreign sentences, and the English ones if the student reads them."""
    english = bitext.english if config.english_side else ()
    return train_tokenizer([*bitext.foreign, *text.foreign, *english], config.vocabulary)
