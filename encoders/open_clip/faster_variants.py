"""Another way to compute an open_clip model, named in front of it: `fast:` and `bfloat16:`."""

from __future__ import annotations

from harness.core.builtins import load_encoder
from harness.core.errors import HarnessError
from harness.encoders.open_clip.models import OpenClip


def fast(argument: str, device: str) -> OpenClip:
    """`fast:ENCODER`: an open_clip model whose pictures torch resizes instead of Pillow, within 2/255, and faster.

    Raises HarnessError for an encoder that is no open_clip model.
    """
    return model(argument, device, "fast").varied(resize="torch")


def bfloat16(argument: str, device: str) -> OpenClip:
    """`bfloat16:ENCODER`: an open_clip model whose products are computed in half precision, for GPUs and processors that have it.

    Raises HarnessError for an encoder that is no open_clip model.
    """
    return model(argument, device, "bfloat16").varied(precision="bfloat16")


def model(argument: str, device: str, name: str) -> OpenClip:
    """The model named behind the variant. A plug-in's subclass is none: the variant would compute without what it changes."""
    encoder = load_encoder(argument, device) if argument else None
    if type(encoder) is not OpenClip:
        raise HarnessError(f"{name}:{argument}: expected {name}: and an open_clip model, as {name}:open_clip:ViT-B-32/openai")
    return encoder
