"""Location of an open_clip model's files: a folder, a repository of the Hugging Face hub, or a tag of open_clip.

This module does not import torch. Only tags require open_clip, which imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.core.digests import digest_file, digest_json, digest_strings
from harness.core.errors import HarnessError
from harness.encoders.file_names import (
    MODEL_CONFIG_FILE,
    OPEN_CLIP_CONFIG_FILE,
    OPEN_CLIP_WEIGHTS_FILE,
    PICKLED_FILE,
    SAFETENSORS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
)
from harness.encoders.hub import TEXT_FILES, WEIGHT_FILES, check_adapter, hub_folder, require_transformers
from harness.encoders.text_preparation import PAD_RIGHT, pads_right, read_json_or_empty
from harness.encoders.weights import configured_in_half

# Increase the number if the same files give other embeddings, after a change here, in tokenization.py or in text_towers.py.
_SEMANTICS = "open_clip encoder 2, float32, channels last"

# The order is open_clip's own order of preference.
WEIGHTS_FILES = (
    OPEN_CLIP_WEIGHTS_FILE,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    SAFETENSORS_FILE,
    PICKLED_FILE,
    "pytorch_model.pth",
    "model.pth",
)
HUB_WEIGHTS = (OPEN_CLIP_WEIGHTS_FILE, "open_clip_pytorch_model.bin")
TOKENIZER_FILES = (TOKENIZER_FILE, "*.model", "vocab.*")
TEXT_MODELS = frozenset({"bert", "roberta", "xlm-roberta", "mt5", "m2m_100"})
CLIP_VOCABULARY = 49_408


@dataclass(frozen=True)
class ModelFiles:
    """The files that determine a model's results.

    model: open_clip's name of the model, which is a built-in architecture, or `local-dir:` and a folder.
    config: open_clip's `model_cfg`. preprocessing: open_clip's `preprocess_cfg`. weights: the weights file.
    tower: folder with the configuration of a Hugging Face text tower; None for open_clip's own transformer.
    tokenizer: folder of a Hugging Face tokenizer, or a `tokenizer.json`; None for CLIP's own tokenizer.
    """

    model: str
    config: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    weights: Path
    tower: Path | None
    tokenizer: Path | None

    @property
    def text_config(self) -> Mapping[str, Any]:
        """open_clip's `text_cfg`."""
        text: Mapping[str, Any] = self.config["text_cfg"]
        return text

    def corrections(self) -> list[str]:
        """Return the names of corrections to open_clip's own behaviour.

        A text tower configured in half precision is computed in float32. A tokenizer that pads on the left pads on the right.
        """
        half = self.tower is not None and configured_in_half(read_json_or_empty(self.tower / MODEL_CONFIG_FILE))
        place = self.tokenizer if self.tokenizer is not None and self.tokenizer.is_dir() else None
        left = place is not None and not pads_right({}, read_json_or_empty(place / TOKENIZER_CONFIG_FILE))
        return [name for name, holds in (("float32 text tower", half), (PAD_RIGHT, left)) if holds]

    def digest(self) -> str:
        """Return a digest of the contents, which does not depend on the names of folders."""
        parts = [_SEMANTICS, digest_json(self.config), digest_json(self.preprocessing), digest_file(self.weights)]
        parts += self.corrections()
        for place in (self.tower, self.tokenizer):
            for file in text_files(place):
                parts += [file.name, digest_file(file)]
        return digest_strings(parts)


def text_files(place: Path | None) -> list[Path]:
    """Return the files from which a tokenizer or text tower may be built."""
    if place is None:
        return []
    if place.is_file():
        return [place]
    return sorted({file for pattern in TEXT_FILES for file in place.glob(pattern) if file.name != OPEN_CLIP_CONFIG_FILE})


def folder_files(folder: Path) -> ModelFiles:
    """Return the files of a model in open_clip's folder format.

    Raises HarnessError if configuration, weights or tokenizer are missing, or if transformers is needed and not installed.
    """
    if not folder.is_dir():
        raise HarnessError(f"{folder} is no folder; expected a folder with {OPEN_CLIP_CONFIG_FILE} and the weights")
    config = read_config(folder / OPEN_CLIP_CONFIG_FILE)
    check_preprocessing(config, folder / OPEN_CLIP_CONFIG_FILE)
    check_adapter(folder)
    text = config["model_cfg"]["text_cfg"]
    return ModelFiles(
        model=f"local-dir:{folder}",
        config=config["model_cfg"],
        preprocessing=config.get("preprocess_cfg") or {},
        weights=find_weights(folder),
        tower=find_text_config(text, folder),
        tokenizer=find_tokenizer(text, folder),
    )


