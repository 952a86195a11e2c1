"""What an encoder, a translator and a task must offer. Plug-ins implement these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from harness.core.data import (
    Bitext,
    CaptionSource,
    Contents,
    Download,
    Finding,
    Floats,
    HeldOut,
    Language,
    Place,
    Regions,
    Retrieval,
    Spans,
    TaskCard,
    TokenStates,
)

if TYPE_CHECKING:
    from PIL import Image


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


@runtime_checkable
class TokenEncoder(Protocol):
    """A text encoder that can also teach by token transport, and be searched token by token."""

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:
        """Token states and sentence embeddings of the texts, in one pass."""
        ...


@runtime_checkable
class PatchEncoder(Protocol):
    """An image encoder whose pictures can be searched patch by patch."""

    def encode_patches(self, images: Sequence[Image.Image]) -> TokenStates:
        """Patch states and embeddings of RGB pictures, in one pass: what the tower's head makes of each patch by itself.

        Raises HarnessError if the architecture has none.
        """
        ...


@runtime_checkable
class TokenNamer(Protocol):
    """A text encoder that can say what its tokens are, for people to read."""

    def name_tokens(self, text: str) -> list[str]:
        """A name for each token of a text, as many as `encode_tokens` gives states of it."""
        ...


@runtime_checkable
class TokenLocator(Protocol):
    """A text encoder that can say where its tokens stand in a text, so that some of them can be given more weight."""

    def locate_tokens(self, texts: Sequence[str], lang: str) -> list[Spans]:
        """For each text the stretch of each token, as many as `encode_tokens` gives states of it.

        It is empty for tokens that stand for no part of the text (those of the framing). Raises HarnessError if the tokenizer
        does not tell.
        """
        ...


@runtime_checkable
class KnownFeatures(Protocol):
    """An encoder that has no model, only embeddings by the task's ids: the engine asks for these, and opens no picture."""

    def image_features(self, ids: Sequence[str]) -> Floats:
        """The embeddings (n, d) of images. Raises HarnessError naming the first that is missing."""
        ...

    def caption_features(self, ids: Sequence[str], lang: str) -> Floats:
        """The embeddings (n, d) of a language's captions. Raises HarnessError naming the first that is missing."""
        ...


class Translator(Protocol):
    """Machine translation into English."""

    @property
    def name(self) -> str:
        """What the user typed to get it, made canonical."""
        ...

    def translate(self, texts: Sequence[str], lang: str) -> Sequence[str]:
        """The texts, of one language (BCP-47), in English: as many, in their order."""
        ...

    def fingerprint(self) -> str:
        """As for ImageEncoder: a digest of everything that decides a translation."""
        ...


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

    def sources(self) -> tuple[CaptionSource, ...]:
        """Every caption source the task knows, in the order in which they are looked for."""
        ...

    def load(self, data: Path, lang: str, split: str, source: str | None = None) -> Retrieval:
        """Read images and captions of one language, or, as a `Grounding`, phrases and their places, or a `TextRetrieval`.

        They are of the first source that has any, or of the one named. Raises MissingError if the folder has none, HarnessError
        if what it has cannot be read.
        """
        ...

    def load_bitext(self, data: Path, lang: str) -> Bitext:
        """Read the English-`lang` pairs that the folder has for training: the leakage guard comes after.

        Raises MissingError if it has none.
        """
        ...

    def held_out(self, data: Path, lang: str) -> HeldOut:
        """What the leakage guard keeps out of the bitext of a language. Validation counts too: choices are made on it."""
        ...

    def check(self, data: Path) -> list[Finding]:
        """Say what the folder has and lacks."""
        ...

    def downloads(self, languages: Sequence[str] | None, source: str | None = None) -> tuple[Download, ...]:
        """The public files of some languages (codes; None for all) and of one source or all, that anybody may fetch."""
        ...

    def contents(self, data: Path) -> Contents:
        """Every file of the folder that the task can read."""
        ...

    def write_sample(self, folder: Path) -> None:
        """Write the embedded sample into an empty folder, in the layout that `load` reads."""
        ...

    def sample_version(self) -> str:
        """A name for the bytes that `write_sample` writes."""
        ...


@runtime_checkable
class RegionTask(Protocol):
    """A task whose images have regions. It is told neither a language nor a caption, so that no choice can hang on one."""

    def load_regions(self, data: Path, split: str, candidates: str) -> Regions:
        """Read the regions of all images of a split: `boxes` that people drew, or `proposals` of a detector.

        Raises HarnessError if the folder has none, or if a file of them cannot be read.
        """
        ...


@runtime_checkable
class TaggedTask(Protocol):
    """A task whose data says of some sentences what they name."""

    def load_places(self, data: Path, retrieval: Retrieval) -> tuple[tuple[Place, ...], ...]:
        """What each caption names and where that is, in the words of its English twin if it has no tags itself.

        Raises HarnessError if tags or boxes cannot be read.
        """
        ...

    def tag_bitext(self, data: Path, bitext: Bitext) -> Bitext:
        """The same pairs with `english_entities` and `foreign_entities`, None for sentences that nobody has tagged.

        Raises HarnessError if tags cannot be read.
        """
        ...
