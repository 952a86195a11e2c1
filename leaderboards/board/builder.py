"""Boards built from records.

A board ranks only towers that were measured on the same captions of the same images. A board configuration therefore gives one
board for each gallery with matching records, and a further board where a language has a second set of captions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.core.arms import STEPLESS
from harness.core.data import Doubles, Language
from harness.leaderboards.board.breakdown import board_breakdown
from harness.leaderboards.board.ceilings import english_ceilings
from harness.leaderboards.board.config import BoardConfig
from harness.leaderboards.board.contrasts import board_contrasts
from harness.leaderboards.board.grouping import belongs_to_board, group_galleries, is_english_ceiling, split_by_test_set
from harness.leaderboards.board.model import Board, BoardCell, BoardColumn, BoardMean, BoardRow, BoardTower
from harness.leaderboards.board.scores import BoardScores, complete_rows, expanded, percentile_intervals
from harness.leaderboards.records.board_records import BoardGallery, BoardRecord
from harness.leaderboards.rendering import sanitize_line
from harness.retrieval.scorers import PLAIN
from harness.statistics.rank_inference import RankInterval, rank_intervals

_CONFLICTS_SHOWN = 3
_NOTES_SHOWN, _NOTE_LENGTH = 40, 400


def make_boards(
    config: BoardConfig,
    records: Sequence[BoardRecord],
    languages: Mapping[str, Language],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Board]:
    """Return the boards of a configuration, those with most records first. The list is empty if no record matches.

    records: as `find_records` returns them, the project's own first. Submissions never change what a board says of the project's
    own records: they get rows of their own. A gallery, a language or captions that only submissions have make a board of their
    own.

    Intervals and ranks resample the images, in the same draws for all rows and columns of a board, and the seeds of rows with two
    or more. Raises HarnessError if a record's ranks cannot be read.
    """
    chosen = [each for each in records if belongs_to_board(each.record, config)]
    first = {each.record.images_digest: each for each in reversed(chosen)}
    galleries = {digest: BoardGallery.read(each.folder, each.record) for digest, each in sorted(first.items())}
    boards = []
    for members in group_galleries(list(galleries.items()), {each.record.images_digest for each in chosen if not each.sender}):
        inside = [each for each in chosen if each.record.images_digest in members]
        english = [
            each
            for each in records
            if each.record.images_digest in members and is_english_ceiling(each.record, config) and each.record.scorer == PLAIN
        ]
        for place, part in enumerate(split_by_test_set(inside)):
            scores = BoardScores(config, part, galleries[members[0]], languages, resamples, seed)
            own = sum(not each.sender for each in part)
            boards.append((own, len(part), BoardBuilder(scores, english).build(members[0], place)))
    return with_unique_names([board for _, _, board in sorted(boards, key=lambda item: (-item[0], -item[1]))])


def with_unique_names(boards: Sequence[Board]) -> list[Board]:
    """Return the boards with distinct names, which name their files: the digests of two galleries may begin alike."""
    names: set[str] = set()
    out = []
    for board in boards:
        full = f"{board.config.name}-{board.gallery}"
        name = board.name if board.name not in names else f"{full}-{len(names)}"
        names.add(name)
        out.append(replace(board, name=name))
    return out


class BoardBuilder:
    """Builds one board from its scores. english: records of English towers on English captions."""

    def __init__(self, scores: BoardScores, english: Sequence[BoardRecord]) -> None:
        self.scores, self.english = scores, english
        self.towers = scores.towers

    def build(self, digest: str, place: int) -> Board:
        """Return the board. digest: of its gallery. place: its number among the boards of this gallery."""
        scores = self.scores
        groups = tuple(dict.fromkeys(column.group for column in scores.columns if column.group))
        members = {group: [column for column in scores.columns if column.group == group] for group in groups}
        columns: dict[str, Sequence[BoardColumn]] = {"": scores.columns, **members}
        rows = self.rows(groups, columns)
        order = self.row_order(rows)
        places = {row: place for place, row in enumerate(order)}
        breakdown = board_breakdown(scores, order)
        about = [*seed_notes(scores), *board_notes(scores.records.values(), scores.gallery, scores.columns)]
        conflicts = tuple(f"{row.tower.encoder}, {row.tower.method}: {row.conflict}" for row in rows if row.conflict)
        return Board(
            config=scores.config,
            name=f"{scores.config.name}-{digest[:8]}" + (f"-{place + 1}" if place else ""),
            gallery=digest,
            images=len(scores.gallery.image_ids),
            columns=scores.columns,
            groups=groups,
            rows=tuple(rows[row] for row in order),
            ceilings=tuple(english_ceilings(scores, self.english, columns)),
            contrasts=tuple(
                replace(each, transport=places[each.transport], standard=places[each.standard])
                for each in board_contrasts(scores)
            ),
            breakdown=breakdown,
            conflicts=conflicts,
            notes=tuple(dict.fromkeys([*conflicts, *scores.notes, *about])),
            resamples=scores.resamples,
        )

    def rows(self, groups: Sequence[str], columns: Mapping[str, Sequence[BoardColumn]]) -> list[BoardRow]:
        """Return the rows in the order of the towers. columns: by group, with all columns under the empty name."""
        ranked = {name: self.ranked_means(members) for name, members in columns.items()}
        cells = self.cells()
        return [
            BoardRow(
                tower,
                cells[row],
                {name: ranked[name][row] for name in groups if row in ranked[name]},
                ranked[""].get(row),
                self.conflict(tower),
            )
            for row, tower in enumerate(self.towers)
        ]

    def row_order(self, rows: Sequence[BoardRow]) -> list[int]:
        """Return the order of the rows. A disputed row follows the row that it disagrees with."""
        above = [self.towers.index(self.undisputed(tower)) for tower in self.towers]
        return sorted(range(len(rows)), key=lambda row: (row_sort_key(rows[above[row]]), above[row], above[row] != row, row))

    def undisputed(self, tower: BoardTower) -> BoardTower:
        """Return the row that a disputed row follows: the first that it disagrees with. Return any other row itself."""
        while tower in self.scores.conflicts:
            tower = self.scores.conflicts[tower][0].tower
        return tower

    def conflict(self, tower: BoardTower) -> str:
        """Return how a disputed row's scores differ from the earlier row's, in the first languages. Empty for other rows."""
        conflicts = self.scores.conflicts.get(tower, [])
        if not conflicts:
            return ""
        key = self.scores.config.key
        pairs = [(each.disputed.record, each.earlier.record) for each in conflicts]
        differences = [f"{later.lang} {later.scores[key]:.1f} against {first.scores[key]:.1f}" for later, first in pairs]
        rest = len(differences) - _CONFLICTS_SHOWN
        more = f" and {rest:,} more" if rest > 0 else ""
        shown = ", ".join(differences[:_CONFLICTS_SHOWN])
        return f"not ranked; the same seeds as in {conflicts[0].tower.method}: {shown}{more}"

    def cells(self) -> list[dict[str, BoardCell]]:
        """Return every row's cells, by language."""
        out: list[dict[str, BoardCell]] = [{} for _ in self.towers]
        for code, column in self.scores.by_language.items():
            ranks = self.ranks(column.rows, column.estimates, column.resampled, column.freedom)
            for row, score in zip(column.rows, column.intervals(), strict=True):
                records = dict(sorted(self.scores.records[self.towers[row], code].items()))
                out[row][code] = BoardCell(score, ranks.get(row), records)
        return out

    def ranks(self, rows: Sequence[int], estimates: Doubles, resampled: Doubles, freedom: Doubles) -> dict[int, RankInterval]:
        """Return the ranks of rows. Disputed and transductive rows have none and do not affect the others' ranks."""
        kept = [place for place, row in enumerate(rows) if self.is_ranked(self.towers[row])]
        pairs = max(1, len(kept) * (len(kept) - 1) // 2)
        widened = expanded(estimates, resampled, freedom, pairs)
        found = rank_intervals(estimates[kept], widened[:, kept]) if kept else []
        return {rows[place]: rank for place, rank in zip(kept, found, strict=True)}

    def is_ranked(self, tower: BoardTower) -> bool:
        """Return whether a row is ranked among the others."""
        return tower not in self.scores.conflicts and not tower.is_transductive

    def ranked_means(self, columns: Sequence[BoardColumn]) -> dict[int, BoardMean]:
        """Return the ranked macro means over columns of the rows that have all of them."""
        sampled = [self.scores.by_language[column.language.code] for column in columns]
        complete, picked = complete_rows(len(self.towers), [each.rows for each in sampled])
        if not complete:
            return {}
        estimates = np.mean([each.estimates[pick] for each, pick in zip(sampled, picked, strict=True)], axis=0)
        resampled = np.zeros((self.scores.resamples, len(complete)))
        for each, pick in zip(sampled, picked, strict=True):
            resampled += each.resampled[:, pick] / len(sampled)
        freedom = np.min([each.freedom[pick] for each, pick in zip(sampled, picked, strict=True)], axis=0)
        ranks = self.ranks(complete, estimates, resampled, freedom)
        if len(sampled) == 1:  # the mean is the column
            intervals = [sampled[0].intervals()[pick] for pick in picked[0]]
        else:
            intervals = percentile_intervals(estimates, expanded(estimates, resampled, freedom))
        return {row: BoardMean(score, ranks.get(row)) for row, score in zip(complete, intervals, strict=True)}


def row_sort_key(row: BoardRow) -> tuple[float, ...]:
    """Return the key that orders complete rows by rank and score, then the other rows by their number of columns."""
    if row.overall and row.overall.rank:
        return (0, row.overall.rank.first, -row.overall.score.estimate)
    return (1, -len(row.cells), -float(np.mean([cell.score.estimate for cell in row.cells.values()])))


def seed_notes(scores: BoardScores) -> list[str]:
    """Return the note that rows with one seed are towers, not methods, if trained rows have one."""
    trained = {row for row, tower in enumerate(scores.towers) if tower.config and tower.config.objective not in STEPLESS}
    cells = [cell for (tower, _), cell in scores.records.items() if scores.towers.index(tower) in trained]
    if not any(len(cell) == 1 for cell in cells):
        return []
    return ["Rows with one seed are these towers, not methods: another seed may have another rank."]


def board_notes(cells: Iterable[Mapping[int, BoardRecord]], gallery: BoardGallery, columns: Sequence[BoardColumn]) -> list[str]:
    """Return notes on columns that lack images, and the records' own notes, the most frequent first."""
    images = len(gallery.image_ids)
    short = [f"{c.language.name} has captions for {c.images:,} of the {images:,} images" for c in columns if c.images < images]
    counted = Counter(note for seeds in cells for each in seeds.values() for note in set(each.record.notes))
    return short + [sanitize_line(note, _NOTE_LENGTH) for note, _ in counted.most_common(_NOTES_SHOWN)]
