"""Models of open_clip as encoders: a tag, a repository of the Hugging Face hub, a folder, or the embedded sample's teacher."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from harness.api import Floats, HarnessError, TokenStates
from harness.encoders.sources import ModelFiles, behind_tag, check_tag, in_folder, in_hub, quiet

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from harness.distill.tower import DonatedLayers
    from harness.encoders.image_patches import ReadPatches
    from harness.encoders.text_towers import TextReader

# A processor's caches hold the activations of few pictures, a GPU wants many (docs/performance.md).
IMAGES_A_BATCH, IMAGES_A_BATCH_ON_CPU = 64, 8
SAMPLE = Path(__file__).parent / "sample"

T = TypeVar("T")


def open_clip_tag(argument: str, device: str) -> OpenClip:
    """`open_clip:ARCH/PRETRAINED`: a model of open_clip; PRETRAINED is a tag or a checkpoint file.

    Raises HarnessError for an unknown architecture or tag, with the nearest ones.
    """
    arch, _, pretrained = argument.partition("/")
    pretrained = check_tag(arch, pretrained)
    source = str(Path(pretrained).resolve()) if Path(pretrained).is_file() else pretrained
    return OpenClip(f"open_clip:{arch}/{pretrained}", lambda: behind_tag(arch, source), device)


def hf_hub(argument: str, device: str) -> OpenClip:
    """`hf-hub:ORG/REPO`: a repository of the Hugging Face hub in open_clip's form.

    Raises HarnessError for anything that is no repository's name.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", argument):
        raise HarnessError(f"hf-hub:{argument} names no repository; expected hf-hub:ORG/REPO")
    return OpenClip(f"hf-hub:{argument}", lambda: in_hub(argument), device)


def local_dir(argument: str, device: str) -> OpenClip:
    """`local-dir:FOLDER`: a folder in open_clip's directory form.

    Raises HarnessError if the folder is not one.
    """
    if not argument:
        raise HarnessError("local-dir: names no folder; expected local-dir:FOLDER")
    files = in_folder(Path(argument).expanduser().resolve())
    return OpenClip(f"local-dir:{Path(argument)}", lambda: files, device)


def sample(argument: str, device: str) -> OpenClip:
    """`sample`: the teacher of the embedded sample.

    Raises HarnessError if it is given an argument.
    """
    if argument:
        raise HarnessError(f"the encoder sample takes no argument, but was given {argument!r}")
    files = in_folder(SAMPLE)
    return OpenClip("sample", lambda: files, device)


@dataclass(frozen=True)
class Loaded:
    """A model in memory, ready to encode."""

    model: Any
    preprocess: Callable[[Image.Image], Any]
    reader: TextReader


class OpenClip:
    """Both towers of an open_clip model. Nothing is loaded, and torch is not imported, until something is encoded.

    name: what the user typed to get it, made canonical.
    """

    def __init__(self, name: str, find: Callable[[], ModelFiles], device: str) -> None:
        self.name = name
        self._find = find
        self._device = device

    @cached_property
    def device(self) -> str:
        """Where the model computes. Raises HarnessError if that device is not there."""
        from harness.device import resolve_device

        return resolve_device(self._device)

    @cached_property
    def files(self) -> ModelFiles:
        """The model's files, downloaded if need be. Raises HarnessError if they cannot be had."""
        return self._find()

    @cached_property
    def _fingerprint(self) -> str:
        return self.files.digest()

    def fingerprint(self) -> str:
        """A digest of weights, configuration, preprocessing, tokenizer and precision.

        Raises HarnessError if the weights are not here and cannot be downloaded.
        """
        return self._fingerprint

    @cached_property
    def loaded(self) -> Loaded:
        """The model in memory. Raises HarnessError if it cannot be loaded."""
        with quiet():
            return load(self.name, self.files, self.device)

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed RGB pictures as (n, d), not normalised, prepared as the model's own configuration says."""
        model = self.loaded.model
        parts = self._through(images, lambda pixels: model.encode_image(pixels, normalize=False).cpu().numpy())
        return np.concatenate([np.zeros((0, self.files.config["embed_dim"]), dtype=np.float32), *parts])

    @cached_property
    def patches(self) -> ReadPatches:
        """How patches are read. Raises HarnessError if the image tower's head cannot be asked about one by itself."""
        from harness.encoders.image_patches import patch_reader

        return patch_reader(self.loaded.model.visual, self.name)

    def encode_patches(self, images: Sequence[Image.Image]) -> TokenStates:
        """Every patch's state, by the head that makes the embedding, and the embeddings. Raises HarnessError as `patches`."""
        read = self.patches
        parts = self._through(images, lambda pixels: [states.cpu().numpy() for states in read(pixels)])
        pooled, states = (np.concatenate(each) for each in zip(*parts, strict=True))
        return TokenStates(states.reshape(-1, states.shape[2]), np.full(len(states), states.shape[1]), pooled)

    def _through(self, images: Sequence[Image.Image], read: Callable[[Tensor], T]) -> list[T]:
        """What is read of pictures, a batch at a time."""
        import torch

        loaded, size = self.loaded, IMAGES_A_BATCH_ON_CPU if self.device == "cpu" else IMAGES_A_BATCH
        parts = []
        # Pillow works outside Python's lock. TF32 would give a GPU's convolutions 10 bits of precision.
        with (
            ThreadPoolExecutor(torch.get_num_threads()) as threads,
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            for start in range(0, len(images), size):
                pixels = torch.stack(list(threads.map(loaded.preprocess, images[start : start + size])))
                parts.append(read(pixels.to(self.device, memory_format=torch.channels_last)))
        return parts

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        """Embed texts as (n, d), not normalised, pooled as the model does.

        The language matters to NLLB's tokenizer alone. Raises HarnessError if that does not know it.
        """
        return self.loaded.reader.embed(texts, lang)

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:
        """Every token's state, projected as the sentence embedding is, and the sentence embeddings."""
        return self.loaded.reader.states(texts, lang)

    def name_tokens(self, text: str) -> list[str]:
        """A name for each token of a text."""
        return self.loaded.reader.name_tokens(text)

    def donate_layers(self) -> DonatedLayers:
        """Copy the text tower's layers. Raises HarnessError if its architecture has no counterpart in `TowerConfig`."""
        from harness.encoders.text_layers import donate

        return donate(self.loaded.reader, self.files.text_config.get("context_length", 77))


def load(name: str, files: ModelFiles, device: str) -> Loaded:
    """Build the model and give it its weights. Raises HarnessError if they do not fit: there are no random weights here."""
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from harness.encoders.text_towers import TextReader
    from harness.encoders.tokenizing import make_tokenizer

    changed = {}
    if files.tower is not None:
        changed["text_cfg"] = {**files.text_config, "hf_model_name": str(files.tower), "hf_model_pretrained": False}
    try:
        model = open_clip.create_model(
            files.model,
            pretrained=None if files.model.startswith("local-dir:") else str(files.weights),
            force_preprocess_cfg=dict(files.preprocessing),
            require_pretrained=True,
            device=device,
            **changed,
        ).eval()
        reader = TextReader(model, make_tokenizer(files), files.config["embed_dim"], device)
    except HarnessError:
        raise
    except Exception as error:  # of many libraries: open_clip, timm, transformers, tokenizers, safetensors, torch
        reason = " ".join(str(error).split())[:300]
        raise HarnessError(f"{name}: open_clip cannot load {files.weights}: {reason}") from error
    model.visual.to(memory_format=torch.channels_last)
    preparation = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return Loaded(model, preparation, reader)
