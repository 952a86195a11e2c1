"""From captions and pictures to the retrieval problem that a task hands out."""

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
    """The images of a split that have a caption, in their order, and all their captions; notes count what repeats or has none.

    pictures: where their pictures are; None if nobody will look at them.
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
    """Notes on captions that stand several times in a gallery, counted apart for one image and for several."""
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
    """What a caption is called in records: its image and its number."""
    return f"{caption.image}#{caption.number}"
