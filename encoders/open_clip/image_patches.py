"""Patch states of open_clip's image towers.

The trunk encodes the complete image. A patch's state is the output of the tower's own head (pooling and projection) for that
patch alone, so it is in the joint space by construction. If the head projects the mean, the image's embedding is the mean of
the states. If the head uses attention (CLIP's ResNets), the embedding is a weighted mixture of the states, as in MaskCLIP
(arXiv 2112.01071).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from harness.core.errors import HarnessError

# Function from preprocessed images (B, 3, height, width) to embeddings (B, d) and patch states (B, p, d).
ReadPatches = Callable[[Tensor], tuple[Tensor, Tensor]]


def patch_reader(visual: nn.Module, name: str) -> ReadPatches:
    """Return the function that reads an image tower's patch states.

    Raises HarnessError if the tower's head cannot be applied to a single patch.
    """
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
        return lambda pixels: read_transformer(visual, pixels)
    if isinstance(visual, ModifiedResNet):
        return lambda pixels: read_resnet(visual, pixels)
    if isinstance(visual, TimmModel) and not hasattr(visual.head, "pool"):
        return lambda pixels: read_timm(visual, pixels)
    raise HarnessError(
        f"{name} gives no patch states: the head of its image tower pools by learned queries or positions, which do not apply to "
        "one patch; docs/late-interaction.md lists the encoders that do"
    )


def read_transformer(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Read CLIP's own vision transformer. Every token except the class token goes through the last norm and the projection."""
    hidden = visual.transformer(visual._embeds(pixels))
    heads = visual._pool(hidden)[0], visual.ln_post(hidden[:, 1:])
    pooled, states = heads if visual.proj is None else (each @ visual.proj for each in heads)
    return pooled, states


def read_resnet(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Read CLIP's ResNets, whose head attends over positions. A state is the head's output with all attention on one position."""
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
    head = visual.attnpool
    places = features.flatten(2).transpose(1, 2) + head.positional_embedding[1:]
    return head(features), head.c_proj(head.v_proj(places))


def read_timm(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Read timm's towers. The head receives a feature map of one position, or a sequence that contains one patch only."""
    trunk = visual.trunk
    features = trunk.forward_features(pixels)
    if features.ndim == 4 and getattr(trunk, "output_fmt", "NCHW") == "NHWC":
        places = features.flatten(1, 2)
        single = places.flatten(0, 1)[:, None, None]
    elif features.ndim == 4:
        places = features.flatten(2).transpose(1, 2)
        single = places.flatten(0, 1)[:, :, None, None]
    else:
        before = trunk.num_prefix_tokens
        places = features[:, before:]
        # The patch also replaces the prefix tokens, such as the class token. Then heads that use the class token, skip it or
        # attend over all tokens give the same result.
        single = places.flatten(0, 1)[:, None].expand(-1, before + 1, -1)
    pooled, states = (visual.head(trunk.forward_head(each)) for each in (features, single))
    return pooled, states.unflatten(0, places.shape[:2])
