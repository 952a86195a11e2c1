"""Image preprocessing with torch's resizing instead of Pillow's: faster, and within 2/255 of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from harness.core.errors import HarnessError

if TYPE_CHECKING:
    from PIL import Image


def torch_preprocessing(config: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    """Return a function that replaces `open_clip.transform.image_transform_v2` for evaluation.

    It resizes bytes by torch's antialiased kernel. It converts an RGB image to a normalised tensor (3, height, width).
    Both resizers use fixed-point arithmetic. A pixel differs from open_clip's by at most 2 of 255 before normalisation.
    config: open_clip's `preprocess_cfg`.
    Raises HarnessError if the configuration has an unsupported resize mode or interpolation.
    """
    height, width = config["size"] if not isinstance(config["size"], int) else (config["size"],) * 2
    way, kernel = config["resize_mode"], config["interpolation"]
    if kernel not in ("bicubic", "bilinear") or not (way == "squash" or (way == "shortest" and height == width)):
        raise HarnessError(f"fast: does not support resizing by {kernel}, {way} to {height} x {width}: leave fast: out")
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))

    def prepare(picture: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        size = (height, width) if way == "squash" else resized_size(pixels.shape[2:], height)
        resized = interpolate(pixels, size, mode=kernel, antialias=True)[0]
        top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
        return (resized[:, top : top + height, left : left + width].float() / 255 - mean) / std

    return prepare


def resized_size(size: torch.Size, side: int) -> tuple[int, int]:
    """Return the height and width of an image whose shorter side becomes `side`, rounded as in torchvision.

    >>> resized_size(torch.Size((375, 500)), 224), resized_size(torch.Size((500, 333)), 224)
    ((224, 298), (336, 224))
    """
    height, width = size
    return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
