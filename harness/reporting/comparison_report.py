"""A comparison as text, Markdown, LaTeX and JSON: the same cells in each, but JSON, which has every digit."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.core.errors import HarnessError
from harness.runtime.console import PIPED_WIDTH
from harness.runtime.markup import json_text, latex_text, markdown_text, visible
from harness.statistics.comparison import ALL, LANG, TITLES, Comparison, Line, Score, Section, Setting

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.table import Table

Format = Literal["text", "json", "markdown", "latex"]
SUFFIXES: dict[str, Format] = {".txt": "text", ".json": "json", ".md": "markdown", ".tex": "latex"}
DETAILS = {"only A : only B", "McNemar p", "80 % power", "s.e. images", "s.e. seeds", "gap, A", "gap, B"}
WIDEST = 1000  # no table is wider, asked for its natural width
SHOWN = 6  # records left out that are named one by one


@dataclass(frozen=True)
class Block:
    """One setting as cells. sections: a title and its rows; before, after: lines of text around the table."""

    before: tuple[str, ...]
    headings: tuple[str, ...]
    sections: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
    after: tuple[str, ...]


def format_of(given: Format | None, out: Path | None) -> Format:
    """The format asked for, else the one that the file's name ends in, else text. Raises HarnessError for an unknown ending."""
    if given or out is None:
        return given or "text"
    if out.suffix not in SUFFIXES:
        raise HarnessError(f"--out {out}: ends in none of {', '.join(SUFFIXES)}; rename it or give --format")
    return SUFFIXES[out.suffix]


def rendered(comparison: Comparison, form: Format) -> str:
    """The comparison in one of the formats, ending in a line feed."""
    if form == "json":
        return json_text(comparison.model_dump_json(indent=1)) + "\n"
    if form == "text":
        from harness.runtime.terminal import Terminal

        file = io.StringIO()
        print_comparison(comparison, Terminal(file=file, width=PIPED_WIDTH))
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
    write: Callable[[Block], list[str]] = markdown if form == "markdown" else latex
    parts = [write(block(setting)) for setting in comparison.settings]
    closing = footnotes(comparison)
    parts.append([f"- {markdown_text(note)}" if form == "markdown" else f"% {visible(note)}" for note in closing])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def print_comparison(comparison: Comparison, out: RichConsole) -> None:
    """Print the comparison as text. Where one table would be too wide it becomes two."""
    from harness.runtime.terminal import plain

    for setting in comparison.settings:
        shown = block(setting)
        for line in shown.before:
            out.print(plain(line))
        tables = [drawn(shown, range(len(shown.headings)))]
        if out.measure(tables[0], options=out.options.update(width=WIDEST)).maximum > out.width:
            main = [at for at, heading in enumerate(shown.headings) if heading not in DETAILS]
            tables = [drawn(shown, main), drawn(shown, [0, *(at for at in range(len(shown.headings)) if at not in main)])]
        for table in tables:
            out.print(table)
        for line in shown.after:
            out.print(plain(line))
        out.print()
    for line in footnotes(comparison):
        out.print(plain(line))


def drawn(shown: Block, columns: Sequence[int]) -> Table:
    """Some columns of a block, drawn. A cell that is too wide goes on in the next line: no digit is cut off."""
    from rich import box
    from rich.table import Table

    from harness.runtime.terminal import plain

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for at in columns:
        left = at in {0, len(shown.headings) - 1}
        table.add_column(plain(shown.headings[at]), justify="left" if left else "right", overflow="fold")
    for title, rows in shown.sections:
        table.add_row(plain(title, "bold"))
        for cells in rows:
            table.add_row(*(plain(cells[at]) for at in columns))
        table.add_section()
    return table


