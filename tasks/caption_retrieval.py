"""Construction of image-text retrieval problems from captions and pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from harness.core.data import Retrieval, TaskCard, Unseen
from harness.tasks.readers.captions import Caption
from harness.tasks.readers.pictures import PictureIndex, Pictures


def build_retrieval(
    card: TaskCard,
    lang: str,
    split: str,
    source: str,
    kind: str,
    images: Sequence[str],
    rows: Iterable[Caption],
    pictures: PictureIndex | None,
    notes: Sequence[str] = (),
    sample: bool = False,
) -> Retrieval:
    """Return the retrieval over the images of a split that have captions, in order, and all their captions.

    The notes count images without captions and repeated captions. pictures: the pictures of the images, or None if the retrieval
    needs none.
    """
    by_image: defaultdict[str, list[Caption]] = defaultdict(list)
    for row in rows:
        by_image[row.image].append(row)
    there = [name for name in images if name in by_image]
    taken = [row for name in there for row in by_image[name]]
    places = {name: index for index, name in enumerate(there)}
    english = [row.english for row in taken if row.english is not None]
    part = [f"{len(there):,} of {len(images):,} images have a caption in {lang}"] if len(there) < len(images) else []
    return Retrieval(
        task=card.name,
        lang=lang,
        split=split,
        source=source,
        kind=kind,
        images=Pictures(there, [pictures.blobs[name] for name in there]) if pictures is not None else Unseen(tuple(there)),
        captions=tuple(row.text for row in taken),
        caption_ids=tuple(map(caption_id, taken)),
        caption_images=np.array([places[row.image] for row in taken], dtype=np.int64),
        english=tuple(english) if len(english) == len(taken) else None,
        sample=sample,
        notes=(*notes, *part, *_repeats(taken)),
    )


def _repeats(taken: Sequence[Caption]) -> Iterator[str]:
    """Yield notes on repeated captions, counted separately within one image and across images."""
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for row in taken:
        owners[row.text].append(row.image)
    several = [images for images in owners.values() if len(images) > 1]
    again = sum(len(images) - len(set(images)) for images in several)
    shared = sum(len(images) for images in several if len(set(images)) > 1)
    if again:
        yield f"{again:,} of {len(taken):,} captions repeat another of the same image"
    if shared:
        yield (
            f"{shared:,} of {len(taken):,} captions are shared by several images: they tie, and at most one of these images can "
            "rank first"
        )


def caption_id(caption: Caption) -> str:
    """Return the id of a caption in records: the image id, `#` and the caption number."""
    return f"{caption.image}#{caption.number}"
