"""Another way to compute an open_clip model, named in front of it: `fast:` and `bfloat16:`."""

from __future__ import annotations

from harness.core.builtins import load_encoder
from harness.core.errors import HarnessError
from harness.encoders.open_clip.models import OpenClip


def fast_encoder(argument: str, device: str) -> OpenClip:
    """`fast:ENCODER`: an open_clip model whose pictures torch resizes instead of Pillow, within 2/255, and faster.

    Raises HarnessError for an encoder that is no open_clip model.
    """
    return load_plain_open_clip(argument, device, "fast").with_options(resize="torch")


def bfloat16_encoder(argument: str, device: str) -> OpenClip:
    """`bfloat16:ENCODER`: an open_clip model whose products are computed in half precision, for GPUs and processors that have it.

    Raises HarnessError for an encoder that is no open_clip model.
    """
    return load_plain_open_clip(argument, device, "bfloat16").with_options(precision="bfloat16")


def load_plain_open_clip(argument: str, device: str, name: str) -> OpenClip:
    """The model named behind the variant. A plug-in's subclass is none: the variant would compute without what it changes."""
    encoder = load_encoder(argument, device) if argument else None
    if type(encoder) is not OpenClip:
        raise HarnessError(f"{name}:{argument}: expected {name}: and an open_clip model, as {name}:open_clip:ViT-B-32/openai")
    return encoder
