"""Conversion of a teacher's text tower to `TextTower`, so that its layers can initialize a student."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.distill.model.tower import DonatedLayers
from harness.encoders.open_clip.bert_layers import bert_projection, from_bert
from harness.encoders.open_clip.clip_layers import Weights, from_clip, unsupported_error
from harness.encoders.open_clip.text_towers import ClassTokenText, ClipText, HuggingFaceText, TextReader
from harness.encoders.open_clip.tokenization import as_fast_tokenizer


def donate_text_layers(reader: TextReader, context_length: int) -> DonatedLayers:
    """Return a copy of a text tower's layers. A Hugging Face tower keeps at most ``context_length`` positions.

    Raises HarnessError if the architecture has no counterpart in `TowerConfig`.
    """
    tower = reader.tower
    if isinstance(tower, HuggingFaceText):
        settings = tower.module.config
        projection = bert_projection(tower.module.proj, settings.hidden_size)
        config, weights = from_bert(tower.module.transformer, settings, projection, context_length)
    elif isinstance(tower, ClipText) and not isinstance(tower, ClassTokenText):
        if tower.module.attn_mask is None:
            raise unsupported_error("tokens that attend to padding")
        config, weights = from_clip(tower.module)
    else:
        raise unsupported_error("a class token after the text")

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        ids, real = reader.tokenize(texts)
        return [row[mask].tolist() for row, mask in zip(ids, real, strict=True)]

    return DonatedLayers(
        config, copy_weights(weights), reader.framing.start, reader.framing.end, tokenize, as_fast_tokenizer(reader.tokenizer)
    )


def copy_weights(weights: Weights) -> Weights:
    """Return copies of the weights in float32 on the CPU, which share no memory with the model."""
    return {name: weight.detach().to("cpu", torch.float32, copy=True).contiguous() for name, weight in weights.items()}
