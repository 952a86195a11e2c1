"""Image ids in the names of files and captions."""

from __future__ import annotations


def photo_id(name: str) -> str:
    """Return the image id in a file name: the part before the first `_`, `.` or `#`. In a COCO name, `_` belongs to the id.

    >>> photo_id("1000366164_ab12.jpg"), photo_id("1000366164.jpg#0"), photo_id("1000366164")
    ('1000366164', '1000366164', '1000366164')
    >>> photo_id("COCO_val2014_000000117071.jpg")
    'COCO_val2014_000000117071'
    """
    for mark in ".#" if name.startswith("COCO_") else "_.#":
        name = name.partition(mark)[0]
    return name.strip()
