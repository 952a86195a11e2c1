"""Tiny random models in the folder form of open_clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["a", "dog", "runs", "cat", "sits", "on", "the", "grass", "red"]


TEXTS = [
    "a dog runs",
    "",
    "the red cat sits on the red grass",
    "a",
    "dog " * 40,
    "a dog runs on grass",
    "the red cat sits on the red grass",
]


VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}


TEXT = {"context_length": 16, "width": 32, "heads": 2, "layers": 2}


OWN_TEXT = {**TEXT, "vocab_size": len(WORDS) + 3}


HF_TEXT = {"hf_model_name": "../elsewhere", "hf_tokenizer_name": "../elsewhere", "context_length": 16}


HF_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "vocab_size": len(WORDS) + 4,
    "type_vocab_size": 2,
}


SIGLIP = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "act_kwargs": {"approximate": "tanh"}}


COCA = {
    "custom_text": True,
    "multimodal_cfg": {**TEXT, "context_length": 16},
    "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
}


BERT = {**HF_SIZES, "model_type": "bert", "pad_token_id": 0}


ROBERTA = {**HF_SIZES, "model_type": "xlm-roberta", "pad_token_id": 1, "type_vocab_size": 1}


# Name of a model: its open_clip configuration, and that of a Hugging Face text tower.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clip": ({"text_cfg": TEXT}, {}),
    "custom": ({"custom_text": True, "quick_gelu": True, "text_cfg": OWN_TEXT}, {}),
    "siglip": ({"custom_text": True, "init_logit_bias": -10, "text_cfg": {**OWN_TEXT, **SIGLIP}}, {}),
    "coca": (COCA, {}),
    "bert": ({"text_cfg": {**HF_TEXT, "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"}}, BERT),
    "bert-cls": ({"text_cfg": {**HF_TEXT, "hf_pooler_type": "cls_pooler", "hf_proj_type": "mlp"}}, BERT),
    "roberta": ({"text_cfg": {**HF_TEXT, "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"}}, ROBERTA),
}


PREPROCESSING = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}


def write_tokenizer(folder: Path, hf: dict[str, Any]) -> None:
    """Write a tokenizer of words and special tokens, whose ids depend on the kind of model."""
    if not hf:
        vocabulary = ["<pad>", "<start>", *WORDS, "<end>"]
        start, end = "<start>", "<end>"
    elif hf["pad_token_id"] == 0:
        vocabulary = ["[PAD]", "[CLS]", "[SEP]", *WORDS, "[UNK]"]
        start, end = "[CLS]", "[SEP]"
    else:
        vocabulary = ["[CLS]", "[PAD]", "[SEP]", *WORDS, "[UNK]"]
        start, end = "[CLS]", "[SEP]"
    ids = {word: index for index, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]" if hf else "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [(start, ids[start]), (end, ids[end])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=frame)
    tokenizer.save(str(folder / "tokenizer.json"))
    if hf:
        names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))


def write_model(folder: Path, kind: str) -> Path:
    """Write a random model in the folder form of open_clip."""
    config, hf = MODELS[kind]
    config = {"embed_dim": 24, "vision_cfg": VISION, **config}
    folder.mkdir()
    own_words = config["text_cfg"].get("vocab_size")
    if hf:
        (folder / "config.json").write_text(json.dumps(hf))
    if hf or own_words:
        write_tokenizer(folder, hf)
    text = {**config["text_cfg"], **({"hf_model_name": str(folder), "hf_model_pretrained": False} if hf else {})}
    made = {key: value for key, value in config.items() if key != "custom_text"} | {"text_cfg": text}
    maker = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if hf or own_words else open_clip.CLIP
    torch.manual_seed(0)
    model = maker(**made)
    with torch.no_grad():
        for parameter in model.parameters():
            # Far from the initial values, so that no part is so small that leaving it out would go unseen.
            parameter.add_(0.2 * torch.randn_like(parameter))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESSING}))
    return folder


def error(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest relative distance of corresponding rows."""
    return float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())
