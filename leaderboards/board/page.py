"""The page of the leaderboard: one HTML file that loads nothing from a network and shows every name as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.leaderboards.board.exports import (
    RANKING_METHOD,
    breakdown_caption,
    init_text,
    one_decimal,
    options_text,
    pairs_text,
    seeds_cell,
)
from harness.leaderboards.board.model import TRANSDUCTIVE_NOTE, Board, BoardCell, BoardColumn, BoardMean, BoardRow, Ceiling
from harness.leaderboards.board.page_data import board_payload
from harness.leaderboards.records.board_records import BoardRecord
from harness.leaderboards.rendering import render_page, sanitize_line
from harness.statistics.inference import Interval
from harness.statistics.rank_inference import RankInterval

PROBLEM_LENGTH = 500
"""The longest line about a record that was left out."""
_PROBLEMS_SHOWN = 20
_OPTIONS_LENGTH = 200
_ALL_PAIRS = 10**9  # sorts after every number of sentence pairs


def board_page(boards: Sequence[Board], problems: Sequence[str] = ()) -> str:
    """Return the page of the leaderboard. problems: why records were left out."""
    dates = [each.record.provenance.created[:10] for board in boards for each in board_records(board) if not each.sender]
    return render_page(
        "board.html.j2",
        ("elements.js", "charts.js", "board.js"),
        boards=[board_view(board) for board in boards],
        newest=sanitize_line(max(dates, default=""), 10),
        method=RANKING_METHOD,
        problems=[sanitize_line(problem, PROBLEM_LENGTH) for problem in problems[:_PROBLEMS_SHOWN]],
        left_out=len(problems),
        data=[board_payload(board) for board in boards],
    )


def board_records(board: Board) -> Iterator[BoardRecord]:
    """Yield every record of a board."""
    return (each for row in board.rows for cell in row.cells.values() for each in cell.records.values())


def board_view(board: Board) -> dict[str, Any]:
    """Return the values that the template shows of a board."""
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
    """Return the values that the template shows of the scores by facet."""
    breakdown = board.breakdown
    if breakdown is None:
        return None
    headings = [(sanitize_line(value, 40), f"{count:,} captions") for value, count in breakdown.captions.items()]
    rows = [
        (
            row.tower,
            row_view(board, row)["about"],
            [score_view("", "", None, scores.get(value), "") for value in breakdown.captions],
        )
        for row, scores in zip(board.rows, breakdown.rows, strict=True)
    ]
    return {"about": breakdown_caption(board), "headings": headings, "rows": rows}


def row_view(board: Board, row: BoardRow) -> dict[str, Any]:
    """Return the values that the template shows of a row."""
    config = row.tower.config
    present = [column for column in board.columns if column.language.code in row.cells]
    pairs, options = pairs_text(row), sanitize_line(options_text(row), _OPTIONS_LENGTH)
    return {
        "tower": row.tower,
        "rank": rank_view(row.overall.rank if row.overall else None),
        "about": " · ".join(filter(None, [pairs and f"{pairs} pairs", options])),
        "conflict": sanitize_line(row.conflict, PROBLEM_LENGTH),
        "unranked": sanitize_line(row.conflict, PROBLEM_LENGTH) or (TRANSDUCTIVE_NOTE if row.tower.is_transductive else ""),
        "init": init_text(row),
        "pairs": pairs.replace(",", ""),
        "pairs_value": "" if config is None else config.pairs or _ALL_PAIRS,
        "seeds": seeds_cell(row),
        "seeds_value": row.seeds[1] if config else "",
        "sources": names_or_count([column.source for column in present]),
        "kinds": names_or_count([column.kind for column in present]),
        "numbers": list(score_views(board, row)),
    }


def names_or_count(names: Sequence[str]) -> str:
    """Return one or two distinct names, or the number of distinct names."""
    different = sorted(set(names))
    return ", ".join(different) if len(different) <= 2 else f"{len(different)} different"


def rank_view(rank: RankInterval | None) -> dict[str, Any]:
    """Return a rank and its interval."""
    if rank is None:
        return {"value": "", "text": "–", "small": ""}
    small = f"{rank.first}–{rank.last}" if rank.last > rank.first else ""
    return {"value": rank.first, "text": rank.first, "small": small}


def score_views(board: Board, row: BoardRow | Ceiling) -> Iterator[dict[str, Any]]:
    """Yield the means and scores of a row, in the order of the columns."""
    count = f"{len(row.cells)} of {len(board.columns)} languages"
    if len(board.columns) > 1:
        yield score_view("mean", "", None, row.overall.score if row.overall else None, count)
    for group in board.averaged:
        members = [column.language.code for column in board.columns if column.group == group]
        mean = row.means.get(group)
        group_count = f"{len(row.cells.keys() & set(members))} of {len(members)}"
        yield score_view("mean", f"g:{group}", None, mean.score if mean else None, group_count)
    for column in board.columns:
        cell = row.cells.get(column.language.code)
        score = cell.score if isinstance(cell, BoardCell) else cell
        yield score_view("language", f"l:{column.language.code}", f"g:{column.group}", score, "")


def score_view(kind: str, scope: str, group: str | None, score: Interval | None, missing: str) -> dict[str, Any]:
    """Return one score of the table. missing: the small text of a missing score."""
    if score is None:
        return {"kind": kind, "scope": scope, "group": group, "value": "", "text": "–", "small": missing}
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
    """Return the unranked row of an English tower on English captions."""
    return {
        "label": "English tower on English",
        "encoder": ceiling.tower.encoder,
        "numbers": list(score_views(board, ceiling)),
    }


def chance_view(board: Board) -> dict[str, Any]:
    """Return the unranked row of a random ranking."""

    def mean(columns: Sequence[BoardColumn]) -> BoardMean:
        value = sum(column.chance for column in columns) / len(columns)
        return BoardMean(Interval(value, value, value), None)

    groups = {group: mean([column for column in board.columns if column.group == group]) for group in board.groups}
    cells = {column.language.code: Interval(column.chance, column.chance, column.chance) for column in board.columns}
    views = score_views(board, Ceiling(board.rows[0].tower, cells, groups, mean(board.columns)))
    return {"label": "chance", "encoder": "", "numbers": [{**view, "small": ""} for view in views]}
