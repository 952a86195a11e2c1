"""Boards as one HTML file that asks nothing of anybody: no network, no framework, every name only text."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.leaderboards.board.builder import Board, BoardCell, BoardColumn, BoardMean, BoardRow, Ceiling, sanitize_line
from harness.leaderboards.board.exports import (
    RANKING_METHOD,
    breakdown_caption,
    init_text,
    one_decimal,
    options_text,
    pairs_text,
    seeds_text,
)
from harness.leaderboards.records.board_records import BoardRecord
from harness.records.schema import Provenance, Record
from harness.retrieval.scorers import PLAIN
from harness.statistics.inference import Interval
from harness.statistics.rank_inference import RankInterval

TEMPLATES = Path(__file__).parents[1] / "templates"
COMMAND_LENGTH = 600
PROBLEM_LENGTH, MOST_PROBLEMS = 500, 20
"""How long a line on a record that was left out may be, and how many of them are shown."""


@cache
def template_environment() -> Environment:
    """Jinja with everything escaped and nothing undefined."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "sort_keys": False}
    return made


def render_page(template: str, scripts: Sequence[str], images: str = "data:", **values: Any) -> str:
    """A page of a template, with the style sheet and scripts in it and a policy that lets nothing else run or load.

    images: sources of pictures that the policy allows.
    """
    from markupsafe import Markup

    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in scripts)
    policy = (
        f"default-src 'none'; script-src '{content_hash(script)}'; style-src '{content_hash(style)}'; img-src {images}; "
        "base-uri 'none'; form-action 'none'"
    )
    inline = {"style": Markup(style), "script": Markup(script)}
    return template_environment().get_template(template).render(policy=policy, **inline, **values)


def content_hash(text: str) -> str:
    """What a content security policy calls an inline script or style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def board_page(boards: Sequence[Board], problems: Sequence[str] = ()) -> str:
    """The leaderboard's page. problems: why records were left out."""
    dates = [each.record.provenance.created[:10] for board in boards for each in board_records(board) if not each.sender]
    return render_page(
        "board.html.j2",
        ("elements.js", "charts.js", "board.js"),
        boards=[board_view(board) for board in boards],
        newest=sanitize_line(max(dates, default=""), 10),
        method=RANKING_METHOD,
        problems=[sanitize_line(problem, PROBLEM_LENGTH) for problem in problems[:MOST_PROBLEMS]],
        left_out=len(problems),
        data=[board_payload(board) for board in boards],
    )


def board_records(board: Board) -> Iterator[BoardRecord]:
    """Every record of a board."""
    return (each for row in board.rows for cell in row.cells.values() for each in cell.records.values())


def board_view(board: Board) -> dict[str, Any]:
    """What the template shows of a board."""
    grouped = [(group, [column for column in board.columns if column.group == group]) for group in ("", *board.groups)]
    grouped = [(group, columns) for group, columns in grouped if columns]
    return {
        "board": board,
        "grouped": grouped,
        "methods": sorted({row.tower.method for row in board.rows}),
        "encoders": sorted({row.tower.encoder for row in board.rows}),
        "rows": [row_view(board, row) for row in board.rows],
        "breakdown": breakdown_view(board),
        "references": [*(ceiling_view(board, ceiling) for ceiling in board.ceilings), chance_view(board)],
    }


def breakdown_view(board: Board) -> dict[str, Any] | None:
    """Scores by a facet, as the template shows them."""
    if board.breakdown is None:
        return None
    told = board.breakdown
    headings = [(sanitize_line(value, 40), f"{count:,} captions") for value, count in told.captions.items()]
    rows = [
        (row.tower, row_view(board, row)["about"], [score_view("", "", None, of.get(value), "") for value in told.captions])
        for row, of in zip(board.rows, told.rows, strict=True)
    ]
    return {"about": breakdown_caption(board), "headings": headings, "rows": rows}


def row_view(board: Board, row: BoardRow) -> dict[str, Any]:
    """What the template shows of a row."""
    config = row.tower.config
    inside = [column for column in board.columns if column.language.code in row.cells]
    return {
        "tower": row.tower,
        "rank": rank_view(row.overall.standing if row.overall else None),
        "about": " · ".join(
            filter(None, [pairs_text(row) and f"{pairs_text(row)} pairs", sanitize_line(options_text(row), 200)])
        ),
        "conflict": sanitize_line(row.conflict, PROBLEM_LENGTH),
        "init": init_text(row),
        "pairs": pairs_text(row).replace(",", ""),
        "pairs_value": "" if config is None else config.pairs or 10**9,
        "seeds": seeds_text(row),
        "seeds_value": row.seeds[1] if config else "",
        "sources": names_or_count([column.source for column in inside]),
        "kinds": names_or_count([column.kind for column in inside]),
        "numbers": list(score_views(board, row)),
    }


