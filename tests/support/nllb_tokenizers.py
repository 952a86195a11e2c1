"""A tiny tokenizer and a tiny random model in the form of NLLB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.support.open_clip_models import WORDS
from tests.support.transformers_models import shaken

NLLB = {
    "model_type": "m2m_100",
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 100,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def write_nllb_tokenizer(folder: Path) -> int:
    """Write an NLLB tokenizer of a few words and three language codes, and return its number of entries."""
    words = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *(f"▁{word}" for word in WORDS)])}
    marks = ["eng_Latn", "deu_Latn", "quy_Latn"]
    tokenizer = transformers.NllbTokenizer(vocab=words, merges=[], extra_special_tokens=marks)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def write_nllb(folder: Path, **sizes: object) -> Any:
    """Write a random translation model in the form of NLLB and return it."""
    torch.manual_seed(4)
    kept = {name: value for name, value in NLLB.items() if name != "model_type"}
    shape = {"vocab_size": write_nllb_tokenizer(folder), "scale_embedding": True, "activation_function": "relu", **kept, **sizes}
    model = shaken(transformers.M2M100ForConditionalGeneration(transformers.M2M100Config(**shape)))
    model.save_pretrained(folder)
    return model
