"""The nouns of the harness: what an encoder, a task and a language are, and what they exchange.

Arrays at these borders are numpy, float32 unless said; n counts items, d is the width of the joint image-text space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class HarnessError(Exception):
    """Something the user can put right. The message names the file or value, what was expected, and the way out."""


def digest_strings(parts: Sequence[str]) -> str:
    """SHA-256 over a list of strings, of which none can run into the next.

    >>> digest_strings(["ab", "c"]) == digest_strings(["a", "bc"])
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


class Images(Protocol):
    """The pictures of a task, read only when asked for."""

    @property
    def ids(self) -> tuple[str, ...]:
        """One id a picture, in gallery order."""
        ...

    def open(self, index: int) -> Image.Image:
        """Decode one picture to RGB. Raises HarnessError naming the file if it cannot be read."""
        ...

    def digest(self) -> str:
        """A digest of ids and file contents, in order."""
        ...


class ImageEncoder(Protocol):
    """A frozen image tower."""

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed RGB pictures as (n, d), not normalised."""
        ...

    def fingerprint(self) -> str:
        """A digest of everything that decides an embedding: weights, architecture, preprocessing, tokenizer, precision.

        Cheap enough to be asked on every run; it does not load the model.
        """
        ...


class TextEncoder(Protocol):
    """A text tower. `lang` is the BCP-47 code of the texts, for towers that need to know it."""

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        """Embed texts as (n, d), not normalised."""
        ...

    def fingerprint(self) -> str:
        """As for ImageEncoder."""
        ...


class Encoder(ImageEncoder, TextEncoder, Protocol):
    """Both towers of one model, in one joint space."""

    @property
    def name(self) -> str:
        """What the user typed to get it, made canonical: `open_clip:ViT-B-32/laion2b_s34b_b79k`."""
        ...


@dataclass(frozen=True)
class TokenStates:
    """Token states and sentence embeddings of n texts, packed without padding.

    tokens: (sum(lengths), d), each token's state projected into the joint space; text i owns `lengths[i]` rows, in order.
    lengths: (n,), at least 1 each. Special tokens count; padding does not.
    pooled: (n, d), the same sentence embeddings that `encode_texts` gives.
    """

    tokens: Floats
    lengths: Ints
    pooled: Floats


@runtime_checkable
class TokenEncoder(Protocol):
    """A text encoder that can also teach by token transport."""

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:
        """Token states and sentence embeddings of the texts, in one pass."""
        ...


@dataclass(frozen=True)
class Language:
    """A language: BCP-47 code, English name, ISO 15924 script, resource tier 0-5 (Joshi et al. 2020), and how to read it.

    sources: names of the caption sources that have it, the preferred one first.
    aliases: other codes a user may type (FLORES-200, ISO 639-3).
    """

    code: str
    name: str
    script: str
    tier: int
    sources: tuple[str, ...]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskCard:
    """What a task is, for people and for the record."""

    name: str
    version: str
    title: str
    splits: tuple[str, ...]
    licence: str
    source: str


@dataclass(frozen=True)
class Retrieval:
    """Images and captions of one language and split, and which belongs to which.

    captions: m texts. caption_images: (m,), index of each caption's image in `images.ids`; every image has at least one caption.
    caption_ids: m ids, unique, free of caption text. english: the English caption each caption was translated from,
    or None where the source is not a translation.
    source: name of the caption source. kind: how its captions came to be, as "human translation" or "machine translation".
    sample: whether this is the embedded sample, whose numbers say nothing about Flickr30k.
    notes: what a reader must know of how the captions were read (a known gap of the source, empty captions left out).
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

    def in_english(self) -> Retrieval:
        """The same images, asked for by the English captions that these were translated from.

        Raises HarnessError if the captions are not translations.
        """
        if self.english is None:
            raise HarnessError(f"the {self.lang} captions of {self.source} are not translations: they have no English twins")
        return replace(self, lang="en", source=f"{self.source} (English side)", kind="original", captions=self.english)

    def texts_digest(self) -> str:
        """A digest of the captions, their ids and their images."""
        owners = (str(i) for i in self.caption_images.tolist())
        return digest_strings([*self.captions, *self.caption_ids, *owners])


@dataclass(frozen=True)
class Bitext:
    """Sentence pairs for distillation, one row a pair: English, its translation, and the image id, or "" where there is none."""

    lang: str
    source: str
    kind: str
    english: tuple[str, ...]
    foreign: tuple[str, ...]
    image_ids: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.english)

    def take(self, rows: Sequence[int]) -> Bitext:
        """The pairs of the given rows, in the given order."""
        return replace(
            self,
            english=tuple(self.english[i] for i in rows),
            foreign=tuple(self.foreign[i] for i in rows),
            image_ids=tuple(self.image_ids[i] for i in rows),
        )

    def digest(self) -> str:
        """A digest of all pairs in order."""
        return digest_strings([self.lang, *self.english, *self.foreign, *self.image_ids])


@dataclass(frozen=True)
class HeldOut:
    """What distillation must not see: ids of every evaluation image, of all evaluation splits, and their English captions."""

    image_ids: frozenset[str]
    english: frozenset[str]


@dataclass(frozen=True)
class Finding:
    """One line of `data check`: what was looked for, whether it is there, and what to do if it is not."""

    what: str
    found: bool
    detail: str


class Task(Protocol):
    """A benchmark: it labels, the engine measures."""

    @property
    def card(self) -> TaskCard:
        """What the task is."""
        ...

    def languages(self) -> Mapping[str, Language]:
        """Every language the task knows, by code."""
        ...

    def language(self, text: str) -> Language:
        """The language of a code, alias or English name. Raises HarnessError with the nearest ones if there is none."""
        ...

    def load(self, data: Path, lang: str, split: str) -> Retrieval:
        """Read images and captions of one language. Raises HarnessError if the folder cannot serve it."""
        ...

    def load_bitext(self, data: Path, lang: str) -> Bitext:
        """Read the English-`lang` pairs that the folder has for training: the leakage guard comes after."""
        ...

    def held_out(self, data: Path) -> HeldOut:
        """What the leakage guard keeps out of the bitext. Validation counts too: choices are made on it."""
        ...

    def check(self, data: Path) -> list[Finding]:
        """Say what the folder has and lacks."""
        ...

    def write_sample(self, folder: Path) -> None:
        """Write the embedded sample into an empty folder, in the layout that `load` reads."""
        ...

    def sample_version(self) -> str:
        """A name for the bytes that `write_sample` writes."""
        ...
