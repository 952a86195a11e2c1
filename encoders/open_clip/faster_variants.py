"""Faster variants of an open_clip model, selected by the prefixes `fast:` and `bfloat16:`."""

from __future__ import annotations

from harness.core.builtins import load_encoder
from harness.core.errors import HarnessError
from harness.encoders.open_clip.models import OpenClip


def fast_encoder(argument: str, device: str) -> OpenClip:
    """`fast:ENCODER`: an open_clip model whose images torch resizes instead of Pillow: faster, within 2/255.

    Raises HarnessError if the encoder is not an open_clip model.
    """
    return load_plain_open_clip(argument, device, "fast").with_options(resize="torch")


def bfloat16_encoder(argument: str, device: str) -> OpenClip:
    """`bfloat16:ENCODER`: an open_clip model with matrix products in bfloat16, for GPUs and processors that support it.

    Raises HarnessError if the encoder is not an open_clip model.
    """
    return load_plain_open_clip(argument, device, "bfloat16").with_options(precision="bfloat16")


def load_plain_open_clip(argument: str, device: str, name: str) -> OpenClip:
    """Return the model named after the prefix. Raises HarnessError if it is not an open_clip model.

    A subclass from a plug-in is refused, because the variant would ignore the subclass's changes.
    """
    encoder = load_encoder(argument, device) if argument else None
    if type(encoder) is not OpenClip:
        raise HarnessError(f"{name}:{argument}: expected {name}: and an open_clip model, as {name}:open_clip:ViT-B-32/openai")
    return encoder
