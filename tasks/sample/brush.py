"""A brush that records the bounding box of what it draws. It uses integers only, so all machines draw the same picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from math import isqrt

from PIL import Image, ImageDraw

PICTURE_WIDTH, PICTURE_HEIGHT = 240, 180
SCALE = 2  # pictures are drawn larger and reduced, for smooth edges that are the same on all machines

Colour = tuple[int, int, int]
CanvasPoint = tuple[int, int]
DrawnBox = tuple[int, int, int, int]


def darker(colour: Colour) -> Colour:
    """Return the colour of an outline."""
    return colour[0] * 11 // 20, colour[1] * 11 // 20, colour[2] * 11 // 20


@dataclass
class Brush:
    """Draws on a canvas of twice the size of the picture. `entity` names the entity that is drawn; entities nest."""

    image: Image.Image = field(default_factory=lambda: Image.new("RGB", (PICTURE_WIDTH * SCALE, PICTURE_HEIGHT * SCALE)))
    extents: dict[str, list[int]] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = ImageDraw.Draw(self.image)

    @contextmanager
    def entity(self, *names: str) -> Iterator[None]:
        """Assign what is drawn inside the context to the named entities and to the enclosing ones."""
        before = len(self._open)
        self._open += names
        yield
        del self._open[before:]

    def picture(self) -> Image.Image:
        """Return the finished picture."""
        return self.image.reduce(SCALE)

    def boxes(self) -> dict[str, DrawnBox]:
        """Return the box of each entity in the picture: (left, top, right, bottom) from 0, last pixels included."""
        return {name: _clip(extent) for name, extent in self.extents.items()}

    def _touch(self, left: int, top: int, right: int, bottom: int) -> None:
        for name in self._open:
            old = self.extents.setdefault(name, [left, top, right, bottom])
            old[:] = min(old[0], left), min(old[1], top), max(old[2], right), max(old[3], bottom)

    def polygon(self, points: Sequence[CanvasPoint], fill: Colour, edge: bool = True) -> None:
        """Draw a filled polygon, with an outline if `edge`."""
        self._touch(min(x for x, _ in points), min(y for _, y in points), max(x for x, _ in points), max(y for _, y in points))
        self._draw.polygon(list(points), fill=fill, outline=darker(fill) if edge else fill)

    def rectangle(self, left: int, top: int, right: int, bottom: int, fill: Colour, edge: bool = True) -> None:
        """Draw a filled rectangle."""
        self._touch(left, top, right, bottom)
        self._draw.rectangle((left, top, right, bottom), fill=fill, outline=darker(fill) if edge else fill)

    def oval(self, left: int, top: int, right: int, bottom: int, fill: Colour, edge: bool = True) -> None:
        """Draw a filled ellipse inside a box."""
        self._touch(left, top, right, bottom)
        self._draw.ellipse((left, top, right, bottom), fill=fill, outline=darker(fill) if edge else fill)

    def disc(self, centre: CanvasPoint, radius: int, fill: Colour, edge: bool = True) -> None:
        """Draw a filled circle."""
        self.oval(centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius, fill, edge)

    def ring(self, centre: CanvasPoint, radius: int, width: int, fill: Colour) -> None:
        """Draw a circle without filling."""
        box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
        self._touch(*box)
        self._draw.ellipse(box, outline=fill, width=width)

    def pie(self, centre: CanvasPoint, radius: int, start: int, end: int, fill: Colour) -> None:
        """Draw a sector of a disc, from `start` to `end` in degrees clockwise from three o'clock."""
        box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
        top = centre[1] if (start, end) == (0, 180) else box[1]
        bottom = centre[1] if (start, end) == (180, 360) else box[3]
        self._touch(box[0], top, box[2], bottom)
        self._draw.pieslice(box, start, end, fill=fill, outline=darker(fill))

    def line(self, points: Sequence[CanvasPoint], width: int, fill: Colour) -> None:
        """Draw straight strokes with round ends and joints, without an outline."""
        for start, end in pairwise(points):
            self._stroke(start, end, width, fill)
        for x, y in points:
            self.oval(x - width // 2, y - width // 2, x + width // 2, y + width // 2, fill, edge=False)

    def limb(self, points: Sequence[CanvasPoint], width: int, fill: Colour) -> None:
        """Draw strokes as `line` does, with an outline."""
        self.line(points, width + 2, darker(fill))
        self.line(points, width, fill)

    def _stroke(self, start: CanvasPoint, end: CanvasPoint, width: int, fill: Colour) -> None:
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = max(1, isqrt(dx * dx + dy * dy))
        nx, ny = -dy * width // (2 * length), dx * width // (2 * length)
        corners = [
            (start[0] + nx, start[1] + ny),
            (end[0] + nx, end[1] + ny),
            (end[0] - nx, end[1] - ny),
            (start[0] - nx, start[1] - ny),
        ]
        self.polygon(corners, fill, edge=False)


def _clip(extent: Sequence[int]) -> DrawnBox:
    left, top, right, bottom = (value // SCALE for value in extent)
    return max(0, left), max(0, top), min(PICTURE_WIDTH - 1, right), min(PICTURE_HEIGHT - 1, bottom)