def hub_files(repo: str) -> ModelFiles:
    """Return the files of a model in a hub repository, downloaded if the cache lacks them.

    Raises HarnessError if the files cannot be downloaded.
    """
    return folder_files(hub_folder(repo, [(OPEN_CLIP_CONFIG_FILE, weights) for weights in HUB_WEIGHTS], f"hf-hub:{repo}"))


def check_preprocessing(config: Mapping[str, Any], path: Path) -> None:
    """Raise HarnessError if a SigLIP model's configuration lacks a preprocessing value.

    open_clip would fill it with the value of OpenAI's CLIP. SigLIP's images have a mean and standard deviation of 0.5,
    and they are resized to a square, not cropped.
    """
    model, given = config["model_cfg"], config.get("preprocess_cfg") or {}
    missing = [key for key in ("mean", "std", "interpolation", "resize_mode") if not given.get(key)]
    if missing and ("init_logit_bias" in model or "siglip" in str(model["vision_cfg"].get("timm_model_name"))):
        raise HarnessError(
            f"{path}: preprocess_cfg lacks {', '.join(missing)}, and open_clip would use the values of OpenAI's CLIP: "
            "add the values with which this SigLIP model was trained"
        )


def read_config(path: Path) -> dict[str, Any]:
    """Read an `open_clip_config.json`. Raises HarnessError if the file is missing or not valid."""
    if not path.is_file():
        raise HarnessError(f"{path} is missing; a folder in open_clip's format contains it next to the weights")
    try:
        config: dict[str, Any] = from_json(path.read_text(encoding="utf-8"))
        config["model_cfg"]["text_cfg"], config["model_cfg"]["vision_cfg"], config["model_cfg"]["embed_dim"]
    except (ValueError, KeyError, TypeError) as error:
        raise HarnessError(f"{path} is no open_clip configuration (model_cfg with text_cfg, vision_cfg, embed_dim)") from error
    return config


def find_weights(folder: Path) -> Path:
    """Return the weights file that open_clip would load. Raises HarnessError if there is none, or if the choice is ambiguous."""
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for pattern in WEIGHT_FILES for path in folder.glob(pattern))
    if not found:
        raise HarnessError(f"{folder} holds no weights; expected {WEIGHTS_FILES[0]}")
    if len(found) > 1:
        raise HarnessError(f"{folder} holds several weights files; rename the file to load to {WEIGHTS_FILES[0]}")
    return found[0]


def find_text_config(text: Mapping[str, Any], folder: Path | None) -> Path | None:
    """Return the folder with the configuration of the Hugging Face text tower, or None if the model has none.

    The model's own folder comes before the hub.
    """
    name = text.get("hf_model_name")
    if not name:
        return None
    require_transformers(name)
    if folder is not None and is_text_model(folder / MODEL_CONFIG_FILE):
        return folder
    refuse_path(name, folder, MODEL_CONFIG_FILE)
    return hub_folder(name, [(MODEL_CONFIG_FILE,)], f"text tower {name}")


def find_tokenizer(text: Mapping[str, Any], folder: Path | None) -> Path | None:
    """Return the folder of the Hugging Face tokenizer, or a `tokenizer.json`, or None for CLIP's own tokenizer.

    Raises HarnessError if no tokenizer fits the model.
    """
    name = text.get("hf_tokenizer_name") or text.get("hf_model_name")
    if name:
        require_transformers(name)
        if folder is not None and any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
            return folder
        refuse_path(name, folder, TOKENIZER_FILE)
        return hub_folder(name, [(pattern,) for pattern in TOKENIZER_FILES], f"tokenizer {name}")
    # Folders of CLIP models also contain a tokenizer.json for other libraries. If the vocabulary has CLIP's size, open_clip
    # uses its own tokenizer.
    vocabulary = text.get("vocab_size", CLIP_VOCABULARY)
    if vocabulary == CLIP_VOCABULARY:
        return None
    if folder is None or not (folder / TOKENIZER_FILE).is_file():
        place = f" ({folder})" if folder else ""
        raise HarnessError(f"a vocabulary of {vocabulary} is not CLIP's: the model's folder must hold its tokenizer.json{place}")
    return folder / TOKENIZER_FILE


def is_text_model(config: Path) -> bool:
    """Return whether a file configures a text model that open_clip can use as a tower.

    The configuration in folders of CLIP models is of another type.
    """
    try:
        return from_json(config.read_text(encoding="utf-8")).get("model_type") in TEXT_MODELS
    except (OSError, ValueError, AttributeError):
        return False


def refuse_path(name: str, folder: Path | None, file: str) -> None:
    """Raise HarnessError for a path instead of a hub repository, because a path is valid from one working folder only."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise HarnessError(
            f"{OPEN_CLIP_CONFIG_FILE} names its text model by the path {name}: put that model's {file} into {folder} itself"
        )
