"""The report that a run prints: data, models, scores and differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.core.data import QUERY_UNITS, Sought
from harness.records.schema import BitextCard, Record, TowerCard
from harness.retrieval.ranking import MISSED
from harness.retrieval.scorers import PLAIN, is_transductive
from harness.runtime.console import Console
from harness.statistics.breakdown import FacetGroup
from harness.statistics.inference import Difference, Interval, holm
from harness.statistics.measurement import DIRECTION_TITLES, DIRECTIONS, Measurement
from harness.statistics.run_summary import Summary, summarise
from harness.statistics.verdicts import ONE_SEED, verdict_text

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_TRANSDUCTIVE_TEXT = "; it ranks all test queries together, which is not zero-shot retrieval of single queries"
_VIEW_TEXTS = {"crop": "cropped", "context": "cropped with context", "blackout": "with the rest blacked out"}


def print_report(towers: Sequence[Measurement], console: Console, where: str, resamples: int, remark: str = "") -> list[Summary]:
    """Print the report of one language and return its summaries, one for each direction.

    The report names the data and the models, shows the scores, and tests the differences between towers.
    """
    record = towers[0].record
    summaries = [summarise(towers, direction, resamples) for direction in DIRECTIONS if f"{direction}_r1" in record.scores]
    titles = DIRECTION_TITLES[record.sought]
    for line in run_heading(towers):
        console.print(line)
    if remark:
        console.print(f"note: {remark}")
    console.print(run_table(summaries, record.sought))
    for line in test_lines(summaries, titles):
        console.print(line)
    if any(tower.record.scorer != PLAIN for tower in towers):
        for summary in summaries:
            console.print(hubness_line(summary, titles[summary.direction]))
    console.print(f"{interval_note(summaries, resampled_unit(towers), resamples)} Ties count against the encoder.")
    console.print(f"Records: {where}")
    return summaries


def run_heading(towers: Sequence[Measurement]) -> list[str]:
    """Return the lines that describe the data and the models."""
    first = towers[0].record
    origin = "the embedded sample: drawn scenes, NOT Flickr30k" if first.sample else "the folder given"
    lines = [
        f"{first.task} · {first.lang} · {first.split} split of {origin}",
        f"{gallery_text(first)}: {first.source} ({first.kind})",
        f"{'image encoder' if first.documents is None else 'encoder of the English texts'} and teacher: {first.encoder}",
    ]
    regions = next((tower.record.regions for tower in towers if tower.record.regions), None)
    if regions:
        lines.append(f"regions: {regions.count:,} {regions.source} in all images of the split, {_VIEW_TEXTS[regions.view]}")
    scorer = towers[-1].record.scorer
    if scorer != PLAIN:
        lines.append(f"scorer: {scorer}{_TRANSDUCTIVE_TEXT if is_transductive(scorer) else ''}")
    cards = [tower.record.tower for tower in towers if tower.record.tower]
    if cards:
        lines += [bitext_line(cards[0].bitext), student_line(max(cards, key=lambda card: card.steps))]
    return lines + [f"note: {note}" for note in unique_notes(towers)]


def gallery_text(record: Record) -> str:
    """Return the sizes of the gallery and of the queries."""
    if record.documents is None:
        return f"{record.images:,} images, {record.captions:,} {record.unit}"
    return f"{record.captions:,} queries, {record.documents:,} English texts"


def interval_note(summaries: Sequence[Summary], unit: str, resamples: int) -> str:
    """Return how the confidence intervals of a table were computed, or why it has none."""
    if all(math.isnan(each.low) for summary in summaries for row in summary.rows for each in row.intervals):
        return f"No confidence intervals: the bootstrap resamples {unit} and needs at least two."
    return f"Confidence intervals: 95 %, {resamples:,} bootstrap resamples of {unit}."


def resampled_unit(towers: Sequence[Measurement]) -> str:
    """Return the unit that the bootstrap resamples: queries for independent text queries, images otherwise."""
    alone = all(tower.record.sought == "texts" and tower.record.images == tower.record.captions for tower in towers)
    return "queries" if alone else "images"


def student_line(card: TowerCard) -> str:
    """Return how the students were trained. They share everything except objective and initializer, which their arms name."""
    if card.steps == 0:
        return f"students: not trained, seed {card.config.seed}"
    return f"students: {card.steps:,} steps of {min(card.config.batch, card.bitext.used):,} pairs, seed {card.config.seed}"


def bitext_line(bitext: BitextCard) -> str:
    """Return the size and the source of the bitext."""
    return (
        f"bitext: {bitext.used:,} pairs of {bitext.offered:,}, {bitext.source} ({bitext.kind}); "
        f"the leakage guard dropped {bitext.dropped:,} pairs of evaluation images"
    )


def unique_notes(towers: Sequence[Measurement]) -> list[str]:
    """Return each note of the records once."""
    return list(dict.fromkeys(note for tower in towers for note in record_notes(tower.record)))


def record_notes(record: Record) -> tuple[str, ...]:
    """Return the notes on the captions of a record and on its bitext, if it has one."""
    return record.notes + (record.tower.bitext.notes if record.tower else ())


def run_table(summaries: Sequence[Summary], sought: Sought = "images") -> Table:
    """Return one table with a section for each direction."""
    from rich import box
    from rich.table import Table

    from harness.runtime.terminal import plain_text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    drawn.add_column("R@k in percent" if sought != "texts" else "in percent")
    for heading in (*summaries[0].columns, "median", QUERY_UNITS[sought]):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        drawn.add_row(plain_text(DIRECTION_TITLES[sought][summary.direction], "bold"))
        drawn.add_row("chance", *("" if value is None else f"{value:.1f}" for value in summary.chance))
        if summary.upper_bound is not None:
            hits = sum(name.startswith("R@") for name in summary.columns)
            drawn.add_row("upper bound", *[f"{summary.upper_bound:.1f}"] * hits)
        for row in summary.rows:
            drawn.add_row(
                plain_text(row.label), *map(interval_text, row.intervals), median_rank_text(row.median_rank), f"{row.captions:,}"
            )
        drawn.add_section()
    return drawn


def median_rank_text(rank: float) -> str:
    """Format a median rank, or return a dash if half of the phrases have no correct candidate."""
    return "—" if rank >= MISSED else f"{rank:g}"


def breakdown_table(name: str, groups: Mapping[str, Sequence[FacetGroup]], unit: str) -> Table:
    """Return R@k by the values of a facet, a section for each value.

    groups: by tower label, the groups of captions.
    """
    from rich import box
    from rich.table import Table

    from harness.runtime.terminal import plain_text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    drawn.add_column(plain_text(f"by {name}, R@k in percent"))
    for heading in ("R@1", "R@5", "R@10", unit):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for value in dict.fromkeys(group.value for of in groups.values() for group in of):
        drawn.add_row(plain_text(value, "bold"))
        for label, of in groups.items():
            for group in of:
                if group.value == value:
                    drawn.add_row(plain_text(label), *map(interval_text, group.intervals), f"{group.captions:,}")
        drawn.add_section()
    return drawn


def interval_text(score: Interval | Difference, form: str = ".1f") -> Text:
    """Format a score or a difference with its confidence interval, if it has one.

    >>> str(interval_text(Interval(12.34, 10.0, 14.0))), str(interval_text(Interval(100.0, math.nan, math.nan)))
    ('12.3 [10.0, 14.0]', '100.0')
    """
    from rich.text import Text

    ends = "" if math.isnan(score.low) else f" [{score.low:{form}}, {score.high:{form}}]"
    return Text(f"{score.estimate:{form}}").append(ends, "dim")


def test_lines(summaries: Sequence[Summary], titles: Mapping[str, str]) -> list[str]:
    """Return a line for each difference between towers, with p-values after Holm over all of them in both directions.

    Each direction ends with a line on the recovered gaps to English.
    """
    adjusted = iter(holm([each.difference.p_value for summary in summaries for each in summary.contrasts]))
    lines = []
    for summary in summaries:
        title = titles[summary.direction]
        for contrast in summary.contrasts:
            lines.append(f"{title}: {contrast.label} = {difference_text(contrast.difference, summary.headline, next(adjusted))}")
        shares = ", ".join(f"{gap.label} {share_text(gap.share)}" for gap in summary.gaps)
        lines += [f"{title}: gap to English recovered: {shares}"] if shares else []
    return [*lines, ONE_SEED] if any(summary.contrasts for summary in summaries) else lines


def hubness_line(summary: Summary, title: str) -> str:
    """Return the hubness of the candidates under each tower and scorer."""
    known = ", ".join(f"{row.label} {row.hubness:.2f}" for row in summary.rows if row.hubness is not None)
    return f"{title}: hubness (skewness of N_10): {known or 'unknown'}"


def difference_text(difference: Difference, headline: str, p_adjusted: float) -> str:
    """Format a difference with its verdict."""
    points = f"{difference.estimate:+.1f} points of {headline}"
    return f"{points}: {verdict_text(p_adjusted, difference.low, difference.high)}"


def share_text(share: Interval) -> str:
    """Format a share with its confidence interval in percent, or return a dash if the share is undefined."""
    if math.isnan(share.estimate):
        return "—"
    if math.isnan(share.low):
        return f"{100 * share.estimate:.0f} % (no interval)"
    return f"{100 * share.estimate:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"
