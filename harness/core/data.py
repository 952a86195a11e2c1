"""The data types that encoders, tasks and the engine exchange.

Arrays are float32 numpy arrays unless stated otherwise. n is the number of items. d is the width of the joint image-text space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self, TypeAlias, runtime_checkable

from harness.core.digests import digest_strings
from harness.core.errors import HarnessError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

# The types are strings, so that the command line does not import numpy.
Floats: TypeAlias = "npt.NDArray[np.float32]"
Doubles: TypeAlias = "npt.NDArray[np.float64]"
Ints: TypeAlias = "npt.NDArray[np.int64]"
Span: TypeAlias = tuple[int, int]
"""A character span of a text: start and end, counted from 0, the end excluded. It is empty if the text lacks the characters."""
Spans: TypeAlias = tuple[Span, ...]


Sought = Literal["images", "regions", "texts"]
"""The kinds of candidates."""
QUERY_UNITS: dict[Sought, str] = {"images": "captions", "regions": "phrases", "texts": "queries"}
"""The plural noun for queries, by the kind of their candidates."""
_ENGLISH_SIDE = " (English side)"  # the suffix of a source's name for the English captions that it was translated from


def english_side(source: str) -> str:
    """Return the name of the source of the English captions that the captions of a source were translated from.

    >>> english_side("multi30k")
    'multi30k (English side)'
    """
    return source + _ENGLISH_SIDE


def original_source(source: str) -> str:
    """Return the name of a source without the mark of its English captions: the inverse of `english_side`.

    >>> original_source("multi30k (English side)"), original_source("multi30k")
    ('multi30k', 'multi30k')
    """
    return source.removesuffix(_ENGLISH_SIDE)


def is_english_side(source: str) -> bool:
    """Return whether a source consists of the English originals of translations, named by `english_side`."""
    return source.endswith(_ENGLISH_SIDE)


class PicturesError(HarnessError):
    """A folder lacks images of a split. Embeddings by id (`KnownFeatures`) can be measured without them."""


class Images(Protocol):
    """The images of a task, read on request."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the images, in the order of the gallery."""
        ...

    def open(self, index: int) -> Image.Image:
        """Decode an image to RGB. Raises HarnessError naming the file if it cannot be read."""
        ...

    def digest(self) -> str:
        """Return a digest of ids and file contents, in order."""
        ...


@dataclass(frozen=True)
class TokenStates:
    """Token states and sentence embeddings of n texts, or patch states and embeddings of n images, packed without padding.

    tokens: (sum(lengths), d), the states, projected into the joint space. Text i has `lengths[i]` rows, in order.
    lengths: (n,), at least 1 each. Special tokens of a text count. Padding and the class token of an image do not.
    pooled: (n, d), the embeddings that `encode_texts` or `encode_images` returns.
    """

    tokens: Floats
    lengths: Ints
    pooled: Floats


@runtime_checkable
class CaptionReader(Protocol):
    """A task whose captions can be read from a folder without images."""

    def load_captions(self, data: Path, lang: str, split: str, source: str | None = None) -> Retrieval:
        """Read a retrieval as `Task.load` does, with images that are known by their ids alone."""
        ...


@dataclass(frozen=True)
class Language:
    """A language: BCP-47 code, English name, ISO 15924 script, and caption sources.

    tier: resource class from 0 to 5 (Joshi et al. 2020), or None if their list does not clearly name the language.
    sources: names of the caption sources that have the language, the preferred one first.
    aliases: other codes that a user may type (FLORES-200, ISO 639-3).
    """

    code: str
    name: str
    script: str
    tier: int | None
    sources: tuple[str, ...]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaptionSource:
    """A description of a source of captions, for readers. languages: the codes of its languages, empty if it accepts any."""

    name: str
    title: str
    kind: str
    languages: tuple[str, ...]
    licence: str
    url: str


@dataclass(frozen=True)
class TaskCard:
    """A description of a task, for readers and for records. data: the name of its data set if it differs from the task's name."""

    name: str
    version: str
    title: str
    splits: tuple[str, ...]
    licence: str
    source: str
    data: str = ""


