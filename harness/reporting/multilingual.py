"""The closing table of a run over several languages, with p-values corrected for multiple comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.records.schema import ENGLISH_TOWER
from harness.reporting.run_report import interval_text
from harness.runtime.console import Console
from harness.statistics.inference import ALPHA, Interval, holm
from harness.statistics.measurement import DIRECTION_TITLES, Measurement
from harness.statistics.run_summary import Summary, TowerContrast

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

FLOOR_COLUMN, CEILING_COLUMN = "English tower", "on the English"


@dataclass(frozen=True)
class LanguageReport:
    """Towers of one language and their summaries, one for each direction."""

    language: str
    towers: Sequence[Measurement]
    summaries: Sequence[Summary]

    def summary(self, direction: str) -> Summary:
        """Return the summary of one direction."""
        return next(summary for summary in self.summaries if summary.direction == direction)

    def scores(self, direction: str) -> dict[str, Interval]:
        """Return the headline metric by column: the English tower, each distilled tower, and English on its own captions.

        The last column is missing where English captions of the same images were not measured.
        """
        summary = self.summary(direction)
        place = summary.columns.index(summary.headline)
        rows = list(zip(self.towers, summary.rows, strict=True))
        columns = {FLOOR_COLUMN: rows[0][1].intervals[place]}
        columns |= {row.label: row.intervals[place] for tower, row in rows if tower.record.text_tower != ENGLISH_TOWER}
        for tower, row in rows[1:]:
            if tower.record.is_english_side:
                columns[CEILING_COLUMN] = row.intervals[place]
        return columns

    def contrasts(self, direction: str) -> tuple[TowerContrast, ...]:
        """Return the differences between distilled towers."""
        return self.summary(direction).contrasts


def print_multilingual(reports: Sequence[LanguageReport], console: Console) -> None:
    """Print one table for each direction and the number of significant comparisons."""
    for direction in (summary.direction for summary in reports[0].summaries):
        console.print(multilingual_table(reports, direction))
        for line in significance_lines(reports, direction):
            console.print(line)


def multilingual_table(reports: Sequence[LanguageReport], direction: str) -> Table:
    """Return the headline metric of every tower in every language, with differences and p-values after Holm."""
    from rich import box
    from rich.table import Table

    from harness.runtime.terminal import plain_text

    scores = [report.scores(direction) for report in reports]
    towers = [
        name for name in dict.fromkeys(name for row in scores for name in row) if name not in (FLOOR_COLUMN, CEILING_COLUMN)
    ]
    columns = [FLOOR_COLUMN, *towers, *([CEILING_COLUMN] if any(CEILING_COLUMN in row for row in scores) else [])]
    labels = list(dict.fromkeys(contrast.label for report in reports for contrast in report.contrasts(direction)))
    adjusted = holm_by_language(reports, direction)
    headline, sought = reports[0].summary(direction).headline, reports[0].towers[0].record.sought
    title = f"{DIRECTION_TITLES[sought][direction]}, {headline} in percent"
    table = Table(title=plain_text(title, "italic"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("language")
    for heading in (
        "queries" if sought == "texts" else "images",
        *columns,
        *(part for label in labels for part in (label, "p (Holm)")),
    ):
        table.add_column(plain_text(heading), justify="right")
    for number, (report, row) in enumerate(zip(reports, scores, strict=True)):
        record = report.towers[0].record
        count = f"{record.captions if sought == 'texts' else record.images:,}"
        figures = [interval_text(row[name]) if name in row else "—" for name in columns]
        table.add_row(
            plain_text(report.language), count, *figures, *difference_cells(report.contrasts(direction), labels, adjusted[number])
        )
    return table


def difference_cells(contrasts: Sequence[TowerContrast], labels: Sequence[str], adjusted: Sequence[float]) -> list[Text | str]:
    """Return two cells for each label: the difference with its confidence interval, and its adjusted p-value."""
    known = {contrast.label: (contrast.difference, p) for contrast, p in zip(contrasts, adjusted, strict=True)}
    cells: list[Text | str] = []
    for label in labels:
        if label in known:
            gap, p = known[label]
            cells += [interval_text(gap, "+.1f"), f"{p:.3g}"]
        else:
            cells += ["—", "—"]
    return cells


def holm_by_language(reports: Sequence[LanguageReport], direction: str) -> list[list[float]]:
    """Return the p-values of a direction after Holm over all languages, contrasts and directions, a list for each report."""
    sides = [summary.direction for summary in reports[0].summaries]
    raw = {side: [[each.difference.p_value for each in report.contrasts(side)] for report in reports] for side in sides}
    adjusted = iter(holm([p for rows in raw.values() for row in rows for p in row]))
    found = {side: [[next(adjusted) for _ in row] for row in rows] for side, rows in raw.items()}
    return found[direction]


def significance_lines(reports: Sequence[LanguageReport], direction: str) -> list[str]:
    """Return one line with the number of significant comparisons, or no line if there was no comparison."""
    flat = [p for row in holm_by_language(reports, direction) for p in row]
    significant = sum(p < ALPHA for p in flat)
    title = DIRECTION_TITLES[reports[0].towers[0].record.sought][direction]
    line = f"{title}: {significant:,} of {len(flat):,} differ at {ALPHA:g} (p after Holm over all languages and directions)"
    return [line] if flat else []