def markdown(shown: Block) -> list[str]:
    """A block as a Markdown table under its lines of text."""

    def row(cells: Iterable[str]) -> str:
        return "| " + " | ".join(map(markdown_text, cells)) + " |"

    blank = [""] * (len(shown.headings) - 1)
    body = [line for title, rows in shown.sections for line in (row([title, *blank]), *map(row, rows))]
    rule = "| --- |" + " ---: |" * (len(shown.headings) - 2) + " --- |"
    first, *others = map(markdown_text, shown.before)
    lines = [f"**{first}**", "", *(f"{line}  " for line in others), "", row(shown.headings), rule, *body, ""]
    return [*lines, *map(markdown_text, shown.after)]


def latex(shown: Block) -> list[str]:
    """A block as a LaTeX table; it needs the package booktabs."""

    def row(cells: Iterable[str]) -> str:
        return " & ".join(map(latex_text, cells)) + r" \\"

    width = len(shown.headings)
    body = []
    for title, rows in shown.sections:
        body += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{latex_text(title)}}}}} \\", *map(row, rows)]
    caption = " ".join(map(latex_text, (f"{line}." for line in (*shown.before, *shown.after))))
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


def block(setting: Setting) -> Block:
    """One setting as cells. Columns that would be empty are left out."""
    lines = [line for section in setting.sections for line in section.lines]
    columns = columns_of(setting, lines)
    sections = tuple(
        (TITLES[setting.sought][each.direction], tuple(row(line, columns) for line in each.lines)) for each in setting.sections
    )
    headings = tuple(heading for heading, _ in columns)
    return Block(headline(setting), headings, sections, tuple(map(tally(setting), setting.sections)))


Column = tuple[str, "Callable[[Line], str]"]


def row(line: Line, columns: Sequence[Column]) -> tuple[str, ...]:
    """The cells of a line."""
    return tuple(cell(line) for _, cell in columns)


def sides(setting: Setting) -> tuple[str, str]:
    """What A and B are called."""
    return (setting.a, setting.b) if setting.a != setting.b else (f"A: {setting.a}", f"B: {setting.b}")


def columns_of(setting: Setting, lines: Sequence[Line]) -> list[Column]:
    """Headings, and what stands under them."""
    a, b = sides(setting)
    columns: list[Column] = [
        (f"{setting.metric} in percent", label),
        ("queries", lambda line: f"{line.queries:,}"),
        (a, lambda line: number(line.a.estimate, ".1f")),
        (b, lambda line: number(line.b.estimate, ".1f")),
        ("difference", lambda line: bounded(line.difference, "+.1f")),
        ("p", lambda line: number(line.p_value, ".3g")),
        ("p (Holm)", lambda line: number(line.p_holm, ".3g") if line.by != ALL else ""),
        ("only A : only B", lambda line: "—" if line.only_a is None else f"{line.only_a:,} : {line.only_b:,}"),
        ("McNemar p", lambda line: number(line.p_mcnemar, ".3g")),
        ("80 % power", lambda line: number(line.minimal_detectable, ".1f")),
        ("s.e. images", lambda line: number(line.image_error, ".2f")),
        ("s.e. seeds", lambda line: number(line.seed_error, ".2f")),
        ("gap, A", lambda line: gap_cell(line.gap_a)),
        ("gap, B", lambda line: gap_cell(line.gap_b)),
        ("", lambda line: outcome(line, (a, b))),
    ]
    seeds = any(line.seed_error is not None for line in lines)
    parts = any(line.by not in {ALL, LANG} for line in lines)
    hidden = (set() if seeds else {"s.e. images", "s.e. seeds"}) | (set() if parts else {"queries"})
    return [column for column in columns if column[0] not in hidden and any(column[1](line) not in {"", "—"} for line in lines)]


def label(line: Line) -> str:
    """What a line is over."""
    if line.by == ALL:
        return f"all {len(line.langs)} languages" if len(line.langs) > 1 else f"all ({line.langs[0]})"
    return line.value if line.by == LANG else f"{line.by} {line.value}"


