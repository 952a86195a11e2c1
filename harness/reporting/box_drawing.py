"""Boxes drawn on images, with labels below the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.core.data import Grounding, Ints, Regions
from harness.core.errors import HarnessError
from harness.retrieval.regions import gallery_places, scale_box
from harness.statistics.measurement import Measurement

if TYPE_CHECKING:
    from PIL import Image

# Okabe and Ito's palette for colour-blind readers. The first colour marks true boxes.
_BOX_COLOURS = ("#009E73", "#D55E00", "#0072B2", "#E69F00", "#CC79A7", "#56B4E9")
_MIN_WIDTH = 480
_MAX_EXAMPLES = 24
PixelBox = tuple[float, float, float, float]


def draw_boxes(image: Image.Image, boxes: Sequence[PixelBox], labels: Sequence[str], title: str = "") -> Image.Image:
    """Return a copy of an image, at least 480 pixels wide, with boxes (left, top, right, bottom, in its pixels).

    Each label is printed below the image next to a patch of the colour of its box, so that labels cover no part of the image.
    `title`, for example a phrase, is printed above them. The font is the default one of Pillow. It shows missing characters as
    boxes.
    """
    from PIL import Image, ImageDraw, ImageFont

    scale = max(_MIN_WIDTH / image.width, 1)
    shown = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    line = 22
    rows = [*([title] if title else []), *labels]
    sheet = Image.new("RGB", (shown.width, shown.height + line * len(rows) + (8 if rows else 0)), "white")
    sheet.paste(shown)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    colours = [_BOX_COLOURS[place % len(_BOX_COLOURS)] for place in range(len(boxes))]
    for box, colour in zip(boxes, colours, strict=True):
        left, top, right, bottom = (side * scale for side in box)
        corners = left, top, max(right - 1, left), max(bottom - 1, top)
        # The last box has a thinner line, so that a box below it stays visible.
        pen.rectangle(corners, outline=colour, width=3 if box is boxes[-1] else 6)
    for place, text in enumerate(rows):
        top = shown.height + 6 + line * place
        beside = place - len(rows) + len(labels)
        if beside >= 0:
            pen.rectangle((8, top + 3, 20, top + 15), fill=colours[beside])
        pen.text((28 if beside >= 0 else 8, top), text, fill="black", font=font)
    return sheet


def save_examples(folder: Path, tower: Measurement, grounding: Grounding, regions: Regions, found: Ints) -> list[Path]:
    """Write images of up to 24 phrases from all parts of the gallery, with true boxes and the first-ranked region.

    found: (phrases, 4), the first-ranked region in the pixels of the regions. The id of the phrase names the file.
    Raises HarnessError if the folder or a file cannot be written.
    """
    places, sizes = gallery_places(regions, grounding.images)[grounding.caption_images], regions.sizes
    saved = []
    for phrase in np.unique(np.linspace(0, len(found) - 1, _MAX_EXAMPLES).astype(int)).tolist():
        picture = grounding.images.open(int(grounding.caption_images[phrase]))
        true = grounding.targets[grounding.target_captions == phrase]
        boxes = [scale_box(picture, box, sizes[places[phrase]]) for box in (*true, found[phrase])]
        right = "ranked first, correct" if tower.ranks.t2i[phrase] == 1 else "ranked first, wrong"
        sheet = draw_boxes(picture, boxes, [*["true"] * len(true), right], f"{tower.label}: {grounding.captions[phrase]}")
        path = folder / f"{grounding.caption_ids[phrase].replace('#', '-').replace('@', '-')}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sheet.save(path)
        except OSError as error:
            raise HarnessError(f"{path} cannot be written: {error.strerror or error}; name another folder") from None
        saved.append(path)
    return saved
