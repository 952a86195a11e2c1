"""Conversion of a BERT of transformers, or a relative with its layers, to `TextTower`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.distill.model.tower import TowerConfig
from harness.encoders.open_clip.clip_layers import Activation, Weights, linear_projection, named_layer, unsupported_error

ACTIVATIONS_FROM_HF: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
# Whether positions start after the pad id instead of at 0.
BERT_LIKE = {"bert": False, "electra": False, "roberta": True, "camembert": True, "xlm-roberta": True}


def from_bert(model: Any, settings: Any, projection: Tensor, context_length: int) -> tuple[TowerConfig, Weights]:
    """Return the shape and the weights of a BERT or a relative with the given projection (d, width).

    Raises HarnessError if the architecture has no counterpart in `TowerConfig`.
    """
    if settings.model_type not in BERT_LIKE:
        raise unsupported_error(f"the architecture {settings.model_type}")
    if getattr(settings, "position_embedding_type", "absolute") != "absolute":
        raise unsupported_error(f"{settings.position_embedding_type} positions")
    positions = bert_positions(model.embeddings, settings, context_length)
    config = TowerConfig(
        vocab_size=settings.vocab_size,
        width=settings.hidden_size,
        layers=settings.num_hidden_layers,
        heads=settings.num_attention_heads,
        mlp_width=settings.intermediate_size,
        joint_dim=projection.shape[0],
        max_length=len(positions),
        norm="post",
        causal=False,
        activation=bert_activation(settings.hidden_act),
        norm_eps=settings.layer_norm_eps,
    )
    weights = {
        "token_embedding.weight": model.embeddings.word_embeddings.weight,
        "position_embedding": positions,
        "projection.weight": projection,
        **named_layer("embedding_norm", model.embeddings.LayerNorm),
    }
    for index, block in enumerate(model.encoder.layer):
        weights |= bert_block(f"blocks.{index}", block)
    return config, weights


def bert_activation(name: str) -> Activation:
    """Return the name in `TowerConfig` of an activation of transformers. Raises HarnessError if it has none."""
    if name not in ACTIVATIONS_FROM_HF:
        raise unsupported_error(f"the activation {name}")
    return ACTIVATIONS_FROM_HF[name]


def bert_positions(embeddings: Any, settings: Any, context_length: int) -> Tensor:
    """Return the position embeddings plus the embedding of token type 0, which every token has."""
    first = settings.pad_token_id + 1 if BERT_LIKE[settings.model_type] else 0
    rows = embeddings.position_embeddings.weight[first:][:context_length]
    positions: Tensor = rows + embeddings.token_type_embeddings.weight[0]
    return positions


def bert_projection(projection: nn.Module, width: int) -> Tensor:
    """Return the projection into the joint space, (d, width). Raises HarnessError if it is not linear."""
    if isinstance(projection, nn.Identity):
        return torch.eye(width)
    if isinstance(projection, nn.Linear):
        return linear_projection(projection)
    raise unsupported_error("a projection that is not linear")


def bert_block(prefix: str, block: Any) -> Weights:
    """Return the weights of one block."""
    own, output = block.attention.self, block.attention.output
    parts = {"attention_out": output.dense, "attention_norm": output.LayerNorm}
    parts |= {"mlp_in": block.intermediate.dense, "mlp_out": block.output.dense, "mlp_norm": block.output.LayerNorm}
    return joined_block(prefix, [own.query, own.key, own.value], parts)


def joined_block(prefix: str, inputs: Sequence[nn.Linear], parts: Mapping[str, nn.Module]) -> Weights:
    """Return the weights of one block of `TextTower`. inputs: the layers of queries, keys and values, which become one."""
    kinds = ("weight", "bias")
    weights = {f"{prefix}.qkv.{kind}": torch.cat([getattr(part, kind) for part in inputs]) for kind in kinds}
    for name, part in parts.items():
        weights |= named_layer(f"{prefix}.{name}", part)
    return weights
