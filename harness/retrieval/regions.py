"""Views of image regions. They are images themselves, so that any image encoder embeds them and the store caches them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.core.data import Floats, Images, Ints, Regions
from harness.core.digests import digest_strings

if TYPE_CHECKING:
    from PIL import Image

View = Literal["crop", "context", "blackout"]


class RegionViews:
    """The regions of a gallery as images (a `harness.core.data.Images`).

    The view `crop` is the region alone. The view `context` is a region of twice its width and height about its centre. The view
    `blackout` is the whole image with everything outside the region black, as in the code of arXiv 2505.02278. Boxes are scaled
    if the size of an image differs from the size that they were measured on.
    """

    def __init__(self, regions: Regions, view: View) -> None:
        self.regions = regions
        self.view = view
        self._open: tuple[int, Image.Image] | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of each region, which joins the image's id and the box."""
        images = self.regions.images.ids
        pairs = zip(self.regions.box_images.tolist(), self.regions.boxes.tolist(), strict=True)
        return tuple(f"{images[image]}@{','.join(map(str, box))}" for image, box in pairs)

    def open(self, index: int) -> Image.Image:
        """Draw one region. Raises HarnessError if its image cannot be read."""
        image = int(self.regions.box_images[index])
        if self._open is None or self._open[0] != image:  # regions of an image are adjacent, so it is decoded once
            self._open = image, self.regions.images.open(image)
        return draw_view(self._open[1], self.regions.boxes[index], self.regions.sizes[image], self.view)

    def digest(self) -> str:
        """Return a digest of images, boxes and view."""
        return digest_strings([self.view, self.regions.digest()])


def draw_view(picture: Image.Image, box: Ints, size: Ints, view: View) -> Image.Image:
    """Draw a view of a box of an image, at least one pixel. box: in pixels of an image of `size`."""
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
    """Return the interval in whole pixels, clipped to a side of `most` pixels. It has at least one pixel.

    >>> whole_pixels(-3.0, 7.2, 6), whole_pixels(9.0, 9.5, 9)
    ((0, 6), (8, 9))
    """
    first = min(max(int(np.floor(start)), 0), most - 1)
    return first, max(min(int(np.ceil(end)), most), first + 1)


def scale_box(picture: Image.Image, box: Ints, size: Ints) -> tuple[float, float, float, float]:
    """Return the box in the pixels of an image that may have been reduced since the box was drawn on `size`."""
    across, down = picture.width / int(size[0]), picture.height / int(size[1])
    left, top, right, bottom = (int(side) for side in box)
    return left * across, top * down, right * across, bottom * down


def group_starts(box_images: Ints, images: int) -> Ints:
    """Return the index of each image's first region, and at last the number of regions, as (images + 1,)."""
    return np.searchsorted(box_images, np.arange(images + 1))


def gallery_places(regions: Regions, images: Images) -> Ints:
    """Return the index of each gallery image among the images of the regions.

    The regions may cover more images than the gallery, since one embedding serves all languages.
    """
    places = {name: place for place, name in enumerate(regions.images.ids)}
    return np.array([places[name] for name in images.ids], dtype=np.int64)


def regions_by_image(views: Floats, regions: Regions, images: Images) -> tuple[Floats, ...]:
    """Return the embeddings (r_i, d) of each image's regions, in the order of the gallery."""
    starts = group_starts(regions.box_images, len(regions.images.ids))
    return tuple(views[starts[place] : starts[place + 1]] for place in gallery_places(regions, images).tolist())
