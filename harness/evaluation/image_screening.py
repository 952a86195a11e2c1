"""Find images that cannot be decoded before anything is measured, and drop them from the gallery with a note."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from harness.core.data import Images, Retrieval
from harness.core.digests import digest_strings
from harness.core.errors import HarnessError
from harness.runtime.prefetch import prefetch

if TYPE_CHECKING:
    from PIL import Image

_NAMED = 5
_AHEAD = 64

R = TypeVar("R", bound=Retrieval)


@dataclass(frozen=True)
class ImageSubset:
    """Some images of a gallery, in its order."""

    images: Images
    rows: tuple[int, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the images."""
        return tuple(self.images.ids[row] for row in self.rows)

    def open(self, index: int) -> Image.Image:
        """Decode one of the images."""
        return self.images.open(self.rows[index])

    def digest(self) -> str:
        """Return a digest of the full gallery and of the remaining ids."""
        return digest_strings(["part", self.images.digest(), *self.ids])


def without_undecodable_images(retrieval: R) -> R:
    """Return a copy without the images that cannot be decoded and their captions. A note names the dropped images.

    Every image is decoded, on all processors. Raises HarnessError if none can be decoded.
    """
    images = retrieval.images
    problems = {
        row: why
        for row, why in enumerate(prefetch(lambda row: decoding_problem(images, row), range(len(images.ids)), _AHEAD))
        if why
    }
    if not problems:
        return retrieval
    rows = tuple(row for row in range(len(images.ids)) if row not in problems)
    if not rows:
        raise HarnessError(f"none of the {len(images.ids):,} images can be decoded, the first: {problems[0]}")
    names = [images.ids[row] for row in problems]
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    note = f"{len(names):,} of {len(images.ids):,} images skipped, which cannot be decoded: {', '.join(names[:_NAMED])}{more}"
    left = retrieval.among(ImageSubset(images, rows))
    return replace(left, notes=(*left.notes, note))


def decoding_problem(images: Images, row: int) -> str:
    """Return why an image cannot be decoded, an empty text if it can."""
    try:
        images.open(row)
    except HarnessError as error:
        return str(error)
    return ""
