"""A tiny tokenizer in the form of NLLB."""

from __future__ import annotations

from pathlib import Path

import transformers

from tests.support.open_clip_models import WORDS

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
