"""The protocols of encoders, translators and tasks. Plug-ins implement them."""

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

    from harness.distill.model.tower import DonatedLayers


class ImageEncoder(Protocol):
    """A frozen image tower."""

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed RGB images as (n, d), not normalized."""
        ...

    def fingerprint(self) -> str:
        """Return a digest of everything that determines an embedding: weights, architecture, preprocessing, tokenizer, precision.

        It must be fast, since every run calls it, and must not load the model.
        """
        ...


class TextEncoder(Protocol):
    """A text tower. `lang` is the BCP-47 code of the texts, for towers that need to know it."""

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        """Embed texts as (n, d), not normalized."""
        ...

    def fingerprint(self) -> str:
        """Return a digest as `ImageEncoder.fingerprint` does."""
        ...


class Encoder(ImageEncoder, TextEncoder, Protocol):
    """Both towers of one model, in one joint space."""

    @property
    def name(self) -> str:
        """The canonical form of the spec that users type, such as `open_clip:ViT-B-32/laion2b_s34b_b79k`."""
        ...


@runtime_checkable
class TokenEncoder(Protocol):
    """A text encoder with token states, for token transport and late interaction."""

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:
        """Return token states and sentence embeddings of the texts, in one pass."""
        ...


@runtime_checkable
class PatchEncoder(Protocol):
    """An image encoder with patch states, for late interaction."""

    def encode_patches(self, images: Sequence[Image.Image]) -> TokenStates:
        """Return patch states and embeddings of RGB images, in one pass. Patch states are outputs of the tower's head.

        Raises HarnessError if the architecture has none.
        """
        ...


@runtime_checkable
class TokenNamer(Protocol):
    """A text encoder with readable names of its tokens."""

    def name_tokens(self, text: str) -> list[str]:
        """Return a name for each token of a text, one for each state of `encode_tokens`."""
        ...


@runtime_checkable
class TokenLocator(Protocol):
    """A text encoder that locates its tokens in a text, so that entity mentions can be weighted."""

    def locate_tokens(self, texts: Sequence[str], lang: str) -> list[Spans]:
        """Return the character span of each token of each text, one for each state of `encode_tokens`.

        Spans of special tokens are empty. Raises HarnessError if the tokenizer gives no spans.
        """
        ...


@runtime_checkable
class LayerDonor(Protocol):
    """A text encoder whose layers can initialize a student."""

    def donate_layers(self) -> DonatedLayers:
        """Return a copy of the text tower's layers. Raises HarnessError for an architecture that students do not have."""
        ...


@runtime_checkable
class KnownFeatures(Protocol):
    """An encoder without a model, with embeddings by the task's ids. The engine opens no image for it."""

    def image_features(self, ids: Sequence[str]) -> Floats:
        """Return the embeddings (n, d) of images. Raises HarnessError with the first missing id."""
        ...

    def caption_features(self, ids: Sequence[str], lang: str) -> Floats:
        """Return the embeddings (n, d) of a language's captions. Raises HarnessError with the first missing id."""
        ...


class Translator(Protocol):
    """Machine translation into English."""

    @property
    def name(self) -> str:
        """The canonical form of the spec that users type."""
        ...

    def translate(self, texts: Sequence[str], lang: str) -> Sequence[str]:
        """Translate texts of one language (BCP-47) into English. Return one translation for each text, in order."""
        ...

    def fingerprint(self) -> str:
        """Return a digest of everything that determines a translation, as `ImageEncoder.fingerprint` does."""
        ...


class Task(Protocol):
    """A benchmark. It provides data and ground truth, and the engine measures."""

    @property
    def card(self) -> TaskCard:
        """The description of the task."""
        ...

    def languages(self) -> Mapping[str, Language]:
        """Return every language of the task, by code."""
        ...

    def language(self, text: str) -> Language:
        """Find a language by code, alias or English name. Raises HarnessError with the nearest names if there is none."""
        ...

    def sources(self) -> tuple[CaptionSource, ...]:
        """Return every caption source of the task, in order of preference."""
        ...

    def load(self, data: Path, lang: str, split: str, source: str | None = None) -> Retrieval:
        """Read the images and captions of one language as a `Retrieval`, or as its subclass `Grounding` or `TextRetrieval`.

        They come from the named source, or from the first source that the folder has. Raises MissingError if the folder has none,
        and HarnessError if a file cannot be read.
        """
        ...

    def load_bitext(self, data: Path, lang: str) -> Bitext:
        """Read the folder's English-`lang` sentence pairs for training. The leakage guard is applied afterwards.

        Raises MissingError if the folder has none.
        """
        ...

    def held_out(self, data: Path, lang: str) -> HeldOut:
        """Return the data that the leakage guard removes from a bitext. It includes validation data, used for model selection."""
        ...

    def check(self, data: Path) -> list[Finding]:
        """Return a finding for each item that the folder has or lacks."""
        ...

    def downloads(self, languages: Sequence[str] | None, source: str | None = None) -> tuple[Download, ...]:
        """Return the public files of the given languages (codes, None for all) and source (None for all)."""
        ...

    def contents(self, data: Path) -> Contents:
        """Return every file of the folder that the task can read."""
        ...

    def write_sample(self, folder: Path) -> None:
        """Write the embedded sample into an empty folder, in the layout that `load` reads."""
        ...

    def sample_version(self) -> str:
        """Return a version of the bytes that `write_sample` writes."""
        ...


@runtime_checkable
class RegionTask(Protocol):
    """A task whose images have regions. It receives neither a language nor a caption, so that regions depend on neither."""

    def load_regions(self, data: Path, split: str, candidates: str) -> Regions:
        """Read the regions of all images of a split. candidates: `boxes` of annotators, or `proposals` of a detector.

        Raises HarnessError if the folder has none, or if a file cannot be read.
        """
        ...


@runtime_checkable
class TaggedTask(Protocol):
    """A task whose data tags entity mentions in some sentences."""

    def load_places(self, data: Path, retrieval: Retrieval) -> tuple[tuple[Place, ...], ...]:
        """Return the entity mentions of each caption with their boxes.

        A caption without tags has the mentions of its English original. Raises HarnessError if tags or boxes cannot be read.
        """
        ...

    def tag_bitext(self, data: Path, bitext: Bitext) -> Bitext:
        """Return a copy with `english_entities` and `foreign_entities`. The entities of an untagged sentence are None.

        Raises HarnessError if tags cannot be read.
        """
        ...
