"""The tokens of entities in sentence pairs, from the character spans of the entities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from harness.core.data import Bitext, Spans
from harness.core.errors import HarnessError
from harness.core.protocols import TokenLocator
from harness.distill.data.subwords import subword_spans
from harness.distill.model.teacher import TeacherStates
from harness.distill.model.tower import Encoded
from harness.retrieval.text_spans import tokens_in_phrases

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A sentence's tokens: 1 for those of entities, 0 for others. A single NaN for a sentence without tags.
EntityRow = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EntityMarks:
    """The entity tokens of n pairs: the teacher's English tokens and the student's foreign subwords."""

    english: tuple[EntityRow, ...]
    foreign: tuple[EntityRow, ...]

    def on(self, rows: Sequence[int], student: Encoded, teacher: Encoded) -> tuple[Encoded, Encoded]:
        """Return a batch of some pairs with `Encoded.entities`."""
        return with_entities(student, [self.foreign[row] for row in rows]), with_entities(
            teacher, [self.english[row] for row in rows]
        )


def with_entities(side: Encoded, rows: Sequence[EntityRow]) -> Encoded:
    """Return one side of a batch with its entities."""
    entities = np.zeros(side.mask.shape, dtype=np.float32)
    for place, row in enumerate(rows):
        entities[place, : len(row) if np.isfinite(row).all() else None] = row
    return replace(side, entities=torch.from_numpy(entities).to(side.states))


def mark_entities(
    bitext: Bitext, teacher: TokenLocator, states: TeacherStates, tokenizer: Tokenizer, longest: int
) -> EntityMarks:
    """Find the entity tokens of sentence pairs. longest: the most tokens of the student's texts.

    Raises HarnessError if the teacher's character spans do not match the tokens of its states.
    """
    english = teacher.locate_tokens(bitext.english, "en")
    if [len(tokens) for tokens in english] != states.lengths.tolist():
        raise HarnessError("the teacher's character spans (locate_tokens) and states (encode_tokens) are of different tokens")
    foreign = subword_spans(tokenizer, bitext.foreign, longest)
    return EntityMarks(
        tuple(entity_rows(english, bitext.english_entities, bitext.english)),
        tuple(entity_rows(foreign, bitext.foreign_entities, bitext.foreign)),
    )


def entity_rows(tokens: Sequence[Spans], entities: Sequence[Spans | None], texts: Sequence[str]) -> Iterator[EntityRow]:
    """Yield the row of each text."""
    for at, named, text in zip(tokens, entities, texts, strict=True):
        yield np.array([np.nan] if named is None else tokens_in_phrases(at, named, text), dtype=np.float32)
