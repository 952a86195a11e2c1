"""Pairs of a separate text tower (sentence-transformers or Multilingual-CLIP) and the image tower of any encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic_core import from_json

from harness.core.builtins import load_encoder
from harness.core.data import Floats
from harness.core.digests import digest_strings
from harness.core.errors import HarnessError
from harness.core.plugins import fingerprint
from harness.core.protocols import Encoder
from harness.encoders.file_names import MODEL_CONFIG_FILE, PICKLED_FILE, SAFETENSORS_FILE, TOKENIZER_CONFIG_FILE
from harness.encoders.hub import hub_folder, quiet, require_transformers
from harness.encoders.hugging_face.models import check_no_missing_weights, model_folder
from harness.encoders.text_preparation import PAD_RIGHT, pads_right, read_json_or_empty
from harness.encoders.weights import loading_problem, loads_in_half

if TYPE_CHECKING:
    from PIL import Image

_TEXTS_A_BATCH = 64
# A sentence-transformers model lists the folders of its modules, and one of them may be the repository's root.
# A Multilingual-CLIP model has one state dict. Another repository holds the configuration of its transformer.
MODULES = "modules.json"
MCLIP_FILES = (MODEL_CONFIG_FILE, PICKLED_FILE)


class Sentences(Protocol):
    """A text model in memory."""

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return sentence embeddings (n, d), not normalised."""
        ...


def text_tower_pair(argument: str, device: str) -> TextTowerPair:
    """`text:TOWER+ENCODER`: a sentence-transformers or Multilingual-CLIP text tower with ENCODER's images; needs [st] or [hf].

    TOWER is a folder or a repository of the Hugging Face hub. Raises HarnessError if the argument has another form.
    """
    tower, plus, image = argument.partition("+")
    if not (tower and plus and image):
        raise HarnessError(
            f"text:{argument}: expected text:TOWER+ENCODER, as text:./my-tower+open_clip:ViT-B-32/laion2b_s34b_b79k"
        )
    require_transformers(tower)
    return TextTowerPair(tower, load_encoder(image, device), device)


class TextTowerPair:
    """A text tower and the image tower of another model.

    The embeddings share a space only if the text tower was trained to match the embeddings of this image tower.
    """

    def __init__(self, tower: str, images: Encoder, device: str) -> None:
        self.name = f"text:{tower}+{images.name}"
        self._tower = tower
        self._images = images
        self._device = device

    @cached_property
    def folder(self) -> Path:
        """The folder with the text tower's files, downloaded if necessary. Raises HarnessError if they are not available."""
        name = f"text:{self._tower}"
        folder = model_folder(self._tower, name, ((MODULES,), MCLIP_FILES))
        if not (folder / MODULES).is_file():
            return folder
        return model_folder(self._tower, name, module_files(folder))

    @cached_property
    def _fingerprint(self) -> str:
        parts = ["text tower beside 1", fingerprint(self.folder), self._images.fingerprint()]
        return digest_strings([*parts, *corrections(self.folder)])

    def fingerprint(self) -> str:
        """Return a digest of the text tower's files and of the image encoder's fingerprint."""
        return self._fingerprint

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed RGB images as (n, d) by the image encoder."""
        return self._images.encode_images(images)

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:  # noqa: ARG002
        """Embed texts as (n, d) by the text tower, which ignores the language."""
        return self.sentences.embed(texts)

    @cached_property
    def sentences(self) -> Sentences:
        """The text tower in memory. Raises HarnessError if it cannot be loaded."""
        from harness.runtime.device import resolve_device

        kind = MultilingualClip if is_mclip(self.folder) else SentenceTransformers
        try:
            with quiet():
                return kind(self.folder, resolve_device(self._device))
        except HarnessError:
            raise
        except Exception as error:  # raised by sentence-transformers, transformers, tokenizers or torch
            why = loading_problem(error, self.folder / PICKLED_FILE)
            raise HarnessError(f"text:{self._tower}: {self.folder} cannot be loaded: {why}") from error


def module_folders(folder: Path) -> list[str]:
    """Return the folders of a sentence-transformers model's modules, relative to its own. An empty string is the root.

    Raises HarnessError if there is no valid list of modules.
    """
    return [str(module["path"]).strip("/.") for module in read_modules(folder)]


def module_files(folder: Path) -> list[tuple[str, ...]]:
    """Return the file patterns to download for the modules that a folder lists, one choice per format of the root's weights."""
    # A normalisation module has no files, so it has no folder.
    places = [path for path, module in zip(module_folders(folder), read_modules(folder), strict=True) if not normalizes(module)]
    roots = ("model*.safetensors", "pytorch_model*.bin") if "" in places else (MODULES,)
    return [(MODULES, *(f"{place}/*" for place in places if place), root) for root in roots]


def normalizes(module: Mapping[str, str]) -> bool:
    """Return whether a module of sentence-transformers only normalises."""
    return module["type"].endswith(".Normalize")


def read_modules(folder: Path) -> list[Mapping[str, str]]:
    """Read a sentence-transformers model's list of modules. Raises HarnessError if the file is not a valid list."""
    try:
        modules: list[Mapping[str, str]] = from_json((folder / MODULES).read_bytes())
        places = [(module["path"] + module["type"]) for module in modules]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HarnessError(f"{folder / MODULES} is no list of modules, each with its type and path") from error
    if not places:
        raise HarnessError(f"{folder / MODULES} lists no modules")
    return modules


