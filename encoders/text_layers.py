"""A teacher's text tower in the form of `TextTower`, so that a student can start from its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from harness.api import HarnessError
from harness.distill.tower import DonatedLayers, TowerConfig
from harness.encoders.text_towers import ClassTokenText, ClipText, HuggingFaceText, TextReader

Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]
Weights = dict[str, Tensor]

HF_ACTIVATIONS: dict[str, Activation] = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
# Whether positions are counted from the pad id on, rather than from 0.
BERT_LIKE = {"bert": False, "roberta": True, "xlm-roberta": True}


def donate(reader: TextReader, context_length: int) -> DonatedLayers:
    """Copy a text tower's layers, with as many positions as its texts have.

    Raises HarnessError if the architecture has no counterpart in `TowerConfig`.
    """
    tower = reader.tower
    if isinstance(tower, HuggingFaceText):
        settings = tower.module.config
        projection = bert_projection(tower.module.proj, settings.hidden_size)
        config, weights = from_bert(tower.module.transformer, settings, projection, context_length)
    elif isinstance(tower, ClipText) and not isinstance(tower, ClassTokenText):
        config, weights = from_clip(tower)
    else:
        raise no_counterpart("a class token after the text")

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        ids, real = reader.tokenize(texts)
        return [row[mask].tolist() for row, mask in zip(ids, real, strict=True)]

    return DonatedLayers(config, copied(weights), reader.framing.start, reader.framing.end, tokenize)


def copied(weights: Weights) -> Weights:
    """Copies that share nothing with the model, in float32 on the CPU."""
    return {name: weight.detach().to("cpu", torch.float32, copy=True).contiguous() for name, weight in weights.items()}


def no_counterpart(what: str) -> HarnessError:
    """What to say of a tower that no student can take its layers from."""
    return HarnessError(f"the text model has {what}, which students do not have: start them with --init scratch")


def from_clip(tower: ClipText) -> tuple[TowerConfig, Weights]:
    """The layers of open_clip's own transformer."""
    module = tower.module
    if module.attn_mask is None:
        raise no_counterpart("tokens that attend to padding")
    blocks = list(module.transformer.resblocks)
    for block in blocks:
        check_block(block)
    first = blocks[0]
    config = TowerConfig(
        vocab_size=module.token_embedding.num_embeddings,
        width=module.token_embedding.embedding_dim,
        layers=len(blocks),
        heads=first.attn.num_heads,
        mlp_width=first.mlp.c_fc.out_features,
        joint_dim=(projection := clip_projection(tower)).shape[0],
        max_length=len(module.positional_embedding),
        norm="pre",
        causal=True,
        activation=clip_activation(first.mlp.gelu),
        norm_eps=module.ln_final.eps,
    )
    weights = {
        "token_embedding.weight": module.token_embedding.weight,
        "position_embedding": module.positional_embedding,
        "projection.weight": projection,
        **layer("final_norm", module.ln_final),
    }
    for index, block in enumerate(blocks):
        parts = {"attention_norm": block.ln_1, "attention_out": block.attn.out_proj, "mlp_norm": block.ln_2}
        parts |= {"mlp_in": block.mlp.c_fc, "mlp_out": block.mlp.c_proj}
        weights[f"blocks.{index}.qkv.weight"] = block.attn.in_proj_weight
        weights[f"blocks.{index}.qkv.bias"] = block.attn.in_proj_bias
        for name, part in parts.items():
            weights |= layer(f"blocks.{index}.{name}", part)
    return config, weights


def check_block(block: nn.Module) -> None:
    """Raise HarnessError for a block that is not the plain one."""
    if not isinstance(block, ResidualAttentionBlock):
        raise no_counterpart(f"blocks of another make ({type(block).__name__})")
    if not isinstance(block.ls_1, nn.Identity) or not isinstance(block.ls_2, nn.Identity):
        raise no_counterpart("layer scales")


def clip_activation(module: nn.Module) -> Activation:
    """The activation's name in `TowerConfig`."""
    if isinstance(module, QuickGELU):
        return "quick_gelu"
    if isinstance(module, nn.GELU):
        return "gelu_tanh" if module.approximate == "tanh" else "gelu"
    raise no_counterpart(f"the activation {type(module).__name__}")


def clip_projection(tower: ClipText) -> Tensor:
    """The projection into the joint space as (d, width)."""
    projection = tower.module.text_projection
    if isinstance(projection, nn.Linear):
        return linear_projection(projection)
    matrix: Tensor = torch.eye(tower.module.token_embedding.embedding_dim) if projection is None else projection.T
    return matrix


def linear_projection(projection: nn.Linear) -> Tensor:
    """The weight of a linear projection. Raises HarnessError if it has a bias too."""
    if "bias" in projection.state_dict():
        raise no_counterpart("a projection with a bias")
    weight: Tensor = projection.weight
    return weight


def from_bert(model: Any, settings: Any, projection: Tensor, context_length: int) -> tuple[TowerConfig, Weights]:
    """The layers of a BERT or RoBERTa with the given projection (d, width)."""
    if settings.model_type not in BERT_LIKE:
        raise no_counterpart(f"the architecture {settings.model_type}")
    if getattr(settings, "position_embedding_type", "absolute") != "absolute":
        raise no_counterpart(f"{settings.position_embedding_type} positions")
    if settings.hidden_act not in HF_ACTIVATIONS:
        raise no_counterpart(f"the activation {settings.hidden_act}")
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
        activation=HF_ACTIVATIONS[settings.hidden_act],
        norm_eps=settings.layer_norm_eps,
    )
    weights = {
        "token_embedding.weight": model.embeddings.word_embeddings.weight,
        "position_embedding": positions,
        "projection.weight": projection,
        **layer("embedding_norm", model.embeddings.LayerNorm),
    }
    for index, block in enumerate(model.encoder.layer):
        weights |= bert_block(f"blocks.{index}", block)
    return config, weights


def bert_positions(embeddings: Any, settings: Any, context_length: int) -> Tensor:
    """Position embeddings, with that of token type 0 in them, which every token has."""
    first = settings.pad_token_id + 1 if BERT_LIKE[settings.model_type] else 0
    rows = embeddings.position_embeddings.weight[first:][:context_length]
    positions: Tensor = rows + embeddings.token_type_embeddings.weight[0]
    return positions


def bert_projection(projection: nn.Module, width: int) -> Tensor:
    """The projection into the joint space as (d, width)."""
    if isinstance(projection, nn.Identity):
        return torch.eye(width)
    if isinstance(projection, nn.Linear):
        return linear_projection(projection)
    raise no_counterpart("a projection that is not linear")


def bert_block(prefix: str, block: Any) -> Weights:
    """One block's weights; queries, keys and values become one matrix."""
    attention = block.attention.self
    inputs = [attention.query, attention.key, attention.value]
    return {
        f"{prefix}.qkv.weight": torch.cat([part.weight for part in inputs]),
        f"{prefix}.qkv.bias": torch.cat([part.bias for part in inputs]),
        **layer(f"{prefix}.attention_out", block.attention.output.dense),
        **layer(f"{prefix}.attention_norm", block.attention.output.LayerNorm),
        **layer(f"{prefix}.mlp_in", block.intermediate.dense),
        **layer(f"{prefix}.mlp_out", block.output.dense),
        **layer(f"{prefix}.mlp_norm", block.output.LayerNorm),
    }


def layer(name: str, module: Any) -> Weights:
    """Weight and bias of a layer under a new name."""
    return {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