@dataclass(frozen=True)
class Retrieval:
    """Images and captions of one language and split, with the ground truth.

    captions: m texts. caption_images: (m,), index of each caption's image in `images.ids`. Every image has at least one caption.
    caption_ids: m unique ids that contain no caption text.
    english: the English original of each caption, or None if the source is not a translation.
    source: name of the caption source. kind: the origin of its captions, such as "human translation" or "machine translation".
    sample: whether this is the embedded sample, whose results do not apply to Flickr30k.
    notes: remarks for readers on how the captions were read (a known gap of the source, excluded empty captions).
    facets: by name, a tuple of values for each caption. Scores can be broken down by them, and do not depend on them.
    phrases: the entity phrases of each caption, or None where they are unknown. english_phrases: those of its English original.
    """

    task: str
    lang: str
    split: str
    source: str
    kind: str
    images: Images
    captions: tuple[str, ...]
    caption_ids: tuple[str, ...]
    caption_images: Ints
    english: tuple[str, ...] | None = None
    sample: bool = False
    notes: tuple[str, ...] = ()
    facets: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    phrases: tuple[tuple[str, ...] | None, ...] = ()
    english_phrases: tuple[tuple[str, ...] | None, ...] = ()

    sought: ClassVar[Sought] = "images"

    @property
    def unit(self) -> str:
        """The plural noun for the queries."""
        return QUERY_UNITS[self.sought]

    @property
    def headline(self) -> str:
        """The measure that towers are compared by."""
        return "R@1"

    @property
    def opens_pictures(self) -> bool:
        """Whether the images are decoded, entirely or in regions."""
        return self.sought != "texts"

    @property
    def is_english_side(self) -> bool:
        """Whether the captions are the English originals of translations (see `in_english`)."""
        return is_english_side(self.source)

    @property
    def document_count(self) -> int | None:
        """The number of candidate texts, or None if the candidates are images."""
        return None

    @property
    def gallery_size(self) -> int:
        """The number of candidate images or texts."""
        return len(self.images.ids) if self.document_count is None else self.document_count

    def cache_key_parts(self) -> list[str]:
        """Return what determines the scores besides images and texts: the chosen measures of a task with a choice."""
        return []

    def in_english(self) -> Self:
        """Return a copy whose queries are the English captions that these captions were translated from.

        The facets of the translations are retained, so that a group holds the same queries in both.
        Raises HarnessError if the captions are not translations.
        """
        if self.english is None:
            raise HarnessError(f"the {self.lang} captions of {self.source} are not translations: they have no English twins")
        # Notes describe the translations. Languages with the same English captions share the record of these captions.
        return replace(
            self,
            lang="en",
            source=english_side(self.source),
            kind="original",
            captions=self.english,
            notes=(),
            phrases=self.english_phrases,
            english_phrases=(),
        )

    def take(self, rows: Sequence[int]) -> Self:
        """Return a copy with the captions of the given rows, over the same images."""
        return replace(
            self,
            captions=tuple(self.captions[row] for row in rows),
            caption_ids=tuple(self.caption_ids[row] for row in rows),
            caption_images=self.caption_images[list(rows)],
            english=None if self.english is None else tuple(self.english[row] for row in rows),
            facets={name: tuple(values[row] for row in rows) for name, values in self.facets.items()},
            phrases=tuple(self.phrases[row] for row in rows) if self.phrases else (),
            english_phrases=tuple(self.english_phrases[row] for row in rows) if self.english_phrases else (),
        )

    def among(self, images: Images) -> Self:
        """Return a copy with the captions of the given images, and these images as the gallery."""
        import numpy as np

        if images.ids == self.images.ids:
            return self
        places = {name: index for index, name in enumerate(images.ids)}
        owners = [self.images.ids[index] for index in self.caption_images.tolist()]
        rows = [row for row, name in enumerate(owners) if name in places]
        taken = np.array([places[owners[row]] for row in rows], dtype=np.int64)
        return replace(self.take(rows), images=images, caption_images=taken)

    def texts_digest(self) -> str:
        """Return a digest of the captions, their ids and their images."""
        owners = (str(i) for i in self.caption_images.tolist())
        return digest_strings([*self.captions, *self.caption_ids, *owners])


