"""Training curves in the terminal and as SVG."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import HarnessError
from harness.records.schema import TowerCard
from harness.runtime.markup import escape_controls
from harness.storage.store import new_file

if TYPE_CHECKING:
    from harness.runtime.console import Console

_LOSS, _VALIDATION = "training loss", "validation: mean reciprocal rank among held-out pairs, %"


def curve_series(card: TowerCard) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """Return the steps and values of each curve of a training, by the curve's name."""
    stretch = card.steps / max(1, len(card.losses))
    curves: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    if card.losses:
        curves[_LOSS] = [stretch * (place + 0.5) for place in range(len(card.losses))], card.losses
    if card.validations:
        curves[_VALIDATION] = [step for step, _ in card.validations], [score for _, score in card.validations]
    return curves


def print_curves(card: TowerCard, console: Console) -> None:
    """Draw the curves with characters, as wide as the terminal allows."""
    import plotext
    from rich.text import Text

    for title, (steps, values) in curve_series(card).items():
        plotext.clear_figure()
        plotext.theme("clear")
        plotext.plot_size(min(100, console.out.width), 14)
        plotext.plot(list(steps), list(values), marker="braille" if sys.stdout.isatty() else "dot")
        plotext.title(title)
        plotext.xlabel("step")
        console.print(Text.from_ansi(plotext.build()))


def draw_curves(card: TowerCard, path: Path) -> None:
    """Draw the curves into an SVG file. Raises HarnessError if the tower was not trained."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    curves = curve_series(card)
    if not curves:
        raise HarnessError(f"tower {card.digest[:12]} was not trained and has no curve to draw into {path}")
    # Without a date and with fixed ids, equal cards give equal bytes.
    with mpl.rc_context({"svg.hashsalt": card.digest, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7, 2.6 * len(curves)), layout="constrained")
        for place, (title, (steps, values)) in enumerate(curves.items(), 1):
            axes = figure.add_subplot(len(curves), 1, place)
            axes.plot(steps, values, color="#2563a8", marker="." if title == _VALIDATION else "")
            axes.set(title=title, xlabel="step", ylim=(0, None))
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        title = f"{card.lang} · {card.config.arm} · {card.bitext.used:,} pairs · seed {card.config.seed}"
        figure.suptitle(escape_controls(title), parse_math=False)
        with new_file(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
