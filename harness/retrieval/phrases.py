"""What captions and sentences name: told by their tags, or, where they have none, by a phrase chunker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from harness.core.builtins import CHUNKERS
from harness.core.data import Bitext, Language, Retrieval, Spans
from harness.core.errors import HarnessError
from harness.core.protocols import TaggedTask, Task
from harness.core.registry import split_spec

T = TypeVar("T")


def chunk_phrases(chunker: str, texts: Sequence[str], language: Language) -> list[Spans]:
    """The phrases of texts under the chunker `NAME` or `NAME:ARGUMENT`.

    Raises HarnessError for an unknown chunker, as the chunker does, and if it gives what is no stretch of a text.
    """
    name, argument = split_spec(chunker)
    chunk = CHUNKERS.load(name)(argument)
    found = [tuple((int(start), int(end)) for start, end in spans) for spans in chunk(texts, language)] if texts else []
    if len(found) != len(texts):
        raise HarnessError(f"the phrase chunker {chunker} gave phrases of {len(found):,} texts for {len(texts):,}")
    for text, spans in zip(texts, found, strict=True):
        for start, end in spans:
            if not 0 <= start < end <= len(text):
                raise HarnessError(
                    f"the phrase chunker {chunker} gave the stretch {start} to {end} of a text of {len(text)} characters"
                )
    return found


def caption_phrases(retrieval: Retrieval, task: Task, chunker: str) -> tuple[tuple[str, ...], ...]:
    """The phrases of each caption, from its tags or from the chunker. Raises HarnessError as `chunk_phrases`."""
    tagged: Sequence[tuple[str, ...] | None] = retrieval.phrases or (None,) * len(retrieval.captions)
    bare = [text for text, phrases in zip(retrieval.captions, tagged, strict=True) if phrases is None]
    spans = chunk_phrases(chunker, bare, task.language(retrieval.lang))
    words = [tuple(" ".join(text[start:end].split()) for start, end in each) for text, each in zip(bare, spans, strict=True)]
    return fill_gaps(tagged, words)


def mark_bitext_entities(bitext: Bitext, task: Task, data: Path, chunker: str) -> Bitext:
    """The same pairs with what their sentences name: English told by tags or by the chunker, translations by tags alone.

    The notes say how many were told by which. Raises HarnessError as `chunk_phrases`, and if tags cannot be read.
    """
    if isinstance(task, TaggedTask):
        bitext = task.tag_bitext(data, bitext)
    told: Sequence[Spans | None] = bitext.english_entities or (None,) * len(bitext)
    bare = [text for text, spans in zip(bitext.english, told, strict=True) if spans is None]
    english = fill_gaps(told, chunk_phrases(chunker, bare, task.language("en")))
    foreign = bitext.foreign_entities or (None,) * len(bitext)
    by_tags = sum(spans is not None for spans in foreign)
    note = (
        f"entities: {len(bitext) - len(bare):,} English sentences told by tags, {len(bare):,} by the chunker {chunker}; "
        f"{by_tags:,} {bitext.lang} ones by tags, {len(bitext) - by_tags:,} by the plan"
    )
    return replace(bitext, english_entities=english, foreign_entities=foreign, notes=(*bitext.notes, note))


def fill_gaps(known: Sequence[T | None], others: Sequence[T]) -> tuple[T, ...]:
    """What is known, and in each gap the next of the others."""
    rest = iter(others)
    return tuple(next(rest) if value is None else value for value in known)
