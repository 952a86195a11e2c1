"""Entity phrases of captions and sentences, from the tags of a data set or from a phrase chunker where there are no tags."""

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
    """Return the phrases of each text, as found by the chunker `NAME` or `NAME:ARGUMENT`.

    Raises HarnessError if the chunker is unknown, if it raises one itself, if it returns phrases for a different number of texts,
    or if a phrase is not a character span of its text.
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
                    f"the phrase chunker {chunker} gave the character span {start} to {end} of a text of {len(text)} characters"
                )
    return found


def caption_phrases(retrieval: Retrieval, task: Task, chunker: str) -> tuple[tuple[str, ...], ...]:
    """Return the phrases of each caption, from its tags or from the chunker. Raises HarnessError as `chunk_phrases` does."""
    tagged: Sequence[tuple[str, ...] | None] = retrieval.phrases or (None,) * len(retrieval.captions)
    bare = [text for text, phrases in zip(retrieval.captions, tagged, strict=True) if phrases is None]
    spans = chunk_phrases(chunker, bare, task.language(retrieval.lang))
    words = [tuple(" ".join(text[start:end].split()) for start, end in each) for text, each in zip(bare, spans, strict=True)]
    return fill_gaps(tagged, words)


def mark_bitext_entities(bitext: Bitext, task: Task, data: Path, chunker: str) -> Bitext:
    """Return a copy with the entity mentions of the sentences.

    Mentions of English sentences come from tags or from the chunker, and mentions of translations from tags alone. The notes
    state the number of sentences for each. Raises HarnessError as `chunk_phrases` does, and if tags cannot be read.
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
    """Return the known values, with each None replaced by the next of the others."""
    rest = iter(others)
    return tuple(next(rest) if value is None else value for value in known)
