"""open_clip's image towers, read patch by patch.

A patch's state is what the tower's own head (pooling and projection) makes of that patch alone, once the trunk has seen the
whole picture. So the state is in the joint space by construction. Where the head takes the mean and projects it, the picture's
embedding is the mean of the states; where it attends (CLIP's ResNets), a mixture of them (as in MaskCLIP, arXiv 2112.01071).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from harness.core.errors import HarnessError

# Prepared pictures (B, 3, height, width) to embeddings (B, d) and patch states (B, p, d).
ReadPatches = Callable[[Tensor], tuple[Tensor, Tensor]]


def patch_reader(visual: nn.Module, name: str) -> ReadPatches:
    """How the patches of an image tower are read. Raises HarnessError if its head cannot be asked about a patch by itself."""
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
        return lambda pixels: read_transformer(visual, pixels)
    if isinstance(visual, ModifiedResNet):
        return lambda pixels: read_resnet(visual, pixels)
    if isinstance(visual, TimmModel) and not hasattr(visual.head, "pool"):
        return lambda pixels: read_timm(visual, pixels)
    raise HarnessError(
        f"{name} gives no patch states: its image tower pools by queries or places of its own, which say nothing of one patch; "
        "docs/late-interaction.md says which do"
    )


def read_transformer(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP's own vision transformer: every token but the class token, through its last norm and projection."""
    hidden = visual.transformer(visual._embeds(pixels))
    heads = visual._pool(hidden)[0], visual.ln_post(hidden[:, 1:])
    pooled, states = heads if visual.proj is None else (each @ visual.proj for each in heads)
    return pooled, states


def read_resnet(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP's ResNets, whose head attends over places: what it gives if all its attention lies on one."""
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
    head = visual.attnpool
    places = features.flatten(2).transpose(1, 2) + head.positional_embedding[1:]
    return head(features), head.c_proj(head.v_proj(places))


def read_timm(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """timm's towers: the head is shown a map of one place, or a sequence that has nothing but one patch in it."""
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
        # In the place of the class token as well: heads that take that one, leave it out, or attend then give one answer.
        single = places.flatten(0, 1)[:, None].expand(-1, before + 1, -1)
    pooled, states = (visual.head(trunk.forward_head(each)) for each in (features, single))
    return pooled, states.unflatten(0, places.shape[:2])
