"""Initializers whose subword embeddings are weighted means of the teacher's English token embeddings.

An alignment rule gives the weights, and a vocabulary says which subwords there are. The two are independent choices: a built-in
initializer names one of each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, cast

import numpy as np
import torch
from tokenizers import Tokenizer

from harness.core.config import DistillConfig
from harness.core.data import Bitext, Doubles
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH
from harness.core.protocols import TextEncoder, TokenLocator
from harness.distill.alignment.association import associated_weights
from harness.distill.alignment.cooccurrence import Sparse, safe_ratio
from harness.distill.alignment.distributional import DistributionalContext
from harness.distill.alignment.ibm1 import agreed_model1_weights, model1_weights
from harness.distill.alignment.orthography import Spelling, bitext_spelling
from harness.distill.alignment.ot_contexts import context_transport_weights
from harness.distill.alignment.ot_sentences import sentence_transport_weights
from harness.distill.alignment.ot_vocabulary import vocabulary_transport_weights
from harness.distill.alignment.token_bitext import TokenizedBitext
from harness.distill.data.bitext import MonolingualText
from harness.distill.data.subwords import subword_spans, tokenize
from harness.distill.data.token_strings import token_strings
from harness.distill.data.words import Words, split_into_words
from harness.distill.initializers.interface import Student, layers_of
from harness.distill.initializers.random import RandomSubwords
from harness.distill.initializers.vocabularies import TeacherTokens, tower_with_embeddings
from harness.distill.model.tower import DonatedLayers, Tokens


@dataclass(frozen=True)
class AlignmentInput:
    """What an alignment rule may read: sentence pairs and monolingual text, the student's tokenizer and the teacher.

    subwords: the number f of the student's embeddings.
    """

    teacher: TextEncoder
    donated: DonatedLayers
    tokenizer: Tokenizer
    subwords: int
    config: DistillConfig
    bitext: Bitext
    text: MonolingualText

    @property
    def longest(self) -> int:
        """The number of positions of the student."""
        return self.donated.config.max_length

    @cached_property
    def ids(self) -> tuple[Tokens, Tokens]:
        """The token ids of the pairs, foreign and English, as student and teacher read them, framing included."""
        return tokenize(self.tokenizer, self.bitext.foreign, self.longest), self.donated.tokenize(self.bitext.english)

    @cached_property
    def content(self) -> TokenizedBitext:
        """The pairs as token ids without framing, for rules that would align the framing tokens like any other."""
        return TokenizedBitext(self.unframed(self.bitext.foreign), self.unframed_english(self.bitext.english), self.sizes)

    def unframed(self, foreign: Sequence[str]) -> list[list[int]]:
        """Return the token ids of foreign texts without framing."""
        return without(self.tokenizer.encode("").ids, tokenize(self.tokenizer, foreign, self.longest))

    def unframed_english(self, english: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts as the teacher reads them, without framing."""
        return without((self.donated.start, self.donated.end), self.donated.tokenize(english))

    @cached_property
    def strings(self) -> tuple[list[str], list[str]]:
        """The strings of all subwords and of all English tokens (`token_strings`).

        Raises HarnessError if the teacher's tokenizer has no form of the `tokenizers` library.
        """
        if self.donated.tokenizer is None:
            raise HarnessError("the strings of this teacher's tokens are unknown (it has no tokenizer.json): use --init ramen")
        return token_strings(self.tokenizer), token_strings(self.donated.tokenizer)

    def words(self, bitext: Bitext | MonolingualText) -> tuple[Words, Words]:
        """Return the words of texts, foreign and English, as student and teacher split them into tokens.

        Raises HarnessError if the teacher does not give the character spans of its tokens.
        """
        if not isinstance(self.teacher, TokenLocator):
            raise HarnessError("this teacher does not say where its tokens stand (locate_tokens): use --init ramen")
        foreign, english = bitext.foreign, bitext.english
        places = subword_spans(self.tokenizer, foreign, self.longest), self.teacher.locate_tokens(english, ENGLISH)
        ids = tokenize(self.tokenizer, foreign, self.longest), self.donated.tokenize(english)
        return split_into_words(ids[0], places[0], foreign), split_into_words(ids[1], places[1], english)

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers f of foreign subwords and e of English tokens."""
        return self.subwords, len(self.donated.weights["token_embedding.weight"])

    @cached_property
    def spelling(self) -> Spelling | None:
        """The spelling of the pairs' tokens, with `config.spelling`."""
        if not self.config.spelling:
            return None
        places = cast(TokenLocator, self.teacher).locate_tokens(self.bitext.english, ENGLISH)
        spans = subword_spans(self.tokenizer, self.bitext.foreign, self.longest), places
        return bitext_spelling(self.bitext, self.ids, spans, self.config.spelling)

    @cached_property
    def context(self) -> DistributionalContext:
        """The contexts of tokens in the pairs and in the monolingual text."""
        more = tokenize(self.tokenizer, self.text.foreign, self.longest), self.donated.tokenize(self.text.english)
        return DistributionalContext([*self.ids[0], *more[0]], [*self.ids[1], *more[1]], self.sizes)

    def tokenized(self, context: bool = False) -> TokenizedBitext:
        """Return the pairs as token ids. context: with the contexts of tokens."""
        return TokenizedBitext(*self.ids, self.sizes, self.spelling, self.context if context else None)