def names_or_count(names: Sequence[str]) -> str:
    """All of a few names, or how many there are."""
    different = sorted(set(names))
    return ", ".join(different) if len(different) <= 2 else f"{len(different)} different"


def rank_view(standing: RankInterval | None) -> dict[str, Any]:
    """A rank, and the ranks that it may be."""
    if standing is None:
        return {"value": "", "text": "–", "small": ""}
    small = f"{standing.first}–{standing.last}" if standing.last > standing.first else ""
    return {"value": standing.first, "text": standing.first, "small": small}


def score_views(board: Board, row: BoardRow | Ceiling) -> Iterator[dict[str, Any]]:
    """The means and scores of a row, in the order of the columns."""
    lacking = f"{len(row.cells)} of {len(board.columns)} languages"
    if len(board.columns) > 1:
        yield score_view("mean", "", None, row.overall.score if row.overall else None, lacking)
    for group in board.averaged:
        inside = [column.language.code for column in board.columns if column.group == group]
        mean = row.means.get(group)
        missing = f"{len(row.cells.keys() & set(inside))} of {len(inside)}"
        yield score_view("mean", f"g:{group}", None, mean.score if mean else None, missing)
    for column in board.columns:
        cell = row.cells.get(column.language.code)
        score = cell.score if isinstance(cell, BoardCell) else cell
        yield score_view("language", f"l:{column.language.code}", f"g:{column.group}", score, "")


def score_view(kind: str, scope: str, group: str | None, score: Interval | None, lacking: str) -> dict[str, Any]:
    """One score as the table shows it."""
    if score is None:
        return {"kind": kind, "scope": scope, "group": group, "value": "", "text": "–", "small": lacking}
    small = f"{one_decimal(score.low)}–{one_decimal(score.high)}"
    return {
        "kind": kind,
        "scope": scope,
        "group": group,
        "value": round(score.estimate, 6),
        "text": one_decimal(score.estimate),
        "small": small,
    }


def ceiling_view(board: Board, ceiling: Ceiling) -> dict[str, Any]:
    """English on English, a row that is not ranked."""
    return {"label": "English tower on English", "encoder": ceiling.tower.encoder, "numbers": list(score_views(board, ceiling))}


def chance_view(board: Board) -> dict[str, Any]:
    """A random ranking, a row that is not ranked."""

    def mean(columns: Sequence[BoardColumn]) -> BoardMean:
        value = sum(column.chance for column in columns) / len(columns)
        return BoardMean(Interval(value, value, value), None)

    groups = {group: mean([column for column in board.columns if column.group == group]) for group in board.groups}
    cells = {column.language.code: Interval(column.chance, column.chance, column.chance) for column in board.columns}
    shown_as = list(score_views(board, Ceiling(board.rows[0].tower, cells, groups, mean(board.columns))))
    return {"label": "chance", "encoder": "", "numbers": [{**cell, "small": ""} for cell in shown_as]}


def board_payload(board: Board) -> dict[str, Any]:
    """What the script needs of a board, its texts bounded and each said once."""
    words = TextTable()
    return {
        "name": board.name,
        "metric": board.declaration.metric,
        "columns": [
            [c.language.code, c.language.name, c.group, c.source, c.kind, c.images, c.captions, c.chance] for c in board.columns
        ],
        "rows": [row_payload(board, row, words) for row in board.rows],
        "ceilings": [
            {
                "encoder": each.tower.encoder,
                "all": mean_payload(each.overall),
                "groups": group_payload(each.means),
                "cells": ceiling_cells(board, each.cells),
            }
            for each in board.ceilings
        ],
        "contrasts": [
            {
                "a": contrast.ours,
                "b": contrast.theirs,
                "gains": [gain_payload(contrast.gains.get(column.language.code)) for column in board.columns],
                "all": rounded_interval(contrast.overall) if contrast.overall else 0,
            }
            for contrast in board.contrasts
        ],
        "words": words.all,
    }


class TextTable:
    """Texts by number, so that a text is written once however many records share it."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text."""
        return self._numbers.setdefault(text, len(self._numbers))

    @property
    def all(self) -> list[str]:
        """Every text, by number."""
        return list(self._numbers)


def row_payload(board: Board, row: BoardRow, words: TextTable) -> dict[str, Any]:
    """A row's scores, ranks and records."""
    tower = row.tower
    first = next(iter(next(iter(row.cells.values())).records.values())).record
    return {
        "method": tower.method,
        "family": tower.family,
        "encoder": tower.encoder,
        "fingerprint": sanitize_line(tower.fingerprint, 64),
        "init": init_text(row),
        "pairs": pairs_text(row),
        "options": sanitize_line(options_text(row), 200),
        "config": option_values(first),
        "again": repeat_command(first),
        "below": undisputed_row(board, row),
        "all": mean_payload(row.overall),
        "groups": group_payload(row.means),
        "cells": [cell_payload(row.cells.get(column.language.code), words) for column in board.columns],
    }


