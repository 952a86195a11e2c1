"""Ceilings of a board: the encoders' English towers on the English captions behind the translations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.core.data import Doubles, english_side
from harness.leaderboards.board.model import BoardColumn, BoardMean, BoardTower, Ceiling
from harness.leaderboards.board.scores import BoardScores, Floats32, percentile_intervals, queries_by_image
from harness.leaderboards.records.board_records import BoardGallery, BoardRecord


def english_ceilings(
    scores: BoardScores, english: Sequence[BoardRecord], groups: Mapping[str, Sequence[BoardColumn]]
) -> Iterator[Ceiling]:
    """Yield the ceiling of each of the board's encoders that has records on English captions.

    english: records of English towers. groups: columns by group, with all columns under the empty name.
    """
    for fingerprint, name in dict.fromkeys((tower.fingerprint, tower.encoder) for tower in scores.towers):
        found = ((column.language.code, english_record(scores, english, column, fingerprint)) for column in scores.columns)
        by_language = {code: record for code, record in found if record}
        records = {each.record.cell: each for each in by_language.values()}
        tables = [ceiling_table(scores, each) for each in records.values()]
        means = scores.bootstrap.means(tables, [np.ones(1, np.int64)] * len(tables))
        by_cell = dict(zip(records, means, strict=True))
        if by_cell:
            sampled = {code: by_cell[each.record.cell] for code, each in by_language.items()}
            cells = {code: percentile_intervals(*score)[0] for code, score in sampled.items()}
            averaged = {group: macro_mean(sampled, members) for group, members in groups.items()}
            complete = {group: mean for group, mean in averaged.items() if mean}
            yield Ceiling(BoardTower(name, fingerprint, None), cells, complete, complete.pop("", None))


def english_record(
    scores: BoardScores, english: Sequence[BoardRecord], column: BoardColumn, fingerprint: str
) -> BoardRecord | None:
    """Return the record of an encoder's English tower on the English captions behind a column's translations, if there is one.

    For an encoder of the project's own rows, only the project's own records count.
    """
    wanted = (fingerprint, column.test_set.images_digest, english_side(column.test_set.source), column.captions)
    own = any(tower.fingerprint == fingerprint and not tower.sender for tower in scores.towers)
    for each in english:
        record = each.record
        if own and each.sender:
            continue
        if (record.encoder_fingerprint, record.images_digest, record.source, record.captions) == wanted:
            return each
    return None


def ceiling_table(scores: BoardScores, record: BoardRecord) -> Floats32:
    """Return the hits and queries of one record, by image."""
    gallery = BoardGallery.read(record.folder, record.record)
    return scores.bootstrap.table(gallery, [scores.hits([record], gallery)], queries_by_image(gallery, scores.config.side))


def macro_mean(sampled: Mapping[str, tuple[Doubles, Doubles]], columns: Sequence[BoardColumn]) -> BoardMean | None:
    """Return the unranked macro mean over columns, or None if a score is missing. sampled: by language."""
    codes = [column.language.code for column in columns]
    if not all(code in sampled for code in codes):
        return None
    estimates = np.mean([sampled[code][0] for code in codes], axis=0)
    resampled = np.mean([sampled[code][1] for code in codes], axis=0)
    return BoardMean(percentile_intervals(estimates, resampled)[0], None)