def number(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "—" if value is None else re.sub(r"^-0$", "0", format(value, form))


def bounded(score: Score, form: str) -> str:
    """An estimate with its interval, if it has one."""
    if score.low is None and score.high is None:
        return number(score.estimate, form)
    return f"{number(score.estimate, form)} [{number(score.low, form)}, {number(score.high, form)}]"


def gap_cell(score: Score | None) -> str:
    """A share in percent with its interval, or a dash."""
    if score is None or score.estimate is None:
        return "—"
    if score.low is None and score.high is None:
        return f"{number(100 * score.estimate, '.0f')} %"
    ends = (number(None if end is None else 100 * end, ".0f") for end in (score.low, score.high))
    return f"{number(100 * score.estimate, '.0f')} % [{', '.join(ends)}]"


def outcome(line: Line, names: tuple[str, str]) -> str:
    """Which side is ahead, if they can be told apart."""
    return {"win": f"{names[0]} ahead", "loss": f"{names[1]} ahead", "tie": "not told apart"}[line.outcome]


def headline(setting: Setting) -> tuple[str, ...]:
    """What is compared, on what, and what else differs."""
    named_apart = setting.a != setting.b
    texts = setting.sought == "texts"
    origin = (
        "the embedded sample: drawn scenes, NOT Flickr30k" if setting.sample else "real texts" if texts else "real photographs"
    )
    size = "" if texts else f" · {setting.images:,} images"
    over = [
        f"{each.lang}: {each.captions:,} {'queries' if texts else 'captions'}, {each.source} ({each.kind})"
        + seeds(each.seeds_a, each.seeds_b)
        for each in setting.paired
    ]
    sizes = f" · {' or '.join(f'{size:,}' for size in setting.pairs)} sentence pairs" if setting.pairs else ""
    encoders = " and ".join(setting.encoders)
    distilled = all(each.seeds_a != (None,) and each.seeds_b != (None,) for each in setting.paired)
    alike = "trained alike but for the objective" if distilled else "nothing else differs"
    if setting.differences:
        alike = f"what else differs: {'; '.join(setting.differences)}"
    return (
        f"A = {setting.a}, B = {setting.b}" if named_apart else f"A and B = {setting.a}",
        f"{setting.task} · {setting.split} split · {origin}{size} · {encoders}{sizes}",
        *over,
        alike,
    )


def seeds(a: Sequence[int | None], b: Sequence[int | None]) -> str:
    """The seeds of both sides, once if they are the same."""
    words = [" ".join(str(seed) for seed in side if seed is not None) for side in (a, b)]
    named = [word for word in dict.fromkeys(words) if word]
    return f", seed {' against '.join(named)}" if named else ""


def tally(setting: Setting) -> Callable[[Section], str]:
    """How many languages A wins, in words."""
    a, b = sides(setting)

    def say(section: Section) -> str:
        count = f"{a} ahead in {section.wins}, {b} in {section.losses}, not told apart in {section.ties}"
        return f"{TITLES[setting.sought][section.direction]}: languages with {count}"

    return say


def footnotes(comparison: Comparison) -> list[str]:
    """How to read the table, and what was left out of it."""
    several = any(line.seed_error is not None for each in comparison.settings for part in each.sections for line in part.lines)
    resampled = "images and of seeds" if several else "images"
    notes = [
        f"[low, high]: 95 %, {comparison.resamples:,} bootstrap resamples of {resampled}, paired. p: sign flips over images"
        + (", or a t over images and seeds where that is larger." if several else "."),
        "Told apart: p (Holm) below 0.05. 80 % power: the true difference that would be found four times in five.",
    ]
    left = [f"left out of {each.side}: {each.text_tower} {each.cell[:12]}, {each.reason}" for each in comparison.unpaired]
    more = len(left) - SHOWN
    return notes + left[:SHOWN] + ([f"left out: {more} records more (--format json names them all)"] if more > 0 else [])
