"""Encoders of open_clip models: a tag, a repository of the Hugging Face hub, a folder, or the teacher of the embedded sample."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from harness.core.data import Floats, Spans, TokenStates
from harness.core.digests import digest_strings
from harness.core.errors import HarnessError
from harness.encoders.hub import quiet
from harness.encoders.open_clip.model_files import ModelFiles, folder_files, hub_files
from harness.encoders.open_clip.pretrained import check_pretrained, checkpoint_file, pretrained_files
from harness.encoders.weights import float32_config, loading_problem
from harness.runtime.prefetch import prefetch

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from harness.distill.model.tower import DonatedLayers
    from harness.encoders.open_clip.image_patches import ReadPatches
    from harness.encoders.open_clip.text_towers import TextReader

# A processor's caches hold the activations of few images. A GPU needs large batches (docs/performance.md).
IMAGES_A_BATCH, IMAGES_A_BATCH_ON_CPU = 64, 8
_SAMPLE_FOLDER = Path(__file__).parents[1] / "sample"

T = TypeVar("T")


def pretrained_encoder(argument: str, device: str) -> OpenClip:
    """`open_clip:ARCH/PRETRAINED`: a model of open_clip; PRETRAINED is a tag or a checkpoint file.

    Raises HarnessError that suggests the nearest names if the architecture or the tag is unknown.
    """
    arch, _, pretrained = argument.partition("/")
    pretrained = check_pretrained(arch, pretrained)
    file = checkpoint_file(pretrained)
    source = str(file.resolve()) if file.is_file() else pretrained
    return OpenClip(f"open_clip:{arch}/{pretrained}", lambda: pretrained_files(arch, source), device)


def hub_encoder(argument: str, device: str) -> OpenClip:
    """`hf-hub:ORG/REPO`: a repository of the Hugging Face hub in open_clip's format.

    Raises HarnessError if the argument is not the name of a repository.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", argument):
        raise HarnessError(f"hf-hub:{argument} names no repository; expected hf-hub:ORG/REPO")
    return OpenClip(f"hf-hub:{argument}", lambda: hub_files(argument), device)


def folder_encoder(argument: str, device: str) -> OpenClip:
    """`local-dir:FOLDER`: a folder in open_clip's format.

    Raises HarnessError if the folder is not in that format.
    """
    if not argument:
        raise HarnessError("local-dir: names no folder; expected local-dir:FOLDER")
    files = folder_files(Path(argument).expanduser().resolve())
    return OpenClip(f"local-dir:{Path(argument)}", lambda: files, device)


def sample_encoder(argument: str, device: str) -> OpenClip:
    """`sample`: the teacher of the embedded sample.

    Raises HarnessError if there is an argument.
    """
    if argument:
        raise HarnessError(f"the encoder sample takes no argument, but was given {argument!r}")
    files = folder_files(_SAMPLE_FOLDER)
    return OpenClip("sample", lambda: files, device)


@dataclass(frozen=True)
class LoadedOpenClip:
    """A model in memory, with its preprocessing and its text reader."""

    model: Any
    preprocess: Callable[[Image.Image], Any]
    reader: TextReader


