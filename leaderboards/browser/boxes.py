"""What the error browser draws into pictures: where the things are that a caption names, or where a phrase is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.data import Floats, Grounding, Ints, Place, Retrieval
from harness.core.errors import HarnessError
from harness.core.protocols import RegionTask, TaggedTask, Task
from harness.leaderboards.board.builder import sanitize_line
from harness.records.schema import Record
from harness.retrieval.regions import gallery_places, starts_of


def picture_sizes(record: Record, task: Task, folder: Path, retrieval: Retrieval) -> Ints | None:
    """In grounding, width and height (n, 2) of the pictures that boxes are measured on.

    Raises HarnessError if the folder has other regions than those that were ranked.
    """
    if not (retrieval.sought == "regions" and isinstance(task, RegionTask) and record.regions):
        return None
    regions = task.load_regions(folder, record.split, record.regions.source)
    if regions.digest() != record.regions.digest:
        raise HarnessError(f"{folder} has not the regions that {record.cell[:12]} was measured on")
    return regions.sizes[gallery_places(regions, retrieval.images)]


def query_places(task: Task, folder: Path, retrieval: Retrieval, sizes: Ints | None) -> Sequence[tuple[Place, ...]]:
    """What each query names and where it is in the picture: in grounding the phrase itself, else the phrases of the caption."""
    if isinstance(retrieval, Grounding) and sizes is not None:
        boxes = relative_boxes(retrieval.targets, sizes[retrieval.caption_images[retrieval.target_captions]]).tolist()
        starts = starts_of(retrieval.target_captions, len(retrieval.captions))
        types = retrieval.facets["entity-type"]
        return [
            (Place(words, types[number], tuple(map(tuple, boxes[starts[number] : starts[number + 1]]))),)
            for number, words in enumerate(retrieval.captions)
        ]
    if isinstance(task, TaggedTask) and retrieval.opens_pictures:
        return task.load_places(folder, retrieval)
    return [()] * len(retrieval.captions)


def relative_boxes(boxes: Ints, sizes: Ints) -> Floats:
    """Boxes (g, 4) as shares of the width and height (g, 2) of their pictures."""
    out: Floats = (boxes / np.concatenate([sizes, sizes], axis=1)).astype(np.float32)
    return out


def place_payload(place: Place) -> list[Any]:
    """A phrase, its types and its boxes."""
    return [
        sanitize_line(place.words),
        [sanitize_line(name, 40) for name in place.types],
        [rounded_values(box) for box in place.boxes],
    ]


def rounded_values(values: Sequence[float]) -> list[float]:
    """Numbers as short as a picture of a few hundred pixels needs them."""
    return [round(float(value), 3) for value in values]
