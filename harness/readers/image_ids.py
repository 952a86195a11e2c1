"""Image ids as they stand in names of files and captions."""

from __future__ import annotations


def photo_id(name: str) -> str:
    """The id in a file name: what stands before the first `_`, `.` or `#`. COCO's names are whole ids, of other pictures.

    >>> photo_id("1000366164_ab12.jpg"), photo_id("1000366164.jpg#0"), photo_id("1000366164")
    ('1000366164', '1000366164', '1000366164')
    >>> photo_id("COCO_val2014_000000117071.jpg")
    'COCO_val2014_000000117071'
    """
    for mark in ".#" if name.startswith("COCO_") else "_.#":
        name = name.partition(mark)[0]
    return name.strip()
