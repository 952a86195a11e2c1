"""The task flickr30k-entities: zero-shot grounding of caption phrases in regions of their image.

Captions, images and splits (Karpathy's) are those of flickr30k. Flickr30k Entities is joined by image id alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.core.data import (
    Bitext,
    CaptionSource,
    Contents,
    Download,
    Finding,
    Grounding,
    HeldOut,
    Language,
    Place,
    Regions,
    Retrieval,
    TaskCard,
)
from harness.core.errors import HarnessError, MissingError
from harness.tasks.entities.corpus import (
    ANNOTATIONS,
    SENTENCES,
    URL,
    EntityBox,
    TaggedPhrase,
    TaggedSentence,
    find_sentence_folder,
    read_image_annotation,
    read_image_sentences,
    read_unrelated,
)
from harness.tasks.entities.tags import Tags, caption_key, captions_of, read_tags
from harness.tasks.flickr30k import FLICKR30K_CARD, Flickr30k

FLICKR30K_ENTITIES_CARD = TaskCard(
    name="flickr30k-entities",
    version="1",
    title="Phrase grounding on Flickr30k Entities: which region of its image a phrase means, Karpathy's splits",
    splits=FLICKR30K_CARD.splits,
    licence=f"annotations: none stated; {FLICKR30K_CARD.licence}",
    source=URL,
    data=FLICKR30K_CARD.name,
)


@dataclass(frozen=True)
class _Place:
    """A phrase of a caption, its English counterpart if there is one, and its ground-truth boxes."""

    caption: int
    phrase: TaggedPhrase
    twin: str | None
    boxes: tuple[EntityBox, ...]


class Flickr30kEntities:
    """`harness.core.protocols.Task` and `RegionTask`. Everything except the phrases comes from flickr30k."""

    def __init__(self) -> None:
        self._flickr30k = Flickr30k()

    @property
    def card(self) -> TaskCard:
        """Return the card of the task."""
        return FLICKR30K_ENTITIES_CARD

    def languages(self) -> Mapping[str, Language]:
        """Return every language of flickr30k. A folder serves those whose captions it has with tags."""
        return self._flickr30k.languages()

    def language(self, text: str) -> Language:
        """Find a language by code, alias or English name. Raises HarnessError with the nearest names."""
        return self._flickr30k.language(text)

    def sources(self) -> tuple[CaptionSource, ...]:
        """Return the sources of flickr30k."""
        return self._flickr30k.sources()

    def load(self, data: Path, lang: str, split: str, source: str | None = None) -> Grounding:
        """Read the phrases of a language's captions that name something with a box.

        The task leaves out phrases without a box, captions without tags, captions that do not describe their image, and phrases
        of translations without an English counterpart. The notes count them.
        Raises HarnessError as `Flickr30k.load`, and MissingError if the language has no tagged captions.
        """
        retrieval = self._flickr30k.load(data, lang, split, source)
        if find_sentence_folder(data, retrieval.lang) is None or find_sentence_folder(data, "en") is None:
            where = f"{SENTENCES}/" if retrieval.lang == "en" else f"{SENTENCES}_{retrieval.lang}/ and {SENTENCES}/"
            raise MissingError(f"{data} has no tagged captions in {retrieval.lang}: looked for {where} ({URL})")
        tags = read_tags(data, retrieval.lang, captions_of(retrieval))
        places = list(_places(data, retrieval, tags))
        boxed = [place for place in places if place.boxes]
        twinned = boxed if retrieval.english is None else [place for place in boxed if place.twin is not None]
        origin, untagged = retrieval.source, sum(sentence is None for sentence in tags.own)
        lost = {
            f"of {len(places):,} phrases ({origin}) have no box": len(places) - len(boxed),
            f"of {len(boxed):,} phrases with a box ({origin}) have no twin in the English caption": len(boxed) - len(twinned),
            f"of {len(tags.own):,} captions ({origin}) have no tags": untagged,
        }
        if not twinned:
            raise HarnessError(
                f"{data} has no box for any phrase of the {retrieval.lang} captions of {split}: check the annotations ({URL})"
            )
        return _grounding(retrieval, twinned, tuple(f"{count:,} {what}: left out" for what, count in lost.items() if count))

    def load_regions(self, data: Path, split: str, candidates: str) -> Regions:
        """Read regions as `Flickr30k.load_regions` does."""
        return self._flickr30k.load_regions(data, split, candidates)

    def load_bitext(self, data: Path, lang: str) -> Bitext:
        """Read bitext as `Flickr30k.load_bitext` does. Its pairs are sentences, so a tower serves both tasks."""
        return self._flickr30k.load_bitext(data, lang)

    def tag_bitext(self, data: Path, bitext: Bitext) -> Bitext:
        """Add entity spans as `Flickr30k.tag_bitext` does."""
        return self._flickr30k.tag_bitext(data, bitext)

    def load_places(self, data: Path, retrieval: Retrieval) -> tuple[tuple[Place, ...], ...]:
        """Return entities and boxes as `Flickr30k.load_places` does."""
        return self._flickr30k.load_places(data, retrieval)

    def held_out(self, data: Path, lang: str) -> HeldOut:
        """Return evaluation images and captions as `Flickr30k.held_out` does."""
        return self._flickr30k.held_out(data, lang)

    def downloads(self, languages: Sequence[str] | None, source: str | None = None) -> tuple[Download, ...]:
        """Return files as `Flickr30k.downloads` does. The annotations must be requested from their publisher."""
        return self._flickr30k.downloads(languages, source)

    def contents(self, data: Path) -> Contents:
        """Return files as `Flickr30k.contents` does."""
        return self._flickr30k.contents(data)

    def check(self, data: Path) -> list[Finding]:
        """Return the findings of flickr30k, then the boxes and the tagged captions of each language."""
        findings = self._flickr30k.check(data)
        boxes = sum(1 for _ in (data / ANNOTATIONS).glob("*.xml"))
        findings.append(Finding("boxes", bool(boxes), f"{boxes:,} images in {ANNOTATIONS}" if boxes else f"get {URL}"))
        for language in self.languages().values():
            if folder := find_sentence_folder(data, language.code):
                count = sum(1 for _ in folder.glob("*.txt"))
                what = f"tags: {language.name} ({language.code})"
                findings.append(Finding(what, bool(count), f"{count:,} images in {folder.name}"))
        return findings

    def write_sample(self, folder: Path) -> None:
        """Write the sample as `Flickr30k.write_sample` does. It has boxes and tags."""
        self._flickr30k.write_sample(folder)

    def sample_version(self) -> str:
        """Return the version as `Flickr30k.sample_version` does."""
        return self._flickr30k.sample_version()


def _places(data: Path, retrieval: Retrieval, tags: Tags) -> Iterator[_Place]:
    """Yield every phrase that names something visible, with its boxes, if any."""
    unrelated = _unrelated(data)
    annotations = {image: read_image_annotation(data, image) for image in retrieval.images.ids}
    for caption, (own, english) in enumerate(zip(tags.own, tags.english, strict=True)):
        image = retrieval.images.ids[int(retrieval.caption_images[caption])]
        describing = english if retrieval.lang != "en" else own
        if own is None or (describing is not None and (image, caption_key(describing.text)) in unrelated):
            continue
        annotation = annotations[image]
        for phrase in own.entities:
            boxes = annotation.boxes_of(phrase.chain) if annotation else ()
            yield _Place(caption, phrase, _twin(own, phrase, english), boxes)


def _unrelated(data: Path) -> frozenset[tuple[str, str]]:
    """Return image id and caption key of each English caption that does not describe its image."""
    folder, found = find_sentence_folder(data, "en"), set()
    for image, number in read_unrelated(data):
        sentences = read_image_sentences(folder, image) if folder else ()
        if number < len(sentences):
            found.add((image, caption_key(sentences[number].text)))
    return frozenset(found)


def _twin(own: TaggedSentence, phrase: TaggedPhrase, english: TaggedSentence | None) -> str | None:
    """Return the words of the English phrase of the same chain, or None.

    If the captions name an entity several times, their mentions correspond in order.
    """
    if english is None:
        return None
    if phrase.twin is not None:
        numbered = english.phrases[phrase.twin - 1 : phrase.twin]
        return numbered[0].words if numbered and numbered[0].chain == phrase.chain else None
    ours, theirs = ([each for each in sentence.phrases if each.chain == phrase.chain] for sentence in (own, english))
    place = ours.index(phrase)
    return theirs[place].words if place < len(theirs) else None


def _grounding(retrieval: Retrieval, places: Sequence[_Place], lost: tuple[str, ...]) -> Grounding:
    twins = [place.twin for place in places if place.twin is not None]
    return Grounding(
        task=FLICKR30K_ENTITIES_CARD.name,
        lang=retrieval.lang,
        split=retrieval.split,
        source=retrieval.source,
        kind=retrieval.kind,
        images=retrieval.images,
        captions=tuple(place.phrase.words for place in places),
        caption_ids=tuple(f"{retrieval.caption_ids[place.caption]}@{place.phrase.start}" for place in places),
        caption_images=retrieval.caption_images[[place.caption for place in places]],
        english=tuple(twins) if retrieval.english is not None else None,
        sample=retrieval.sample,
        notes=(*retrieval.notes, *lost),
        facets={
            "entity-type": tuple(place.phrase.types for place in places),
            "source": ((retrieval.source,),) * len(places),
        },
        targets=np.array([box for place in places for box in place.boxes], dtype=np.int64).reshape(-1, 4),
        target_captions=np.repeat(np.arange(len(places)), [len(place.boxes) for place in places]),
    )
