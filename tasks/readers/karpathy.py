"""Reader of Karpathy's JSON file of Flickr30k: the split and the English captions of each image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.readers.image_ids import photo_id
from harness.storage.plain_files import check_plain_file

JSON_NAME = "dataset_flickr30k.json"
_FORM = '{"images": [{"filename", "split", "sentences": [{"raw"}, ...]}, ...]}'


@dataclass(frozen=True, slots=True)
class Photo:
    """An image of the data set. `captions` are those of the file, unchanged, including empty ones."""

    id: str
    filename: str
    split: str
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sentence:
    raw: str


@dataclass(frozen=True, slots=True)
class _Image:
    filename: str
    split: str
    sentences: list[_Sentence]


@dataclass(frozen=True, slots=True)
class _File:
    images: list[_Image]


def read_photos(path: Path) -> tuple[Photo, ...]:
    """Read all images of a file in Karpathy's form, in its order.

    Raises HarnessError naming the file, the expected form and the first deviation from it.
    """
    check_plain_file(path)
    try:
        stat = path.stat()
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror or error}") from None
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _read(path: Path, _changed: int, _size: int) -> tuple[Photo, ...]:
    """Parse a file, cached while it does not change, since a study reads it once for each language."""
    try:
        # The adapter parses and validates in one pass and never builds unused parts such as `tokens`.
        images = _adapter().validate_json(path.read_bytes().removeprefix(b"\xef\xbb\xbf")).images
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        raise HarnessError(f"{path} is not Karpathy's form {_FORM}: {short_message(error)}") from None
    photos = tuple(Photo(photo_id(i.filename), i.filename, i.split, tuple(s.raw for s in i.sentences)) for i in images)
    _check_ids(path, photos)
    return photos


def _check_ids(path: Path, photos: tuple[Photo, ...]) -> None:
    for name, count in Counter(photo.id for photo in photos).items():
        if not name:
            raise HarnessError(f"{path} is not Karpathy's form {_FORM}: an image has a file name without an id")
        if count > 1:
            raise HarnessError(f"{path} lists the image {name} {count} times: every image belongs to one split")


@cache
def _adapter() -> TypeAdapter[_File]:
    return TypeAdapter(_File)
