"""The closing table of a run over several languages: a row a language, and differences corrected for having looked so often."""

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
    """What was measured of one language: its towers, and their figures, one summary a direction."""

    language: str
    towers: Sequence[Measurement]
    summaries: Sequence[Summary]

    def summary(self, direction: str) -> Summary:
        """The figures of one direction."""
        return next(summary for summary in self.summaries if summary.direction == direction)

    def scores(self, direction: str) -> dict[str, Interval]:
        """The headline by column: the floor, each distilled tower, and English on the same captions where there is such a row."""
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
        """Differences between distilled towers."""
        return self.summary(direction).contrasts


def print_multilingual(reports: Sequence[LanguageReport], console: Console) -> None:
    """Print one table a direction, and in how many languages a difference was found."""
    for direction in (summary.direction for summary in reports[0].summaries):
        console.print(multilingual_table(reports, direction))
        for line in significance_lines(reports, direction):
            console.print(line)


def multilingual_table(reports: Sequence[LanguageReport], direction: str) -> Table:
    """The headline of every tower in every language, with the differences and their p-values after Holm."""
    from rich import box
    from rich.table import Table

    from harness.runtime.terminal import plain

    scores = [report.scores(direction) for report in reports]
    towers = [
        name for name in dict.fromkeys(name for row in scores for name in row) if name not in (FLOOR_COLUMN, CEILING_COLUMN)
    ]
    columns = [FLOOR_COLUMN, *towers, *([CEILING_COLUMN] if any(CEILING_COLUMN in row for row in scores) else [])]
    labels = list(dict.fromkeys(contrast.label for report in reports for contrast in report.contrasts(direction)))
    adjusted = holm_by_language(reports, direction)
    headline, sought = reports[0].summary(direction).headline, reports[0].towers[0].record.sought
    title = f"{DIRECTION_TITLES[sought][direction]}, {headline} in percent"
    table = Table(title=plain(title, "italic"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("language")
    for heading in (
        "queries" if sought == "texts" else "images",
        *columns,
        *(part for label in labels for part in (label, "p (Holm)")),
    ):
        table.add_column(plain(heading), justify="right")
    for number, (report, row) in enumerate(zip(reports, scores, strict=True)):
        record = report.towers[0].record
        count = f"{record.captions if sought == 'texts' else record.images:,}"
        figures = [interval_text(row[name]) if name in row else "—" for name in columns]
        table.add_row(
            plain(report.language), count, *figures, *difference_cells(report.contrasts(direction), labels, adjusted[number])
        )
    return table


def difference_cells(contrasts: Sequence[TowerContrast], labels: Sequence[str], adjusted: Sequence[float]) -> list[Text | str]:
    """Two cells for each label: the difference with its interval, if it has one, and its adjusted p-value."""
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
    """The p-values of a direction after Holm over all of its comparisons, a list a report."""
    raw = [[contrast.difference.p_value for contrast in report.contrasts(direction)] for report in reports]
    adjusted = iter(holm([p for row in raw for p in row]))
    return [[next(adjusted) for _ in row] for row in raw]


def significance_lines(reports: Sequence[LanguageReport], direction: str) -> list[str]:
    """One line: how many of a direction's comparisons were told apart once corrected; none if there was no comparison."""
    flat = [p for row in holm_by_language(reports, direction) for p in row]
    told = sum(p < ALPHA for p in flat)
    title = DIRECTION_TITLES[reports[0].towers[0].record.sought][direction]
    line = f"{title}: {told:,} of {len(flat):,} comparisons told apart, Holm-corrected over all of them at {ALPHA:g}"
    return [line] if flat else []
