"""Conversion of open_clip's own text transformer to `TextTower`."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from harness.core.errors import HarnessError
from harness.distill.model.tower import Block, TowerConfig

Activation: TypeAlias = Literal["gelu", "quick_gelu", "gelu_tanh", "relu"]
Weights: TypeAlias = dict[str, Tensor]


def convert_blocks(module: Any) -> nn.Sequential | None:
    """Return the transformer's blocks as `Block` modules that share its weights, or None if they have no counterpart.

    The results are equal up to rounding. `Block` avoids the copies of weights that torch's attention makes under autocast.
    It also selects the faster matrix product (docs/performance.md).
    """
    try:
        config = clip_config(module, joint_dim=1)
    except HarnessError:
        return None
    with torch.device("meta"):
        blocks = nn.Sequential(*(Block(config) for _ in range(config.layers)))
    blocks.load_state_dict(block_weights(module), assign=True)
    return blocks


def from_clip(module: Any) -> tuple[TowerConfig, Weights]:
    """Return the shape and the weights of open_clip's own transformer. The weights are not copied.

    module: a `CLIP`, which contains the transformer, or the `text` of a `CustomTextCLIP`.
    Raises HarnessError if the architecture has no counterpart in `TowerConfig`.
    """
    projection = clip_projection(module)
    weights = {
        "token_embedding.weight": module.token_embedding.weight,
        "position_embedding": module.positional_embedding,
        "projection.weight": projection,
        **named_layer("final_norm", module.ln_final),
        **{f"blocks.{name}": weight for name, weight in block_weights(module).items()},
    }
    return clip_config(module, len(projection)), weights


def clip_config(module: Any, joint_dim: int) -> TowerConfig:
    """Return the transformer's shape. Raises HarnessError if its blocks are not the standard ones."""
    blocks = list(module.transformer.resblocks)
    for block in blocks:
        check_block(block)
    first = blocks[0]
    return TowerConfig(
        vocab_size=module.token_embedding.num_embeddings,
        width=module.token_embedding.embedding_dim,
        layers=len(blocks),
        heads=first.attn.num_heads,
        mlp_width=first.mlp.c_fc.out_features,
        joint_dim=joint_dim,
        max_length=len(module.positional_embedding),
        norm="pre",
        causal=module.attn_mask is not None,
        activation=clip_activation(first.mlp.gelu),
        norm_eps=module.ln_final.eps,
    )


def block_weights(module: Any) -> Weights:
    """Return the weights of all blocks, named by the block's number and the layer's name in `Block`."""
    weights = {}
    for index, block in enumerate(module.transformer.resblocks):
        parts = {"attention_norm": block.ln_1, "attention_out": block.attn.out_proj, "mlp_norm": block.ln_2}
        parts |= {"mlp_in": block.mlp.c_fc, "mlp_out": block.mlp.c_proj}
        weights[f"{index}.qkv.weight"] = block.attn.in_proj_weight
        weights[f"{index}.qkv.bias"] = block.attn.in_proj_bias
        for name, part in parts.items():
            weights |= named_layer(f"{index}.{name}", part)
    return weights


def check_block(block: nn.Module) -> None:
    """Raise HarnessError if a block is not the standard one."""
    if not isinstance(block, ResidualAttentionBlock):
        raise unsupported_error(f"non-standard blocks ({type(block).__name__})")
    if not isinstance(block.ls_1, nn.Identity) or not isinstance(block.ls_2, nn.Identity):
        raise unsupported_error("layer scales")


def clip_activation(module: nn.Module) -> Activation:
    """Return the activation's name in `TowerConfig`. Raises HarnessError if it has none."""
    if isinstance(module, QuickGELU):
        return "quick_gelu"
    if isinstance(module, nn.GELU):
        return "gelu_tanh" if module.approximate == "tanh" else "gelu"
    raise unsupported_error(f"the activation {type(module).__name__}")


def clip_projection(module: Any) -> Tensor:
    """Return the projection into the joint space, (d, width)."""
    projection = module.text_projection
    if isinstance(projection, nn.Linear):
        return linear_projection(projection)
    matrix: Tensor = torch.eye(module.token_embedding.embedding_dim) if projection is None else projection.T
    return matrix


def linear_projection(projection: nn.Linear) -> Tensor:
    """Return the weight of a linear projection. Raises HarnessError if the projection has a bias."""
    if "bias" in projection.state_dict():
        raise unsupported_error("a projection with a bias")
    weight: Tensor = projection.weight
    return weight


def unsupported_error(what: str) -> HarnessError:
    """Return the error for a text tower whose layers cannot initialize a student."""
    return HarnessError(f"the text model has {what}, which students do not support")


def named_layer(name: str, module: Any) -> Weights:
    """Return the weight and the bias of a layer under a new name."""
    return {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