@dataclass(frozen=True)
class Regions:
    """Candidate boxes of images, chosen without knowledge of the queries.

    boxes: (r, 4), left, top, right, bottom in pixels from 0, right and bottom excluded. Boxes of an image are adjacent.
    box_images: (r,), ascending, index of each box's image in `images.ids`. An image may have no box.
    sizes: (n, 2), width and height of the images that the boxes were measured on. `images` may be reduced copies.
    source: the origin of the boxes.
    """

    images: Images
    boxes: Ints
    box_images: Ints
    sizes: Ints
    source: str
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """Return a digest of images and boxes."""
        arrays = (self.boxes, self.box_images, self.sizes)
        return digest_strings([self.images.digest(), *(str(array.tolist()) for array in arrays)])


@dataclass(frozen=True)
class Grounding(Retrieval):
    """Phrases and their ground-truth boxes. `captions` are phrases, and an image may have no phrase.

    targets: (g, 4), the ground-truth boxes, in the pixels of `Regions`.
    target_captions: (g,), the index of each box's phrase. Every phrase has at least one box.
    """

    _: KW_ONLY
    targets: Ints
    target_captions: Ints

    sought: ClassVar[Sought] = "regions"

    def texts_digest(self) -> str:
        """Return a digest of the phrases, their ids, images and ground-truth boxes."""
        return digest_strings([super().texts_digest(), str(self.targets.tolist()), str(self.target_captions.tolist())])


@dataclass(frozen=True)
class Unseen:
    """Images known by their ids alone, for tasks that open no image.

    gallery: digest of the candidates that replace them.
    """

    ids: tuple[str, ...]
    gallery: str = ""

    def open(self, index: int) -> Image.Image:
        """Raise HarnessError, since there is no image."""
        raise HarnessError(f"no picture of {self.ids[index]} is read here: this task compares texts with texts")

    def digest(self) -> str:
        """Return a digest of the ids, in order, and of the gallery."""
        return digest_strings(["unseen", self.gallery, *self.ids])


DOCUMENTS_A_PART = 8192


class Documents(Protocol):
    """English candidates of text-to-text retrieval, numbered from 0. They are read in parts, since they may exceed memory."""

    def __len__(self) -> int:
        """Return the number of documents."""
        ...

    def parts(self) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
        """Yield ids and texts in order, in parts of DOCUMENTS_A_PART. Raises HarnessError if they can no longer be read."""
        ...

    def digest(self) -> str:
        """Return a digest of ids and texts, in order."""
        ...


