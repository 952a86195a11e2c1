"""Boxes that the error browser draws into pictures: of the entities that a caption names, or of a phrase."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.data import Floats, Grounding, Ints, Place, Retrieval
from harness.core.errors import HarnessError
from harness.core.protocols import RegionTask, TaggedTask, Task
from harness.leaderboards.rendering import sanitize_line
from harness.records.schema import Record
from harness.retrieval.regions import gallery_places, group_starts


def picture_sizes(record: Record, task: Task, folder: Path, retrieval: Retrieval) -> Ints | None:
    """Return the width and height (n, 2) of the pictures in phrase grounding, or None in other tasks.

    Raises HarnessError if the folder has other regions than those that were ranked.
    """
    if not (retrieval.sought == "regions" and isinstance(task, RegionTask) and record.regions):
        return None
    regions = task.load_regions(folder, record.split, record.regions.source)
    if regions.digest() != record.regions.digest:
        raise HarnessError(f"{folder} does not hold the regions that {record.cell[:12]} was measured on")
    return regions.sizes[gallery_places(regions, retrieval.images)]


def query_places(task: Task, folder: Path, retrieval: Retrieval, sizes: Ints | None) -> Sequence[tuple[Place, ...]]:
    """Return the phrases of each query with their boxes: in phrase grounding the query itself, else the caption's phrases."""
    if isinstance(retrieval, Grounding) and sizes is not None:
        boxes = relative_boxes(retrieval.targets, sizes[retrieval.caption_images[retrieval.target_captions]]).tolist()
        starts = group_starts(retrieval.target_captions, len(retrieval.captions))
        types = retrieval.facets["entity-type"]
        return [
            (Place(words, types[number], tuple(map(tuple, boxes[starts[number] : starts[number + 1]]))),)
            for number, words in enumerate(retrieval.captions)
        ]
    if isinstance(task, TaggedTask) and retrieval.opens_pictures:
        return task.load_places(folder, retrieval)
    return [()] * len(retrieval.captions)


def relative_boxes(boxes: Ints, sizes: Ints) -> Floats:
    """Return boxes (g, 4) as fractions of the width and height (g, 2) of their pictures."""
    out: Floats = (boxes / np.concatenate([sizes, sizes], axis=1)).astype(np.float32)
    return out


def place_payload(place: Place) -> list[Any]:
    """Return a phrase, its types and its boxes for the script."""
    return [
        sanitize_line(place.words),
        [sanitize_line(name, 40) for name in place.types],
        [rounded_values(box) for box in place.boxes],
    ]


def rounded_values(values: Sequence[float]) -> list[float]:
    """Return numbers rounded to 0.001, which suffices for thumbnails of a few hundred pixels."""
    return [round(float(value), 3) for value in values]
