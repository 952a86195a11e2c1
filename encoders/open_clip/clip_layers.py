"""open_clip's own text transformer in the form of `TextTower`."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from harness.core.errors import HarnessError
from harness.distill.model.tower import Block, TowerConfig

Activation: TypeAlias = Literal["gelu", "quick_gelu", "gelu_tanh"]
Weights: TypeAlias = dict[str, Tensor]


def convert_blocks(module: Any) -> nn.Sequential | None:
    """The transformer's blocks as `Block`s that share its weights; None where they have no counterpart.

    They give the same to rounding, without the copies that torch's own attention makes of its weights under autocast, and by
    whichever product is quick (docs/performance.md).
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
    """Shape and weights, not copied, of open_clip's own transformer, held by a `CLIP` or being the `text` of a `CustomTextCLIP`.

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
    """The transformer's shape. Raises HarnessError if its blocks are not the plain ones."""
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
    """The weights of all blocks, named by a block's number and its layer in `Block`."""
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
    """Raise HarnessError for a block that is not the plain one."""
    if not isinstance(block, ResidualAttentionBlock):
        raise unsupported_error(f"blocks of another make ({type(block).__name__})")
    if not isinstance(block.ls_1, nn.Identity) or not isinstance(block.ls_2, nn.Identity):
        raise unsupported_error("layer scales")


def clip_activation(module: nn.Module) -> Activation:
    """The activation's name in `TowerConfig`."""
    if isinstance(module, QuickGELU):
        return "quick_gelu"
    if isinstance(module, nn.GELU):
        return "gelu_tanh" if module.approximate == "tanh" else "gelu"
    raise unsupported_error(f"the activation {type(module).__name__}")


def clip_projection(module: Any) -> Tensor:
    """The projection into the joint space as (d, width)."""
    projection = module.text_projection
    if isinstance(projection, nn.Linear):
        return linear_projection(projection)
    matrix: Tensor = torch.eye(module.token_embedding.embedding_dim) if projection is None else projection.T
    return matrix


def linear_projection(projection: nn.Linear) -> Tensor:
    """The weight of a linear projection. Raises HarnessError if it has a bias too."""
    if "bias" in projection.state_dict():
        raise unsupported_error("a projection with a bias")
    weight: Tensor = projection.weight
    return weight


def unsupported_error(what: str) -> HarnessError:
    """What to say of a tower that no student can take its layers from."""
    return HarnessError(f"the text model has {what}, which students do not have: start them with --init scratch")


def named_layer(name: str, module: Any) -> Weights:
    """Weight and bias of a layer under a new name."""
    return {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
