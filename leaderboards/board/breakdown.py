"""Scores of a board by the values of a caption facet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.core.data import Ints
from harness.core.errors import HarnessError
from harness.leaderboards.board.model import BoardBreakdown
from harness.leaderboards.board.scores import BoardScores, complete_rows, hits_of_captions, percentile_intervals
from harness.leaderboards.records.query_files import MAX_FACET_VALUES, read_facet
from harness.leaderboards.rendering import sanitize_line
from harness.statistics.breakdown import facet_values
from harness.statistics.inference import Interval


def board_breakdown(scores: BoardScores, order: Sequence[int]) -> BoardBreakdown | None:
    """Return every row's scores by the configured facet, or None if no record has it for the captions of any column.

    order: the order of the rows. A facet that cannot be read, or has too many values, adds a note to the scores instead.
    """
    facet = scores.config.breakdown
    if facet is None:
        return None
    found = {code: column_facet(scores, code, facet) for code in scores.by_language}
    by_value = {code: values for code, values in found.items() if values is not None}
    if not by_value:
        return None
    values = facet_values([tuple(each) for each in by_value.values()])
    if len(values) > MAX_FACET_VALUES:
        scores.notes.append(f"{facet} has {len(values):,} values in all, which is too many for a breakdown")
        return None
    captions = {value: sum(len(each.get(value, ())) for each in by_value.values()) for value in values}
    rows: list[dict[str, Interval]] = [{} for _ in scores.towers]
    for value in captions:
        for row, score in value_scores(scores, value, by_value).items():
            rows[row][value] = score
    return BoardBreakdown(facet, captions, tuple(rows[row] for row in order))


def column_facet(scores: BoardScores, code: str, facet: str) -> dict[str, Ints] | None:
    """Return a column's captions by the values of a facet, from the first of the project's own records that has it.

    The facet belongs to the captions, so any record of the column can provide it.
    """
    own = [found for (_, lang), cell in scores.records.items() if lang == code for found in cell.values() if not found.sender]
    try:
        return next((values for each in own if (values := read_facet(each.folder, each.record, facet)) is not None), None)
    except HarnessError as error:
        scores.notes.append(f"no scores by {facet} in {code}: {sanitize_line(str(error), 300)}")
        return None


def value_scores(scores: BoardScores, value: str, by_value: Mapping[str, Mapping[str, Ints]]) -> dict[int, Interval]:
    """Return the macro mean over the columns whose captions have a value, for each row that has all of these columns."""
    tables, present, seeds = [], [], []
    for code, captions_by_value in by_value.items():
        if value in captions_by_value:
            captions = captions_by_value[value]
            present.append(scores.by_language[code].rows)
            cells = [scores.cell_records(row, code) for row in present[-1]]
            gallery, cutoff = scores.column_gallery(code), scores.config.cutoff
            assert cutoff is not None, "a breakdown is of text-to-image retrieval, which has no other metric"
            parts = [[hits_of_captions(each, gallery, cutoff, captions) for each in cell] for cell in cells]
            hits = [np.asarray(np.sum(part, axis=0), dtype=np.float32) for part in parts]
            queries = np.bincount(gallery.owner[captions], minlength=len(gallery.image_ids)).astype(np.float32)
            tables.append(scores.bootstrap.table(gallery, hits, queries))
            seeds.append(np.array([len(cell) for cell in cells]))
    means = scores.bootstrap.means(tables, seeds)
    complete, picked = complete_rows(len(scores.towers), present)
    estimates = np.mean([estimate[pick] for (estimate, _), pick in zip(means, picked, strict=True)], axis=0)
    resampled = np.mean([draws[:, pick] for (_, draws), pick in zip(means, picked, strict=True)], axis=0)
    # A resample without any caption that has the value gives no score.
    return dict(zip(complete, percentile_intervals(estimates, resampled[np.isfinite(resampled).all(1)]), strict=True))