def undisputed_row(board: Board, row: BoardRow) -> int:
    """The row that a disputed one stands below, which is the last before it that is not; a row itself if it is none."""
    place = next(number for number, each in enumerate(board.rows) if each is row)
    while board.rows[place].conflict:
        place -= 1
    return place


def option_values(record: Record) -> list[list[str]]:
    """Every option of a tower's distillation but its seed."""
    if record.tower is None:
        return []
    return [
        [name, sanitize_line(str(value))] for name, value in record.tower.config.model_dump(mode="json").items() if name != "seed"
    ]


def repeat_command(record: Record) -> list[str]:
    """The command that measures a record's row: what comes before the language, before the seed, and after it.

    Its data folder and store are the reader's own.
    """
    config = record.tower.requested if record.tower else None
    middle = ["--split", record.split, "--encoder", record.encoder, "--objectives", config.objective if config else ""]
    if config:
        for name, value in config.model_dump(exclude_defaults=True, mode="json").items():
            if name not in ("objective", "seed"):
                middle += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    if record.translations:
        middle += ["--translator" if record.translations.by == "translator" else "--translations", record.translations.source]
    if record.scorer != PLAIN:
        middle += ["--scorer", record.scorer.partition(",")[0]]
    task, rest = (sanitize_line(shlex.join(words), COMMAND_LENGTH) for words in (["--task", record.task], middle))
    data = "" if record.sample else " --data YOUR_FLICKR30K"
    return [f"python -m harness run {task} --lang ", f" {rest}" + (" --seed " if config else ""), data]


def cell_payload(cell: BoardCell | None, words: TextTable) -> Any:
    """Score, interval, ranks (none of a disputed row), pairs used, and each seed's record; 0 where the row has none."""
    if cell is None:
        return 0
    used = [each.record.tower.bitext.used for each in cell.records.values() if each.record.tower]
    records = [record_payload(seed, each.record, words) for seed, each in cell.records.items()]
    ranks = [cell.standing.first, cell.standing.last] if cell.standing else [None, None]
    return [*rounded_interval(cell.score), *ranks, max(used, default=0), records]


def record_payload(seed: int, record: Record, words: TextTable) -> list[Any]:
    """Seed, cell, and by number where it was measured, from which pairs and by which command."""
    pairs = "" if record.tower is None else bitext_text(record)
    command = command_template(record, seed)
    return [
        seed,
        sanitize_line(record.cell, 12),
        words.number(provenance_text(record.provenance)),
        words.number(pairs),
        words.number(command),
    ]


def provenance_text(of: Provenance) -> str:
    """When, by which code and where."""
    commit = f"commit {of.commit[:12]}{' with local changes' if of.dirty else ''}" if of.commit else f"version {of.version}"
    packages = ", ".join(
        f"{name} {version}" for name, version in of.packages.items() if name in ("torch", "open_clip_torch", "numpy")
    )
    return sanitize_line(f"{of.created[:10]}, {commit}, {of.device}, {of.platform}, Python {of.python}, {packages}", 300)


def bitext_text(record: Record) -> str:
    """The bitext behind a record."""
    assert record.tower is not None
    bitext = record.tower.bitext
    return sanitize_line(
        f"{bitext.used:,} of {bitext.offered:,} pairs, {bitext.source} ({bitext.kind}), {bitext.dropped:,} dropped by the guard",
        300,
    )


def command_template(record: Record, seed: int) -> str:
    """The command that was typed, with {lang} and {seed} for the language and seed where they stand in it."""
    command = re.sub(
        rf"(--lang[ =]){re.escape(record.lang)}(?= |$)", r"\1{lang}", sanitize_line(record.provenance.command, COMMAND_LENGTH)
    )
    return re.sub(rf"(--seed[ =]){seed}(?= |$)", r"\1{seed}", command)


def rounded_interval(score: Interval) -> list[float]:
    """A score and its interval, to a hundredth of a point."""
    return [round(value, 2) for value in (score.estimate, score.low, score.high)]


def mean_payload(mean: BoardMean | None) -> Any:
    """A mean, its interval and its ranks; 0 where there is none."""
    if mean is None:
        return 0
    return [*rounded_interval(mean.score), *([mean.standing.first, mean.standing.last] if mean.standing else [])]


def group_payload(means: Mapping[str, BoardMean]) -> dict[str, Any]:
    """Means by group."""
    return {group: mean_payload(mean) for group, mean in means.items()}


def ceiling_cells(board: Board, cells: Mapping[str, Interval]) -> list[Any]:
    """Scores by column; 0 where there is none."""
    return [rounded_interval(cells[column.language.code]) if column.language.code in cells else 0 for column in board.columns]


def gain_payload(gain: Any) -> Any:
    """A difference, its interval, and whether it is told apart; 0 where there is none."""
    return 0 if gain is None else [*rounded_interval(gain.difference), int(gain.apart)]
