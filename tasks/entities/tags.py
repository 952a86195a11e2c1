"""The join of captions with their tagged sentences, and the facets of captions that follow from it.

A caption is matched to its tags by image id and by its letters and digits, since files differ in blanks, capitals, punctuation
and numbering.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.data import Bitext, Language, Place, Retrieval, Spans
from harness.retrieval.text_spans import map_spans
from harness.tasks.caption_sources import UNSPACED
from harness.tasks.entities.corpus import (
    Annotation,
    TaggedPhrase,
    TaggedSentence,
    find_sentence_folder,
    read_image_annotation,
    read_image_sentences,
)
from harness.tasks.readers.captions import Caption

NONE, UNTAGGED = "none", "untagged"

Facets = Mapping[str, tuple[tuple[str, ...], ...]]
Tagged = tuple[TaggedSentence | None, ...]


@dataclass(frozen=True)
class Tags:
    """The tagged sentence of each caption and of its English original; None where there is none."""

    own: Tagged
    english: Tagged
    lang: str
    known: bool
    """Whether the folder has tagged sentences in this language."""

    @property
    def best(self) -> Tagged:
        """The tags of the captions, or of their English originals if the language has none."""
        return self.own if self.known else self.english

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the origin and the gaps of the facets."""
        if not any(self.best):
            return ()
        borrowed = f"no tagged captions in {self.lang}: their entities are those of their English twins"
        missing = sum(sentence is None for sentence in self.best)
        lost = f"{missing:,} of {len(self.best):,} captions have no tags: their entities are not known"
        return (*(() if self.known else (borrowed,)), *((lost,) if missing else ()))


def read_tags(data: Path, lang: str, rows: Sequence[Caption]) -> Tags:
    """Match captions to their tags. Raises HarnessError naming file and line of a tagged sentence that cannot be read."""
    own, english = find_sentence_folder(data, lang), find_sentence_folder(data, "en")
    return Tags(
        _find(own, [(row.image, row.text) for row in rows]),
        _find(english, [(row.image, row.english) for row in rows]),
        lang,
        own is not None,
    )


def _find(folder: Path | None, texts: Sequence[tuple[str, str | None]]) -> Tagged:
    if folder is None:
        return (None,) * len(texts)
    images = {image for image, text in texts if text is not None}
    known = {image: {caption_key(each.text): each for each in read_image_sentences(folder, image)} for image in images}
    return tuple(None if text is None else known[image].get(caption_key(text)) for image, text in texts)


def caption_key(text: str) -> str:
    """Return the letters and digits of a caption, casefolded, to compare captions without blanks, capitals and punctuation.

    >>> caption_key("Two dogs , in Paris .") == caption_key("two dogs, in Paris")
    True
    """
    return "".join(char for char in unicodedata.normalize("NFKC", text).casefold() if char.isalnum())


def captions_of(retrieval: Retrieval) -> list[Caption]:
    """Return the captions of a retrieval as `Caption` rows, to match their tags."""
    twins: Sequence[str | None] = retrieval.english or [None] * len(retrieval.captions)
    images = [retrieval.images.ids[place] for place in retrieval.caption_images.tolist()]
    return [Caption(image, 0, text, twin, False) for image, text, twin in zip(images, retrieval.captions, twins, strict=True)]


def caption_facets(tags: Tags, rows: Sequence[Caption], language: Language, source: str) -> Facets:
    """Return the facets of captions: `entity-type`, `entities`, `length` and `source`, with one or more values a caption.

    entity-type: the entity types that the caption mentions, or `none` if it names nothing visible. entities: the number of
    entities that it names. length: its number of words. Without any tags in the folder, there are no entity facets. A single
    caption without tags is `untagged`.
    """
    found: dict[str, tuple[tuple[str, ...], ...]] = {}
    if any(tags.best):
        found["entity-type"] = tuple(map(_types, tags.best))
        found["entities"] = tuple((_count(sentence),) for sentence in tags.best)
    texts = [row.english if language.script in UNSPACED else row.text for row in rows]
    if None not in texts:
        found["length"] = tuple((_length(text),) for text in texts if text is not None)
    return found | {"source": ((source,),) * len(rows)}


def _types(sentence: TaggedSentence | None) -> tuple[str, ...]:
    if sentence is None:
        return (UNTAGGED,)
    return tuple(dict.fromkeys(name for phrase in sentence.entities for name in phrase.types)) or (NONE,)


def _count(sentence: TaggedSentence | None) -> str:
    if sentence is None:
        return UNTAGGED
    count = len({phrase.chain for phrase in sentence.entities})
    return str(count) if count < 4 else "4+"


def _length(text: str) -> str:
    """Return the group of a caption by its number of words.

    >>> [_length(text) for text in ("A dog .", "A dog runs over a field of green grass .")]
    ['1-7', '8-12']
    """
    words = sum(any(char.isalnum() for char in word) for word in text.split())
    return next((name for name, most in (("1-7", 7), ("8-12", 12), ("13-20", 20)) if words <= most), "21+")


def entity_phrases(sentence: TaggedSentence | None) -> tuple[str, ...] | None:
    """Return the phrases that name something visible, or None without tags."""
    return None if sentence is None else tuple(phrase.words for phrase in sentence.entities)


def tag_bitext(data: Path, bitext: Bitext) -> Bitext:
    """Return a copy with the spans of visible entities on both sides, or None for a sentence without tags.

    Raises HarnessError as `read_tags`.
    """
    sides = zip(bitext.image_ids, bitext.foreign, bitext.english, strict=True)
    tags = read_tags(data, bitext.lang, [Caption(image, 0, foreign, english, True) for image, foreign, english in sides])
    return replace(
        bitext,
        english_entities=tuple(map(_spans, tags.english, bitext.english)),
        foreign_entities=tuple(map(_spans, tags.own, bitext.foreign)),
    )


def _spans(sentence: TaggedSentence | None, text: str) -> Spans | None:
    """Return the spans in a caption of the entity phrases of its tagged sentence."""
    if sentence is None:
        return None
    phrases = [(phrase.start, phrase.start + len(phrase.words)) for phrase in sentence.entities]
    return map_spans(phrases, sentence.text, text)


def load_places(data: Path, retrieval: Retrieval) -> tuple[tuple[Place, ...], ...]:
    """Return the entities that each caption names, or else its English original, with their boxes.

    Boxes are in fractions of the picture. Raises HarnessError as `read_tags` and `read_annotation`.
    """
    rows = captions_of(retrieval)
    tags = read_tags(data, retrieval.lang, rows)
    annotations = {row.image: read_image_annotation(data, row.image) for row in rows}
    return tuple(
        tuple(_place(phrase, annotations[row.image]) for phrase in sentence.entities) if sentence else ()
        for row, sentence in zip(rows, (own or twin for own, twin in zip(tags.own, tags.english, strict=True)), strict=True)
    )


def _place(phrase: TaggedPhrase, annotation: Annotation | None) -> Place:
    if annotation is None:
        return Place(phrase.words, phrase.types, ())
    width, height = annotation.width, annotation.height
    boxes = [
        (left / width, top / height, right / width, bottom / height)
        for left, top, right, bottom in annotation.boxes_of(phrase.chain)
    ]
    return Place(phrase.words, phrase.types, tuple(boxes))
