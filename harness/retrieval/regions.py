"""Regions of pictures as pictures of their own, so that any image encoder embeds them and the store keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.core.data import Floats, Images, Ints, Regions
from harness.core.digests import digest_strings

if TYPE_CHECKING:
    from PIL import Image

View = Literal["crop", "context", "blackout"]


class RegionViews:
    """`harness.core.data.Images`: each region of a gallery, shown in one way.

    `crop` cuts it out; `context` cuts out twice its width and height about its centre; `blackout` keeps the whole picture and
    blacks out the rest, as the code of arXiv 2505.02278 does. Boxes are scaled where a picture is not of the size they were
    measured on.
    """

    def __init__(self, regions: Regions, view: View) -> None:
        self.regions = regions
        self.view = view
        self._open: tuple[int, Image.Image] | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The image's id and the box."""
        images = self.regions.images.ids
        pairs = zip(self.regions.box_images.tolist(), self.regions.boxes.tolist(), strict=True)
        return tuple(f"{images[image]}@{','.join(map(str, box))}" for image, box in pairs)

    def open(self, index: int) -> Image.Image:
        """Show one region. Raises HarnessError if its picture cannot be read."""
        image = int(self.regions.box_images[index])
        if self._open is None or self._open[0] != image:  # regions of an image stand together: it is decoded once
            self._open = image, self.regions.images.open(image)
        return draw_view(self._open[1], self.regions.boxes[index], self.regions.sizes[image], self.view)

    def digest(self) -> str:
        """A digest of pictures, boxes and the way they are shown."""
        return digest_strings([self.view, self.regions.digest()])


def draw_view(picture: Image.Image, box: Ints, size: Ints, view: View) -> Image.Image:
    """A box of a picture, in pixels of `size`, shown in one way; at least one pixel of it."""
    from PIL import Image

    left, top, right, bottom = scale_box(picture, box, size)
    if view == "context":
        across, down = (right - left) / 2, (bottom - top) / 2
        left, top, right, bottom = left - across, top - down, right + across, bottom + down
    left, right = whole_pixels(left, right, picture.width)
    top, bottom = whole_pixels(top, bottom, picture.height)
    cut = picture.crop((left, top, right, bottom))
    if view != "blackout":
        return cut
    dark = Image.new("RGB", picture.size)
    dark.paste(cut, (left, top))
    return dark


def whole_pixels(start: float, end: float, most: int) -> tuple[int, int]:
    """A stretch in whole pixels of a side of `most`, at least one.

    >>> whole_pixels(-3.0, 7.2, 6), whole_pixels(9.0, 9.5, 9)
    ((0, 6), (8, 9))
    """
    first = min(max(int(np.floor(start)), 0), most - 1)
    return first, max(min(int(np.ceil(end)), most), first + 1)


def scale_box(picture: Image.Image, box: Ints, size: Ints) -> tuple[float, float, float, float]:
    """A box in the pixels of a picture that may have been reduced since it was drawn."""
    across, down = picture.width / int(size[0]), picture.height / int(size[1])
    left, top, right, bottom = (int(side) for side in box)
    return left * across, top * down, right * across, bottom * down


def group_starts(box_images: Ints, images: int) -> Ints:
    """Where each image's regions start, and in the last place where all end: (images + 1,)."""
    return np.searchsorted(box_images, np.arange(images + 1))


def gallery_places(regions: Regions, images: Images) -> Ints:
    """For each image of a gallery its place among the regions' images, which may be more: one embedding serves all languages."""
    places = {name: place for place, name in enumerate(regions.images.ids)}
    return np.array([places[name] for name in images.ids], dtype=np.int64)


def regions_by_image(views: Floats, regions: Regions, images: Images) -> tuple[Floats, ...]:
    """The embeddings (r_i, d) of each image's regions, for a gallery in its order."""
    starts = group_starts(regions.box_images, len(regions.images.ids))
    return tuple(views[starts[place] : starts[place + 1]] for place in gallery_places(regions, images).tolist())
