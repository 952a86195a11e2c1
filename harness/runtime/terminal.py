"""The door through which text passes to a terminal. Styles are given as `rich.text.Text`, never as marks inside of a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from harness.runtime.markup import escape_controls

_LAYOUT = "\n\t"


def plain_text(text: str, style: str = "") -> Text:
    """A text for a cell or a line, in one style."""
    return Text(escape_controls(text), style)


class Terminal(Console):
    """rich's console, to which texts are texts: brackets, emoji codes, control and direction characters are shown as they are."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string, before it is measured and laid out."""
        return super().render_str(escape_controls(text, _LAYOUT), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Whatever comes in another way: nothing but rich's own codes leaves with an escape in it."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape_controls(segment.text, _LAYOUT), segment.style)
