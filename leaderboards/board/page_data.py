"""The data that a board's script reads from the page: scores, ranks and records, as compact JSON."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from harness.leaderboards.board.exports import init_text, options_text, pairs_text
from harness.leaderboards.board.model import TRANSDUCTIVE_NOTE, Board, BoardCell, BoardMean, BoardRow, Gain
from harness.leaderboards.rendering import sanitize_line
from harness.records.schema import Provenance, Record
from harness.retrieval.scorers import PLAIN, scorer_arguments
from harness.statistics.inference import Interval

_COMMAND_LENGTH, _LINE_LENGTH, _OPTIONS_LENGTH = 600, 300, 200


def board_payload(board: Board) -> dict[str, Any]:
    """Return the data of a board. Its texts are bounded, and each is stored once."""
    words = TextTable()
    return {
        "name": board.name,
        "metric": board.config.metric,
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
                "a": contrast.transport,
                "b": contrast.standard,
                "gains": [gain_payload(contrast.gains.get(column.language.code)) for column in board.columns],
                "all": rounded_interval(contrast.overall) if contrast.overall else 0,
            }
            for contrast in board.contrasts
        ],
        "words": words.all,
    }


class TextTable:
    """Texts by number. A text that many records share is stored once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Return the number of a text."""
        return self._numbers.setdefault(text, len(self._numbers))

    @property
    def all(self) -> list[str]:
        """Every text, by number."""
        return list(self._numbers)


def row_payload(board: Board, row: BoardRow, words: TextTable) -> dict[str, Any]:
    """Return a row's scores, ranks and records."""
    tower = row.tower
    first = next(iter(next(iter(row.cells.values())).records.values())).record
    return {
        "method": tower.method,
        "family": tower.family,
        "encoder": tower.encoder,
        "fingerprint": sanitize_line(tower.fingerprint, 64),
        "init": init_text(row),
        "pairs": pairs_text(row),
        "options": sanitize_line(options_text(row), _OPTIONS_LENGTH),
        "config": option_values(first),
        "again": repeat_command(first),
        "below": undisputed_row(board, row),
        "unranked": TRANSDUCTIVE_NOTE if tower.is_transductive else "",
        "all": mean_payload(row.overall),
        "groups": group_payload(row.means),
        "cells": [cell_payload(row.cells.get(column.language.code), words) for column in board.columns],
    }


def undisputed_row(board: Board, row: BoardRow) -> int:
    """Return the index of the undisputed row that a disputed row follows, or the index of a row that is undisputed itself."""
    place = next(number for number, each in enumerate(board.rows) if each is row)
    while board.rows[place].conflict:
        place -= 1
    return place


def option_values(record: Record) -> list[list[str]]:
    """Return every distillation option of a tower except its seed."""
    if record.tower is None:
        return []
    return [
        [name, sanitize_line(str(value))] for name, value in record.tower.config.model_dump(mode="json").items() if name != "seed"
    ]


def repeat_command(record: Record) -> list[str]:
    """Return the command that measures a record's row, in three parts: up to the language, up to the seed, and the rest.

    Readers fill in their own data folder and store.
    """
    config = record.tower.requested if record.tower else None
    middle = ["--split", record.split, "--encoder", record.encoder, "--arms", config.arm if config else ""]
    if config:
        for name, value in config.chosen().items():
            if name not in ("objective", "init", "seed"):
                middle += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    if record.translations:
        middle += ["--translator" if record.translations.by == "translator" else "--translations", record.translations.source]
    if record.scorer != PLAIN:
        middle += scorer_arguments(record.scorer)
    task, rest = (sanitize_line(shlex.join(words), _COMMAND_LENGTH) for words in (["--task", record.task], middle))
    data = "" if record.sample else " --data YOUR_FLICKR30K"
    return [f"python -m harness run {task} --lang ", f" {rest}" + (" --seed " if config else ""), data]


def cell_payload(cell: BoardCell | None, words: TextTable) -> Any:
    """Return the score, interval, ranks, sentence pairs used and each seed's record, or 0 for an empty cell.

    The ranks of a disputed row are null.
    """
    if cell is None:
        return 0
    used = [each.record.tower.bitext.used for each in cell.records.values() if each.record.tower]
    records = [record_payload(seed, each.record, words) for seed, each in cell.records.items()]
    ranks = [cell.rank.first, cell.rank.last] if cell.rank else [None, None]
    return [*rounded_interval(cell.score), *ranks, max(used, default=0), records]


def record_payload(seed: int, record: Record, words: TextTable) -> list[Any]:
    """Return the seed, the cell, and the numbers of the texts on its provenance, bitext and command."""
    pairs = "" if record.tower is None else bitext_text(record)
    return [
        seed,
        sanitize_line(record.cell, 12),
        words.number(provenance_text(record.provenance)),
        words.number(pairs),
        words.number(command_template(record, seed)),
    ]


def provenance_text(of: Provenance) -> str:
    """Return when, with which code and on which machine a record was measured."""
    commit = f"commit {of.commit[:12]}{' with local changes' if of.dirty else ''}" if of.commit else f"version {of.version}"
    packages = ", ".join(
        f"{name} {version}" for name, version in of.packages.items() if name in ("torch", "open_clip_torch", "numpy")
    )
    return sanitize_line(f"{of.created[:10]}, {commit}, {of.device}, {of.platform}, Python {of.python}, {packages}", _LINE_LENGTH)


def bitext_text(record: Record) -> str:
    """Return a description of the bitext that a record's tower learned from."""
    assert record.tower is not None
    bitext = record.tower.bitext
    return sanitize_line(
        f"{bitext.used:,} of {bitext.offered:,} sentence pairs, {bitext.source} ({bitext.kind}), "
        f"{bitext.dropped:,} dropped by the leakage guard",
        _LINE_LENGTH,
    )


def command_template(record: Record, seed: int) -> str:
    """Return the command as it was typed, with {lang} and {seed} in place of the language and the seed."""
    command = re.sub(
        rf"(--lang[ =]){re.escape(record.lang)}(?= |$)", r"\1{lang}", sanitize_line(record.provenance.command, _COMMAND_LENGTH)
    )
    return re.sub(rf"(--seed[ =]){seed}(?= |$)", r"\1{seed}", command)


def rounded_interval(score: Interval) -> list[float]:
    """Return a score and its interval, rounded to 0.01."""
    return [round(value, 2) for value in (score.estimate, score.low, score.high)]


def mean_payload(mean: BoardMean | None) -> Any:
    """Return a mean, its interval and its ranks, or 0 for a missing mean."""
    if mean is None:
        return 0
    return [*rounded_interval(mean.score), *([mean.rank.first, mean.rank.last] if mean.rank else [])]


def group_payload(means: Mapping[str, BoardMean]) -> dict[str, Any]:
    """Return means by group."""
    return {group: mean_payload(mean) for group, mean in means.items()}


def ceiling_cells(board: Board, cells: Mapping[str, Interval]) -> list[Any]:
    """Return the scores of a ceiling by column, 0 for an empty cell."""
    return [rounded_interval(cells[column.language.code]) if column.language.code in cells else 0 for column in board.columns]


def gain_payload(gain: Gain | None) -> Any:
    """Return a difference, its interval and 1 if it is significant, else 0; 0 alone for a missing difference."""
    return 0 if gain is None else [*rounded_interval(gain.difference), int(gain.significant)]
