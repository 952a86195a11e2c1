"""A comparison as text, Markdown, LaTeX and JSON.

Text, Markdown and LaTeX show the same cells. JSON holds every digit.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.core.errors import HarnessError
from harness.runtime.console import _PIPED_WIDTH
from harness.runtime.markup import escape_controls, escape_json, escape_latex, escape_markdown
from harness.statistics.comparison_schema import (
    BY_LANGUAGE,
    BY_NOTHING,
    Comparison,
    ComparisonLine,
    ComparisonSection,
    ComparisonSetting,
    Estimate,
)
from harness.statistics.inference import ALPHA
from harness.statistics.measurement import DIRECTION_TITLES
from harness.statistics.verdicts import INCONCLUSIVE, ONE_SEED, SEVERAL_SEEDS, equivalent_text, verdict_text

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.table import Table

ReportFormat = Literal["text", "json", "markdown", "latex"]
_SUFFIXES: dict[str, ReportFormat] = {".txt": "text", ".json": "json", ".md": "markdown", ".tex": "latex"}
_DETAIL_COLUMNS = {"only A : only B", "McNemar p", "s.e. images", "s.e. seeds", "gap, A", "gap, B", "gain"}
_WIDEST = 1000  # upper bound on the natural width of a table
_MAX_UNPAIRED = 6  # unpaired records that the notes name one by one


@dataclass(frozen=True)
class ComparisonTable:
    """One setting as cells.

    sections: a title and its rows. before, after: lines of text around the table.
    """

    before: tuple[str, ...]
    headings: tuple[str, ...]
    sections: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
    after: tuple[str, ...]


def report_format(given: ReportFormat | None, out: Path | None) -> ReportFormat:
    """Return the requested format, or the one of the file's suffix, or text.

    Raises HarnessError if the suffix is unknown.
    """
    if given or out is None:
        return given or "text"
    if out.suffix not in _SUFFIXES:
        raise HarnessError(f"--out {out}: the file name must end in one of {', '.join(_SUFFIXES)}; rename it or give --format")
    return _SUFFIXES[out.suffix]


def render_comparison(comparison: Comparison, form: ReportFormat) -> str:
    """Return the comparison in one of the formats. The text ends in a line feed."""
    if form == "json":
        return escape_json(comparison.model_dump_json(indent=1)) + "\n"
    if form == "text":
        from harness.runtime.terminal import Terminal

        file = io.StringIO()
        print_comparison(comparison, Terminal(file=file, width=_PIPED_WIDTH))
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
    write: Callable[[ComparisonTable], list[str]] = comparison_markdown if form == "markdown" else comparison_latex
    parts = [write(setting_table(setting, comparison.margin)) for setting in comparison.settings]
    closing = footnotes(comparison)
    parts.append([f"- {escape_markdown(note)}" if form == "markdown" else f"% {escape_controls(note)}" for note in closing])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def print_comparison(comparison: Comparison, out: RichConsole) -> None:
    """Print the comparison as text. A table that is too wide is printed as two."""
    from harness.runtime.terminal import plain_text

    for setting in comparison.settings:
        shown = setting_table(setting, comparison.margin)
        for line in shown.before:
            out.print(plain_text(line))
        tables = [terminal_table(shown, range(len(shown.headings)))]
        if out.measure(tables[0], options=out.options.update(width=_WIDEST)).maximum > out.width:
            main = [at for at, heading in enumerate(shown.headings) if heading not in _DETAIL_COLUMNS]
            tables = [
                terminal_table(shown, main),
                terminal_table(shown, [0, *(at for at in range(len(shown.headings)) if at not in main)]),
            ]
        for table in tables:
            out.print(table)
        for line in shown.after:
            out.print(plain_text(line))
        out.print()
    for line in footnotes(comparison):
        out.print(plain_text(line))


def terminal_table(shown: ComparisonTable, columns: Sequence[int]) -> Table:
    """Return some columns of a table for the terminal. Long cells are wrapped, so that no digit is cut off."""
    from rich import box
    from rich.table import Table

    from harness.runtime.terminal import plain_text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for at in columns:
        left = at in {0, len(shown.headings) - 1}
        table.add_column(plain_text(shown.headings[at]), justify="left" if left else "right", overflow="fold")
    for title, rows in shown.sections:
        table.add_row(plain_text(title, "bold"))
        for cells in rows:
            table.add_row(*(plain_text(cells[at]) for at in columns))
        table.add_section()
    return table


def comparison_markdown(shown: ComparisonTable) -> list[str]:
    """Return a table as Markdown, below its lines of text."""

    def row(cells: Iterable[str]) -> str:
        return "| " + " | ".join(map(escape_markdown, cells)) + " |"

    blank = [""] * (len(shown.headings) - 1)
    body = [line for title, rows in shown.sections for line in (row([title, *blank]), *map(row, rows))]
    rule = "| --- |" + " ---: |" * (len(shown.headings) - 2) + " --- |"
    first, *others = map(escape_markdown, shown.before)
    lines = [f"**{first}**", "", *(f"{line}  " for line in others), "", row(shown.headings), rule, *body, ""]
    return [*lines, *map(escape_markdown, shown.after)]


def comparison_latex(shown: ComparisonTable) -> list[str]:
    """Return a table as LaTeX. It needs the package booktabs."""

    def row(cells: Iterable[str]) -> str:
        return " & ".join(map(escape_latex, cells)) + r" \\"

    width = len(shown.headings)
    body = []
    for title, rows in shown.sections:
        body += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape_latex(title)}}}}} \\", *map(row, rows)]
    caption = " ".join(map(escape_latex, (f"{line}." for line in (*shown.before, *shown.after))))
    return [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * (width - 2)}l}}",
        r"\toprule",
        row(shown.headings),
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{caption}}}",
        r"\end{table}",
    ]


def setting_table(setting: ComparisonSetting, margin: float | None) -> ComparisonTable:
    """Return one setting as cells, without columns that would be empty."""
    lines = [line for section in setting.sections for line in section.lines]
    columns = columns_of(setting, lines, margin or 0.0)
    sections = tuple(
        (DIRECTION_TITLES[setting.sought][each.direction], tuple(line_cells(line, columns) for line in each.lines))
        for each in setting.sections
    )
    headings = tuple(heading for heading, _ in columns)
    after = (*map(tally_text(setting), setting.sections), *secondary_lines(setting), *seed_lines(setting))
    return ComparisonTable(setting_heading(setting), headings, sections, after)


TableColumn = tuple[str, "Callable[[ComparisonLine], str]"]


def line_cells(line: ComparisonLine, columns: Sequence[TableColumn]) -> tuple[str, ...]:
    """Return the cells of a line."""
    return tuple(cell(line) for _, cell in columns)


def side_names(setting: ComparisonSetting) -> tuple[str, str]:
    """Return the names of A and B."""
    return (setting.a, setting.b) if setting.a != setting.b else (f"A: {setting.a}", f"B: {setting.b}")


def columns_of(setting: ComparisonSetting, lines: Sequence[ComparisonLine], margin: float) -> list[TableColumn]:
    """Return the headings and the functions that fill the cells below them. margin: of equivalence, 0 for none."""
    a, b = side_names(setting)
    columns: list[TableColumn] = [
        (f"{setting.metric} in percent", line_label),
        ("queries", lambda line: f"{line.queries:,}"),
        (a, lambda line: number_text(line.a.estimate, ".1f")),
        (b, lambda line: number_text(line.b.estimate, ".1f")),
        ("difference", lambda line: estimate_text(line.difference, "+.1f")),
        ("gain", lambda line: gap_percent_text(line.gain, "+.0f")),
        ("p", lambda line: number_text(line.p_value, ".3g")),
        ("p (Holm)", lambda line: number_text(line.p_holm, ".3g") if line.by != BY_NOTHING else ""),
        ("only A : only B", lambda line: "—" if line.only_a is None else f"{line.only_a:,} : {line.only_b:,}"),
        ("McNemar p", lambda line: number_text(line.p_mcnemar, ".3g")),
        (f"p (±{margin:g})", lambda line: number_text(line.p_equivalence, ".3g")),
        ("s.e. images", lambda line: number_text(line.image_error, ".2f")),
        ("s.e. seeds", lambda line: number_text(line.seed_error, ".2f")),
        ("gap, A", lambda line: gap_percent_text(line.gap_a)),
        ("gap, B", lambda line: gap_percent_text(line.gap_b)),
        ("", lambda line: outcome_text(line, (a, b), margin)),
    ]
    seeds = any(line.seed_error is not None for line in lines)
    parts = any(line.by not in {BY_NOTHING, BY_LANGUAGE} for line in lines)
    hidden = (set() if seeds else {"s.e. images", "s.e. seeds"}) | (set() if parts else {"queries"})
    return [column for column in columns if column[0] not in hidden and any(column[1](line) not in {"", "—"} for line in lines)]


def line_label(line: ComparisonLine) -> str:
    """Return the group of queries that a line is about."""
    if line.by == BY_NOTHING:
        return f"all {len(line.langs)} languages" if len(line.langs) > 1 else f"all ({line.langs[0]})"
    return line.value if line.by == BY_LANGUAGE else f"{line.by} {line.value}"


def number_text(value: float | None, form: str) -> str:
    """Format a number, or return a dash if there is none."""
    return "—" if value is None else re.sub(r"^-0$", "0", format(value, form))


def estimate_text(score: Estimate, form: str) -> str:
    """Format an estimate with its confidence interval, if it has one."""
    if score.low is None and score.high is None:
        return number_text(score.estimate, form)
    return f"{number_text(score.estimate, form)} [{number_text(score.low, form)}, {number_text(score.high, form)}]"


def gap_percent_text(score: Estimate | None, form: str = ".0f") -> str:
    """Format a share in percent with its confidence interval, or return a dash if there is none."""
    if score is None or score.estimate is None:
        return "—"
    if score.low is None and score.high is None:
        return f"{number_text(100 * score.estimate, form)} %"
    ends = (number_text(None if end is None else 100 * end, form) for end in (score.low, score.high))
    return f"{number_text(100 * score.estimate, form)} % [{', '.join(ends)}]"


def outcome_text(line: ComparisonLine, names: tuple[str, str], margin: float) -> str:
    """Return the side that is ahead if the difference is significant, and whether the sides are equivalent within the margin."""
    ahead = {"win": f"{names[0]} ahead", "loss": f"{names[1]} ahead", "tie": ""}[line.outcome]
    equivalent = equivalent_text(margin) if sides_are_equivalent(line) else ""
    return ", ".join(filter(None, (ahead, equivalent))) or INCONCLUSIVE


def sides_are_equivalent(line: ComparisonLine) -> bool:
    """Return whether the equivalence test of a line is significant."""
    return line.p_equivalence is not None and line.p_equivalence < ALPHA


def setting_heading(setting: ComparisonSetting) -> tuple[str, ...]:
    """Return the towers, the data, and the other differences between both sides."""
    named_apart = setting.a != setting.b
    texts = setting.sought == "texts"
    origin = (
        "the embedded sample: drawn scenes, NOT Flickr30k" if setting.sample else "real texts" if texts else "real photographs"
    )
    size = "" if texts else f" · {setting.images:,} images"
    over = [
        f"{each.lang}: {each.captions:,} {'queries' if texts else 'captions'}, {each.source} ({each.kind})"
        + seeds_text(each.seeds_a, each.seeds_b)
        for each in setting.paired
    ]
    sizes = f" · {' or '.join(f'{size:,}' for size in setting.pairs)} sentence pairs" if setting.pairs else ""
    encoders = " and ".join(setting.encoders)
    distilled = all(each.seeds_a != (None,) and each.seeds_b != (None,) for each in setting.paired)
    others = "same training except for the objective" if distilled else "no other differences"
    if setting.differences:
        others = f"other differences: {'; '.join(setting.differences)}"
    return (
        f"A = {setting.a}, B = {setting.b}" if named_apart else f"A and B = {setting.a}",
        f"{setting.task} · {setting.split} split · {origin}{size} · {encoders}{sizes}",
        *over,
        others,
    )


def seeds_text(a: Sequence[int | None], b: Sequence[int | None]) -> str:
    """Return the seeds of both sides, once if they are equal."""
    words = [" ".join(str(seed) for seed in side if seed is not None) for side in (a, b)]
    named = [word for word in dict.fromkeys(words) if word]
    return f", seed {' against '.join(named)}" if named else ""


def tally_text(setting: ComparisonSetting) -> Callable[[ComparisonSection], str]:
    """Return a function that counts the languages in which each side is ahead."""
    a, b = side_names(setting)

    def say(section: ComparisonSection) -> str:
        ties = [line for line in section.lines if line.by == BY_LANGUAGE and line.outcome == "tie"]
        same = sum(map(sides_are_equivalent, ties))
        count = f"{a} ahead in {section.wins}, {b} ahead in {section.losses}, {INCONCLUSIVE} in {section.ties - same}"
        equivalent = f", equivalent in {same}" if same else ""
        return f"{DIRECTION_TITLES[setting.sought][section.direction]}, languages: {count}{equivalent}"

    return say


def secondary_lines(setting: ComparisonSetting) -> list[str]:
    """Return a line for each secondary outcome."""
    titles = DIRECTION_TITLES[setting.sought]
    return [
        f"secondary, {titles[each.direction]}: {each.metric} {number_text(each.difference.estimate, '+.1f')}: "
        + verdict_text(each.p_holm, number_or_nan(each.difference.low), number_or_nan(each.difference.high))
        for each in setting.secondary
    ]


def number_or_nan(value: float | None) -> float:
    """Return a number, NaN if there is none."""
    return math.nan if value is None else value


def seed_lines(setting: ComparisonSetting) -> list[str]:
    """Return what the seeds of the towers vary, or that one seed says nothing of the methods."""
    sides = [seeds for each in setting.paired for seeds in (each.seeds_a, each.seeds_b) if seeds != (None,)]
    if not sides:
        return []
    if any(len(seeds) == 1 for seeds in sides):
        return [ONE_SEED]
    return [SEVERAL_SEEDS]


def footnotes(comparison: Comparison) -> list[str]:
    """Return how to read the tables, and the records that were excluded."""
    several = any(line.seed_error is not None for each in comparison.settings for part in each.sections for line in part.lines)
    resampled = "images and of seeds" if several else "images"
    notes = [
        f"[low, high]: 95 % confidence interval, {comparison.resamples:,} paired bootstrap resamples of {resampled}. "
        "p: sign-flip test over images" + (", or a t-test over images and seeds if its p is larger." if several else "."),
        "Ahead: p (Holm) below 0.05. Inconclusive: the interval says which differences are compatible with the data.",
    ]
    left = [f"excluded from {each.side}: {each.text_tower} {each.cell[:12]}, {each.reason}" for each in comparison.unpaired]
    more = len(left) - _MAX_UNPAIRED
    return notes + left[:_MAX_UNPAIRED] + ([f"excluded: {more} more records (--format json lists all)"] if more > 0 else [])
