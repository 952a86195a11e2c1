"""The only way of text to a terminal. Styles are given as `rich.text.Text`, never as markup inside a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from harness.runtime.markup import escape_controls

_LAYOUT = "\n\t"


def plain_text(text: str, style: str = "") -> Text:
    """Return an escaped text for a cell or a line, in one style."""
    return Text(escape_controls(text), style)


class Terminal(Console):
    """A rich console without markup: brackets, emoji codes, control and direction characters are shown literally."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape a string before it is measured."""
        return super().render_str(escape_controls(text, _LAYOUT), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape all other text: only rich's own control codes contain escape characters."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape_controls(segment.text, _LAYOUT), segment.style)
