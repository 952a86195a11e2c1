"""Tiny random models in the folder form of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["a", "dog", "runs", "cat", "sits", "on", "the", "grass", "red"]


TEXTS = ["a dog runs", "", "the red cat sits on the red grass", "a", "dog " * 40, "a dog runs on grass"]


PICTURES = [Image.fromarray(pixels) for pixels in np.random.default_rng(0).integers(0, 255, (5, 40, 56, 3), dtype=np.uint8)]


SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


VISION = {**SHAPE, "image_size": 32, "patch_size": 16}


# Ids of a tokenizer in the order padding, unknown, start, end, words (CLIP takes an end of 2 for that of its old configurations).
TEXT = {**SHAPE, "vocab_size": 4 + len(WORDS), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("CLIP", {**TEXT, "max_position_embeddings": 16}),
    "siglip": ("Siglip", {**TEXT, "max_position_embeddings": 16, "projection_size": 24}),
    "siglip2": ("Siglip2", {**TEXT, "max_position_embeddings": 16, "projection_size": 24}),
    "altclip": ("AltCLIP", {**TEXT, "max_position_embeddings": 17, "project_dim": 32, "type_vocab_size": 1}),
    "chinese-clip": ("ChineseCLIP", {**TEXT, "max_position_embeddings": 16}),
}


def write_tokenizer(folder: Path, lengths: int) -> None:
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[START]", "[END]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [("[START]", 2), ("[END]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[START] $A [END]", special_tokens=frame)
    names = {"pad_token": "[PAD]", "bos_token": "[START]", "eos_token": "[END]", "unk_token": "[UNK]"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=lengths, **names)
    fast.save_pretrained(folder)


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Move weights away from their initial values, so that no part is small enough for its omission to go unnoticed."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def write_model(folder: Path, kind: str) -> Path:
    """Write a random model with `save_pretrained`."""
    name, text = KINDS[kind]
    vision = {**VISION, "num_patches": 4} if kind == "siglip2" else VISION
    sizes = {"text_config": text, "vision_config": vision}
    if not kind.startswith("siglip"):
        sizes["projection_dim"] = 24
    torch.manual_seed(0)
    model = shaken(getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes)))
    model.save_pretrained(folder)
    write_tokenizer(folder, 16)
    if kind == "siglip2":
        transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=4).save_pretrained(folder)
    else:
        size = {"size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}}
        transformers.CLIPImageProcessor(**size).save_pretrained(folder)
    return folder


def write_mclip(folder: Path) -> Path:
    """Write a random Multilingual-CLIP text tower. The shape of its transformer is in a folder of that name, as on the hub."""
    torch.manual_seed(1)
    config = transformers.XLMRobertaConfig(**TEXT, max_position_embeddings=20, type_vocab_size=1)
    transformer = shaken(transformers.XLMRobertaModel(config))
    linear = torch.nn.Linear(32, 24)
    config.save_pretrained(folder / "base")
    write_tokenizer(folder, 16)
    weights = {f"transformer.{name}": value for name, value in transformer.state_dict().items()}
    weights |= {f"LinearTransformation.{name}": value for name, value in linear.state_dict().items()}
    torch.save(weights, folder / "pytorch_model.bin")
    shape = {"model_type": "M-CLIP", "modelBase": "base", "transformerDimensions": 32, "numDims": 24}
    (folder / "config.json").write_text(json.dumps(shape))
    return folder
