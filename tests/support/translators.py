"""Tiny random translation models."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from tests.support.nllb_tokenizers import NLLB, write_nllb_tokenizer
from tests.support.transformers_models import write_tokenizer as write_words


def small(folder: Path, kind: str) -> str:
    """Write a random translation model with `save_pretrained`: NLLB for many languages, or a model of one pair."""
    folder.mkdir()
    torch.manual_seed(0)
    if kind == "nllb":
        config = {key: value for key, value in NLLB.items() if key != "model_type"}
        config |= {"vocab_size": write_nllb_tokenizer(folder), "decoder_start_token_id": 2}
        model = transformers.M2M100ForConditionalGeneration(transformers.M2M100Config(**config))
    else:
        write_words(folder, 16)
        shape = {
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
        }
        shape |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 13, "max_position_embeddings": 32}
        ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 0, "forced_eos_token_id": 3}
        model = transformers.MarianMTModel(transformers.MarianConfig(**shape, **ids))
    model.generation_config.max_length = 9
    model.save_pretrained(folder)
    return f"hf:{folder}"
