"""Readers of image regions: annotated boxes or the proposals of a detector. Neither depends on the query."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from harness.core.data import Images, Regions
from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.tasks.entities.corpus import ANNOTATIONS, URL, EntityBox, read_image_annotation

PROPOSALS = "proposals"
ORACLE = "regions are boxes that people drew for the image's own captions: an oracle, not what a system would find by itself"

_Coordinate = Annotated[float, Field(allow_inf_nan=False)]
_Size = tuple[int, int]


class _Proposals(BaseModel):
    """A file of proposals: boxes (left, top, right, bottom) in pixels from 0, in descending order or with scores.

    width, height: the size of the picture that the detector processed. The default is the size in `Annotations`, else that of the
    picture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    boxes: tuple[tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate], ...]
    scores: tuple[_Coordinate, ...] | None = None
    width: Annotated[int, Field(gt=0)] | None = None
    height: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> _Proposals:
        if self.scores is not None and len(self.scores) != len(self.boxes):
            raise ValueError(f"{len(self.scores)} scores for {len(self.boxes)} boxes")
        if (self.width is None) != (self.height is None):
            raise ValueError("width and height are only valid together")
        return self


def read_regions(data: Path, images: Images, candidates: str) -> Regions:
    """Return the regions of images, without duplicate boxes of an image.

    candidates: `boxes` for all boxes of an image in `Annotations/<id>.xml`, whichever caption they belong to; `proposals` for
    those of `proposals/<id>.json`.
    Raises HarnessError if the folder has none of them, and HarnessError naming a file that cannot be read.
    """
    found = [_of_image(data, images, index, candidates) for index in range(len(images.ids))]
    boxes = [tuple(dict.fromkeys(each)) for _, each in found]
    if not any(boxes):
        place, url = (ANNOTATIONS + "/<id>.xml", f" ({URL})") if candidates == "boxes" else (PROPOSALS + "/<id>.json", "")
        raise HarnessError(f"{data} has no regions of these {len(images.ids):,} images: looked for {place}{url}")
    bare = sum(not each for each in boxes)
    notes = [ORACLE] if candidates == "boxes" else []
    return Regions(
        images=images,
        boxes=np.array([box for each in boxes for box in each], dtype=np.int64).reshape(-1, 4),
        box_images=np.repeat(np.arange(len(boxes)), [len(each) for each in boxes]),
        sizes=np.array([size for size, _ in found], dtype=np.int64),
        source=candidates,
        notes=(*notes, *([f"{bare:,} of {len(boxes):,} images have no region"] if bare else [])),
    )


def _of_image(data: Path, images: Images, index: int, candidates: str) -> tuple[_Size, list[EntityBox]]:
    annotation = read_image_annotation(data, images.ids[index])
    size = None if annotation is None else (annotation.width, annotation.height)
    if candidates == "proposals":
        path = data / PROPOSALS / f"{images.ids[index]}.json"
        proposals = _read(path) if path.is_file() else _Proposals(boxes=())
        given = (proposals.width, proposals.height) if proposals.width and proposals.height else None
        size = size or given or images.open(index).size
        return size, [_fitted(path, box, given or size, size) for box in proposals.boxes]
    return size or (1, 1), [box for _, box in annotation.boxes] if annotation else []


def _fitted(path: Path, box: tuple[float, float, float, float], given: _Size, size: _Size) -> EntityBox:
    """Return a proposal scaled from one picture size to another, in whole pixels and clipped to the picture."""
    across, down = size[0] / given[0], size[1] / given[1]
    left, top = max(int(np.floor(box[0] * across)), 0), max(int(np.floor(box[1] * down)), 0)
    right, bottom = min(int(np.ceil(box[2] * across)), size[0]), min(int(np.ceil(box[3] * down)), size[1])
    if left >= right or top >= bottom:
        raise HarnessError(f"{path}: the box {list(box)} contains no pixel of the {given[0]} x {given[1]} picture")
    return left, top, right, bottom


def _read(path: Path) -> _Proposals:
    try:
        return _adapter().validate_json(path.read_bytes())
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        raise HarnessError(
            f'{path} is no file of proposals: {short_message(error)}; expected {{"boxes": [[left, top, right, '
            'bottom], ...], "scores": [...] (optional)}'
        ) from None


@cache
def _adapter() -> TypeAdapter[_Proposals]:
    return TypeAdapter(_Proposals)
