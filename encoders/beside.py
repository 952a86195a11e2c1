"""A text tower of its own beside the image tower of any encoder: sentence-transformers and Multilingual-CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic_core import from_json

from harness.api import Encoder, Floats, HarnessError, digest_strings
from harness.encoders.hugging_face import model_folder
from harness.encoders.sources import hub_folder, need_transformers, quiet, reason
from harness.plugins import fingerprint
from harness.registry import load_encoder

if TYPE_CHECKING:
    from PIL import Image

TEXTS_A_BATCH = 64
# A sentence-transformers model has a folder a module; Multilingual-CLIP has one state dict, and the shape of its transformer
# in another repository.
SENTENCE_FILES = ("modules.json", "*/*")
PICKLED, SAFE = "pytorch_model.bin", "model.safetensors"
MCLIP_FILES = ("config.json", PICKLED)


class Sentences(Protocol):
    """A text model in memory."""

    def embed(self, texts: Sequence[str]) -> Floats:
        """Sentence embeddings (n, d), not normalised."""
        ...


def beside(argument: str, device: str) -> Beside:
    """`text:TOWER+ENCODER`: a sentence-transformers or Multilingual-CLIP text tower beside ENCODER's images; needs [st] or [hf].

    TOWER is a folder or a repository of the Hugging Face hub. Raises HarnessError for anything else.
    """
    tower, plus, image = argument.partition("+")
    if not (tower and plus and image):
        raise HarnessError(
            f"text:{argument}: expected text:TOWER+ENCODER, as text:./my-tower+open_clip:ViT-B-32/laion2b_s34b_b79k"
        )
    need_transformers(tower)
    return Beside(tower, load_encoder(image, device), device)


class Beside:
    """Images by one model, texts by another. They are in one space only if the text tower was trained towards these images."""

    def __init__(self, tower: str, images: Encoder, device: str) -> None:
        self.name = f"text:{tower}+{images.name}"
        self._tower = tower
        self._images = images
        self._device = device

    @cached_property
    def folder(self) -> Path:
        """The text tower's files, downloaded if need be. Raises HarnessError if they cannot be had."""
        return model_folder(self._tower, f"text:{self._tower}", (SENTENCE_FILES, MCLIP_FILES))

    @cached_property
    def _fingerprint(self) -> str:
        return digest_strings(["text tower beside 1", fingerprint(self.folder), self._images.fingerprint()])

    def fingerprint(self) -> str:
        """A digest of the text tower's files, and the image encoder's own."""
        return self._fingerprint

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed RGB pictures as (n, d) by the image encoder."""
        return self._images.encode_images(images)

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:  # noqa: ARG002
        """Embed texts as (n, d) by the text tower, which reads every language alike."""
        return self.sentences.embed(texts)

    @cached_property
    def sentences(self) -> Sentences:
        """The text tower in memory. Raises HarnessError if it cannot be loaded."""
        from harness.device import resolve_device

        kind = MultilingualClip if is_mclip(self.folder) else SentenceTransformers
        try:
            with quiet():
                return kind(self.folder, resolve_device(self._device))
        except HarnessError:
            raise
        except Exception as error:  # of many libraries: sentence-transformers, transformers, tokenizers, torch
            why = reason(error, self.folder / PICKLED)
            raise HarnessError(f"text:{self._tower}: {self.folder} cannot be loaded: {why}") from error


def is_mclip(folder: Path) -> bool:
    """Whether a folder is in Multilingual-CLIP's form, rather than sentence-transformers'.

    Raises HarnessError if it is in neither.
    """
    if (folder / "modules.json").is_file():
        return False
    try:
        config = from_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if "modelBase" not in config:
        raise HarnessError(
            f"{folder} is no text tower: expected a modules.json (sentence-transformers), "
            "or a config.json that names its modelBase (Multilingual-CLIP)"
        )
    return True


class SentenceTransformers:
    """A model of sentence-transformers: transformer, pooling and dense layer as its `modules.json` says."""

    def __init__(self, folder: Path, device: str) -> None:
        if find_spec("sentence_transformers") is None:
            raise HarnessError(f"{folder} needs sentence-transformers: pip install 'flickr30k-harness[st]'")
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(str(folder), device=device)

    def embed(self, texts: Sequence[str]) -> Floats:
        """Sentence embeddings (n, d), as the model gives them."""
        rows = self.model.encode(list(texts), batch_size=TEXTS_A_BATCH, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(rows, dtype=np.float32)


class MultilingualClip:
    """A model of Multilingual-CLIP (Carlsson et al. 2022): the mean of a transformer's states, through one linear layer.

    Raises HarnessError if the weights do not fit the transformer.
    """

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        from safetensors.torch import load_file
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        config = from_json((folder / "config.json").read_text(encoding="utf-8"))
        base = config["modelBase"]
        place = folder / base if (folder / base).is_dir() else hub_folder(base, [("config.json",)], f"text tower {base}")
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self.transformer = AutoModel.from_config(AutoConfig.from_pretrained(str(place)))  # type: ignore[no-untyped-call]
        self.linear = torch.nn.Linear(config["transformerDimensions"], config["numDims"])
        file = folder / SAFE if (folder / SAFE).is_file() else folder / PICKLED
        weights = load_file(file) if file.name == SAFE else torch.load(file, map_location="cpu", weights_only=True)
        for part, prefix in ((self.transformer, "transformer."), (self.linear, "LinearTransformation.")):
            given = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            # Old versions of transformers kept the positions' numbers, and a pooler that is not used, among the weights.
            missing = [key for key in part.load_state_dict(given, strict=False).missing_keys if not key.startswith("pooler.")]
            if missing:
                raise HarnessError(f"{file} lacks {len(missing)} weights of {base}, first {missing[0]}")
            part.eval().to(device)
        self.device = device

    def embed(self, texts: Sequence[str]) -> Floats:
        """Sentence embeddings (n, d)."""
        import torch

        rows: dict[int, Any] = {}
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), TEXTS_A_BATCH):
            batch = order[start : start + TEXTS_A_BATCH]
            ids = self.tokenizer([texts[row] for row in batch], padding=True, truncation=True, return_tensors="pt").to(
                self.device
            )
            with torch.inference_mode():
                states = self.transformer(**ids).last_hidden_state
                mask = ids["attention_mask"][:, :, None]
                pooled = self.linear((states * mask).sum(1) / mask.sum(1))
            rows |= zip(batch, pooled.cpu().numpy(), strict=True)
        return np.stack([rows[row] for row in range(len(texts))])