def without(framing: Iterable[int | None], texts: Tokens) -> list[list[int]]:
    """Return the ids of texts without those of the framing.

    >>> without((0, None), [[0, 2, 3], [0]])
    [[2, 3], []]
    """
    marks = frozenset(framing)
    return [[id_ for id_ in text if id_ not in marks] for text in texts]


class AlignedSubwords(RandomSubwords):
    """The teacher's layers under embeddings that are means of the teacher's English ones.

    v_f = (1 - a_f) u_f + a_f sum_e W_fe E_e, with E (e, width) the teacher's embeddings, u_f the embedding that the vocabulary
    gives subword f, and a_f the share that it leaves to the mean (`Vocabulary.shares`). A subword without weights keeps u_f.

    rescales: whether embeddings are rescaled unless `config.rescale` says otherwise; see `mix_embeddings`.
    """

    rescales: ClassVar[bool] = True

    @abstractmethod
    def weights(self, given: AlignmentInput) -> Sparse:
        """Return weights W (f, e) of the teacher's tokens in the embedding of each subword. A row sums to 1 or is empty."""

    def student(self, teacher: TextEncoder, config: DistillConfig, bitext: Bitext, text: MonolingualText) -> Student:
        """Return the student. Raises HarnessError if the teacher cannot lend its layers."""
        donated = layers_of(teacher)
        tokenizer, embeddings = self.vocabulary.build(donated, config, bitext, text)
        given = AlignmentInput(teacher, donated, tokenizer, len(embeddings), config, bitext, text)
        weights = self.weights(given)
        rows = np.flatnonzero(np.diff(weights.indptr))
        known = donated.weights["token_embedding.weight"].double().numpy()
        before, shares = embeddings[rows].double().numpy(), self.vocabulary.shares(donated, len(embeddings), config)[rows]
        rescale = self.rescales if config.rescale is None else config.rescale
        embeddings = embeddings.clone()
        embeddings[torch.from_numpy(rows)] = torch.from_numpy(
            mix_embeddings(weights[rows], known, before, shares, rescale)
        ).float()
        return Student(tower_with_embeddings(donated, embeddings, config), tokenizer)


def mix_embeddings(weights: Sparse, known: Doubles, before: Doubles, shares: Doubles, rescale: bool) -> Doubles:
    """Return embeddings (f, width): `before` (f, width), with a share (f,) of the mean of known embeddings (e, width).

    weights: W (f, e), without empty rows. A mean of many embeddings lies near the mean of all, mu. With `rescale` each is
    therefore moved to a distance from mu: that of the embedding before, or, where the share is 1, the median distance of the
    known embeddings. It is moved before it is mixed and after.
    """
    means = weights @ known
    if not rescale:
        plain: Doubles = shares[:, None] * means + (1 - shares[:, None]) * before
        return plain
    centre = known.mean(0)
    usual = np.median(np.linalg.norm(known - centre, axis=1))
    wanted = np.where(shares == 1, usual, np.linalg.norm(before - centre, axis=1))
    mixed = shares[:, None] * move_to_distance(means, centre, wanted) + (1 - shares[:, None]) * before
    return move_to_distance(mixed, centre, wanted)


def move_to_distance(rows: Doubles, centre: Doubles, wanted: Doubles) -> Doubles:
    """Return rows (f, width) moved along their direction from the centre (width,) to the wanted distances (f,)."""
    offsets = rows - centre
    distances = np.linalg.norm(offsets, axis=1)
    moved: Doubles = centre + offsets * safe_ratio(wanted, distances)[:, None]
    return moved


class Association(AlignedSubwords):
    """New subwords, aligned by association: the control of `ot-vocabulary`."""

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return `associated_weights`."""
        return associated_weights(given.tokenized())


class OtVocabulary(AlignedSubwords):
    """New subwords, aligned by transport between the vocabularies."""

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return `vocabulary_transport_weights`."""
        return vocabulary_transport_weights(given.tokenized())


class OtSentences(AlignedSubwords):
    """New subwords, aligned by transport within each sentence pair."""

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return `sentence_transport_weights`."""
        return sentence_transport_weights(given.tokenized())


class OtContexts(AlignedSubwords):
    """New subwords, aligned by transport within each sentence pair and between contexts."""

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return `context_transport_weights`."""
        return context_transport_weights(given.tokenized(context=True))


class Ibm1(AlignedSubwords):
    """New subwords, aligned by IBM's Model 1: the control of `ot-sentences`."""

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return `model1_weights`."""
        return model1_weights(given.tokenized())


class Ibm1Agreed(AlignedSubwords):
    """New subwords, aligned by two Models 1 with NULL that agree: a stronger control of `ot-sentences`."""

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return `agreed_model1_weights`."""
        return agreed_model1_weights(given.content)


class OtTeacherTokens(AlignedSubwords):
    """The teacher's tokens, aligned with the English ones by transport, with contexts if there is monolingual text."""

    vocabulary = TeacherTokens(adds_pieces=True)

    def weights(self, given: AlignmentInput) -> Sparse:
        """Return `context_transport_weights`."""
        return context_transport_weights(given.tokenized(context=given.config.unpaired > 0))


class Ibm1TeacherTokens(Ibm1):
    """The teacher's tokens, aligned with the English ones by IBM's Model 1: the control of `ot-teacher-tokens`."""

    vocabulary = TeacherTokens(adds_pieces=True)