@dataclass(frozen=True)
class Listed:
    """Documents that are all in memory."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def parts(self) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
        """Yield ids and texts in parts."""
        for start in range(0, len(self.ids), DOCUMENTS_A_PART):
            yield self.ids[start : start + DOCUMENTS_A_PART], self.texts[start : start + DOCUMENTS_A_PART]

    def digest(self) -> str:
        """Return a digest of ids and texts, in order."""
        return digest_strings([*self.ids, *self.texts])


@dataclass(frozen=True)
class TextRetrieval(Retrieval):
    """Text-to-text retrieval: captions or other queries with English candidates. `images` group the queries and are not opened.

    relevant: (m), the grades (1 or more) of each query's relevant documents, by number. Each query has at least one.
    barred: (m), the numbers of the documents that are no candidates of each query: the query itself and its English original.
    measures: the measures besides hit rates, such as `nDCG@10`, `MRR`, `recall@100` (see `harness.retrieval.metrics`).
    headline: the measure that towers are compared by, one of `measures` or `R@1`.
    """

    _: KW_ONLY
    documents: Documents
    relevant: tuple[Mapping[int, int], ...]
    barred: tuple[tuple[int, ...], ...]
    measures: tuple[str, ...]
    headline: str = "R@1"

    sought: ClassVar[Sought] = "texts"

    @property
    def document_count(self) -> int:
        """The number of candidate texts."""
        return len(self.documents)

    def cache_key_parts(self) -> list[str]:
        """Return the chosen measures, and last the one that towers are compared by."""
        return [*self.measures, self.headline]

    def take(self, rows: Sequence[int]) -> Self:
        """Return a copy with the queries of the given rows, over the same documents."""
        relevant, barred = tuple(self.relevant[row] for row in rows), tuple(self.barred[row] for row in rows)
        return replace(super().take(rows), relevant=relevant, barred=barred)

    def texts_digest(self) -> str:
        """Return a digest of the queries, their ids and images, the documents, their grades and the barred documents."""
        judged = (str(sorted(of.items())) for of in self.relevant)
        return digest_strings([super().texts_digest(), self.documents.digest(), *judged, *map(str, self.barred)])


@dataclass(frozen=True)
class Translated:
    """English translations of a retrieval's captions, read from a file, in the order of the captions. notes: for readers."""

    english: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bitext:
    """Sentence pairs for distillation: English sentences, their translations, and image ids ("" for a pair without an image).

    places: the position of each pair in its source, counted from 1. The default is consecutive positions.
    english_entities, foreign_entities: the character spans of visible entities in each sentence, None where they are unknown.
    They are empty unless requested. They are not part of the digest.
    """

    lang: str
    source: str
    kind: str
    english: tuple[str, ...]
    foreign: tuple[str, ...]
    image_ids: tuple[str, ...]
    notes: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    english_entities: tuple[Spans | None, ...] = ()
    foreign_entities: tuple[Spans | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.places:
            object.__setattr__(self, "places", tuple(range(1, len(self.english) + 1)))

    def __len__(self) -> int:
        return len(self.english)

    def take(self, rows: Sequence[int]) -> Bitext:
        """Return the pairs of the given rows, in the given order."""
        return replace(
            self,
            english=tuple(self.english[i] for i in rows),
            foreign=tuple(self.foreign[i] for i in rows),
            image_ids=tuple(self.image_ids[i] for i in rows),
            places=tuple(self.places[i] for i in rows),
            english_entities=tuple(self.english_entities[i] for i in rows) if self.english_entities else (),
            foreign_entities=tuple(self.foreign_entities[i] for i in rows) if self.foreign_entities else (),
        )

    def digest(self) -> str:
        """Return a digest of all pairs in order."""
        return digest_strings([self.lang, *self.english, *self.foreign, *self.image_ids])


@dataclass(frozen=True)
class HeldOut:
    """The evaluation data that distillation into a language must not use: images, and captions in English and the language.

    image_ids: ids of the images of evaluation. images: ids of all images of the data set, evaluated or not. An image id of a
    bitext refers to an image only if it is among these.
    """

    image_ids: frozenset[str]
    english: frozenset[str]
    foreign: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Download:
    """A public file for a data folder. path: its path in the folder. sha256: digest of the publisher's file, None if unknown."""

    path: str
    url: str
    source: str
    licence: str
    sha256: str | None = None


@dataclass(frozen=True)
class Contents:
    """The files of a data folder that a task reads.

    texts: paths in the folder. pictures: by file name, a function that reads the bytes of the image.
    files: the files or shards of the images, so that a caller that packs them can check whether they are in the folder.
    """

    texts: tuple[str, ...]
    pictures: Mapping[str, Callable[[], bytes]]
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One line of `data check`: the item, whether the folder has it, and details, with the way out if it does not."""

    what: str
    found: bool
    detail: str


@dataclass(frozen=True)
class Place:
    """An entity mention of a caption and its boxes in the image. A mention may have no box.

    boxes: left, top, right and bottom as fractions of the image's width and height.
    """

    words: str
    types: tuple[str, ...]
    boxes: tuple[tuple[float, float, float, float], ...]


MEASURE_PREFIX = "measure:"  # of the columns that hold a measure of each query, in percent


@dataclass(frozen=True)
class Ranks:
    """The rank of each query's best relevant item, counted from 1.

    t2i: (m,), the rank of each caption's image among n images.
    i2t: (n,), the rank of each image's best relevant caption among m captions.
    """

    t2i: Ints
    i2t: Ints