class OpenClip:
    """Both towers of an open_clip model. The first encoding loads the model and imports torch.

    name: the canonical form of the name that the user typed.
    resize: `pillow`, as in open_clip, or `torch` (`preprocessing.py`).
    precision: `float32` or `bfloat16`, the precision of matrix products.
    """

    def __init__(
        self, name: str, find: Callable[[], ModelFiles], device: str, resize: str = "pillow", precision: str = "float32"
    ) -> None:
        self.name = name
        self._find = find
        self._device = device
        self._resize, self._precision = resize, precision

    def with_options(self, resize: str = "", precision: str = "") -> OpenClip:
        """Return a copy with another resizer or precision, whose name has the corresponding prefix."""
        name = f"{'fast' if resize else precision}:{self.name}"
        return OpenClip(name, self._find, self._device, resize or self._resize, precision or self._precision)

    @cached_property
    def device(self) -> str:
        """The device on which the model runs. Raises HarnessError if the device is not available."""
        from harness.runtime.device import resolve_device

        return resolve_device(self._device)

    @cached_property
    def files(self) -> ModelFiles:
        """The model's files, downloaded if necessary. Raises HarnessError if they are not available."""
        return self._find()

    @cached_property
    def _fingerprint(self) -> str:
        ways = [way for way, usual in ((self._resize, "pillow"), (self._precision, "float32")) if way != usual]
        return digest_strings([self.files.digest(), *ways]) if ways else self.files.digest()

    def fingerprint(self) -> str:
        """Return a digest of weights, configuration, preprocessing, tokenizer and precision.

        Raises HarnessError if the weights are not on this machine and cannot be downloaded.
        """
        return self._fingerprint

    @cached_property
    def loaded(self) -> LoadedOpenClip:
        """The model in memory. Raises HarnessError if it cannot be loaded."""
        with quiet():
            return load_open_clip(self.name, self.files, self.device, self._resize)

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed RGB images as (n, d), not normalised, with the preprocessing of the model's configuration."""
        model = self.loaded.model
        parts = self._through(images, lambda pixels: model.encode_image(pixels, normalize=False).float().cpu().numpy())
        return np.concatenate([np.zeros((0, self.files.config["embed_dim"]), dtype=np.float32), *parts])

    @cached_property
    def patches(self) -> ReadPatches:
        """The function that reads patch states. Raises HarnessError if the image tower's head cannot process a single patch."""
        from harness.encoders.open_clip.image_patches import patch_reader

        return patch_reader(self.loaded.model.visual, self.name)

    def encode_patches(self, images: Sequence[Image.Image]) -> TokenStates:
        """Return every patch's state, computed by the embedding's head, and the embeddings. Raises HarnessError as `patches`."""
        read = self.patches
        parts = self._through(images, lambda pixels: [states.float().cpu().numpy() for states in read(pixels)])
        pooled, states = (np.concatenate(each) for each in zip(*parts, strict=True))
        return TokenStates(states.reshape(-1, states.shape[2]), np.full(len(states), states.shape[1]), pooled)

    def _through(self, images: Sequence[Image.Image], read: Callable[[Tensor], T]) -> list[T]:
        """Return the results of ``read`` for the images, one or more per batch."""
        import torch

        loaded, size = self.loaded, IMAGES_A_BATCH_ON_CPU if self.device == "cpu" else IMAGES_A_BATCH
        parts: list[T] = []
        # TF32 would reduce the precision of a GPU's convolutions to 10 bits.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False), self._half():
            pixels = prefetch(loaded.preprocess, images, 2 * size)
            while batch := list(islice(pixels, size)):
                parts += self._by_halves(torch.stack(batch), read)
        return parts

    def _half(self) -> AbstractContextManager[object]:
        """Return a context in which matrix products use bfloat16, if that is the model's precision."""
        import torch

        return torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self._precision == "bfloat16")

    def _by_halves(self, pixels: Tensor, read: Callable[[Tensor], T]) -> Iterator[T]:
        """Yield the results of ``read`` for preprocessed images. A batch that does not fit into memory is split into halves.

        Raises HarnessError if a single image does not fit.
        """
        import torch

        try:
            found = read(pixels.to(self.device, memory_format=torch.channels_last))
        except torch.OutOfMemoryError as error:
            if len(pixels) == 1:
                raise HarnessError(f"{self.device} has too little memory to encode one image with {self.name}") from error
        else:
            yield found
            return
        for half in pixels.chunk(2):
            yield from self._by_halves(half, read)

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        """Embed texts as (n, d), not normalised, with the model's own pooling.

        Only NLLB's tokenizer uses the language. Raises HarnessError if it does not know the language.
        """
        with self._half():
            return self.loaded.reader.embed(texts, lang)

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:
        """Return every token's state, with the projection of the sentence embedding, and the sentence embeddings."""
        with self._half():
            return self.loaded.reader.states(texts, lang)

    def name_tokens(self, text: str) -> list[str]:
        """Return a name for each token of a text."""
        return self.loaded.reader.name_tokens(text)

    def locate_tokens(self, texts: Sequence[str], lang: str) -> list[Spans]:
        """Return the character span of each token in its text. Raises HarnessError if the tokenizer provides no offsets."""
        return self.loaded.reader.locate_tokens(texts, lang)

    def donate_layers(self) -> DonatedLayers:
        """Return a copy of the text tower's layers. Raises HarnessError if `TowerConfig` cannot represent its architecture."""
        from harness.encoders.open_clip.donated_layers import donate_text_layers

        return donate_text_layers(self.loaded.reader, self.files.text_config.get("context_length", 77))


def load_open_clip(name: str, files: ModelFiles, device: str, resize: str = "pillow") -> LoadedOpenClip:
    """Build the model and load its weights. Raises HarnessError if they do not fit. No weight is left random."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from harness.encoders.open_clip.preprocessing import torch_preprocessing
    from harness.encoders.open_clip.text_towers import TextReader
    from harness.encoders.open_clip.tokenization import make_tokenizer

    try:
        model = build_model(files, device)
        reader = TextReader(model, make_tokenizer(files), files.config["embed_dim"], device)
        config = PreprocessCfg(**model.visual.preprocess_cfg)
        preparation = torch_preprocessing(vars(config)) if resize == "torch" else image_transform_v2(config, is_train=False)
    except HarnessError:
        raise
    except Exception as error:  # raised by open_clip, timm, transformers, tokenizers, safetensors or torch
        raise HarnessError(f"{name}: open_clip cannot load {files.weights}: {loading_problem(error, files.weights)}") from error
    model.visual.to(memory_format=torch.channels_last)
    return LoadedOpenClip(model, preparation, reader)


def build_model(files: ModelFiles, device: str) -> Any:
    """Return open_clip's model with its weights in float32, whatever their precision in the file.

    Errors of open_clip are not converted.
    """
    import open_clip

    with float32_config(files.tower) if files.tower is not None else nullcontext() as tower:
        text = {**files.text_config, "hf_model_name": str(tower), "hf_model_pretrained": False}
        return open_clip.create_model(
            files.model,
            pretrained=None if files.model.startswith("local-dir:") else str(files.weights),
            force_preprocess_cfg=dict(files.preprocessing),
            require_pretrained=True,
            device=device,
            **({} if tower is None else {"text_cfg": text}),
        ).eval()