def corrections(folder: Path) -> list[str]:
    """Return the names of corrections to the behaviour of a text tower's own library.

    Half precision is replaced by float32, and padding on the left by padding on the right.
    """
    if not (folder / MODULES).is_file():
        return [] if pads_right({}, read_json_or_empty(folder / TOKENIZER_CONFIG_FILE)) else [PAD_RIGHT]
    places = [folder / module for module in module_folders(folder)]
    return ["float32"] if any(loads_in_half(place) for place in places if is_transformer(place)) else []


def is_transformer(place: Path) -> bool:
    """Return whether a module of sentence-transformers is a model in transformers' format."""
    return "model_type" in read_json_or_empty(place / MODEL_CONFIG_FILE)


def is_mclip(folder: Path) -> bool:
    """Return whether a folder is in Multilingual-CLIP's format, not in that of sentence-transformers.

    Raises HarnessError if it is in neither format.
    """
    if (folder / MODULES).is_file():
        return False
    try:
        config = from_json((folder / MODEL_CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if "modelBase" not in config:
        raise HarnessError(
            f"{folder} is no text tower: expected a modules.json (sentence-transformers), "
            "or a config.json that names its modelBase (Multilingual-CLIP)"
        )
    return True


class SentenceTransformers:
    """A model of sentence-transformers, with the transformer, pooling and dense layers that its `modules.json` lists."""

    def __init__(self, folder: Path, device: str) -> None:
        if find_spec("sentence_transformers") is None:
            raise HarnessError(f"{folder} needs sentence-transformers: pip install 'flickr30k-harness[st]'")
        import torch
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(str(folder), device=device, model_kwargs={"dtype": torch.float32}).float()
        for place, module in zip(module_folders(folder), self.model, strict=True):
            if is_transformer(folder / place) and hasattr(module, "auto_model"):
                check_transformer_weights(folder / place, module.auto_model)

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the model's sentence embeddings, (n, d)."""
        rows = self.model.encode(list(texts), batch_size=_TEXTS_A_BATCH, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(rows, dtype=np.float32)


def check_transformer_weights(folder: Path, model: Any) -> None:
    """Raise HarnessError if a folder lacks weights of the model loaded from it, which were silently randomized.

    sentence-transformers does not forward the loading report of transformers, so the weights are loaded a second time.
    """
    _, report = type(model).from_pretrained(str(folder), config=model.config, output_loading_info=True)
    # Pooling happens outside the transformer, and many models lack weights for the transformer's own pooler.
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    check_no_missing_weights(f"text:{folder}", folder, model, {"missing_keys": missing})


class MultilingualClip:
    """A model of Multilingual-CLIP (Carlsson et al. 2022): the mean of a transformer's states and one linear layer.

    Raises HarnessError if the weights do not fit the transformer.
    """

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        from safetensors.torch import load_file
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        config = from_json((folder / MODEL_CONFIG_FILE).read_text(encoding="utf-8"))
        base = config["modelBase"]
        place = folder / base if (folder / base).is_dir() else hub_folder(base, [(MODEL_CONFIG_FILE,)], f"text tower {base}")
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        # Padding on the left would shift the positions of BERT's tokens.
        self.tokenizer.padding_side = "right"
        shape = AutoConfig.from_pretrained(str(place))
        self.transformer = AutoModel.from_config(shape, dtype=torch.float32)  # type: ignore[no-untyped-call]
        # RoBERTa's positions start after the pad id.
        reserved = shape.pad_token_id + 1 if "roberta" in shape.model_type else 0
        self.length = min(self.tokenizer.model_max_length, shape.max_position_embeddings - reserved)
        self.linear = torch.nn.Linear(config["transformerDimensions"], config["numDims"])
        file = folder / SAFETENSORS_FILE if (folder / SAFETENSORS_FILE).is_file() else folder / PICKLED_FILE
        weights = load_file(file) if file.name == SAFETENSORS_FILE else torch.load(file, map_location="cpu", weights_only=True)
        for part, prefix in ((self.transformer, "transformer."), (self.linear, "LinearTransformation.")):
            given = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            # Old versions of transformers stored position ids and an unused pooler with the weights.
            missing = [key for key in part.load_state_dict(given, strict=False).missing_keys if not key.startswith("pooler.")]
            if missing:
                raise HarnessError(f"{file} lacks {len(missing)} weights of {base}, first {missing[0]}")
            part.eval().to(device)
        self.device = device

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return sentence embeddings (n, d)."""
        import torch

        rows: dict[int, Any] = {}
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), _TEXTS_A_BATCH):
            batch = order[start : start + _TEXTS_A_BATCH]
            options = {"padding": True, "truncation": True, "max_length": self.length, "return_tensors": "pt"}
            ids = self.tokenizer([texts[row] for row in batch], **options).to(self.device)
            with torch.inference_mode():
                states = self.transformer(**ids).last_hidden_state
                mask = ids["attention_mask"][:, :, None]
                pooled = self.linear((states * mask).sum(1) / mask.sum(1))
            rows |= zip(batch, pooled.cpu().numpy(), strict=True)
        return np.stack([rows[row] for row in range(len(texts))])
