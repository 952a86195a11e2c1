"""Contrasts of a board: transport rows against standard rows that were otherwise trained alike."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.leaderboards.board.model import BoardContrast, BoardTower, Gain
from harness.leaderboards.board.scores import BoardScores, expanded, percentile_intervals
from harness.statistics.rank_inference import significant_differences

# Options in which the two rows of a contrast may differ, beside the transport initializer: they belong to the objective.
_OBJECTIVE_OPTIONS = {"objective", "seed", "learning_rate", "solver", "eps", "rho", "sentence_weight", "temperature", "diagonal"}
_OBJECTIVE_OPTIONS |= {"alpha", "batch_eps", "batch_iterations", "entity_weight"}
_TEACHER_LAYERS = "random"  # the initializer that copies the teacher's layers and no embeddings


def board_contrasts(scores: BoardScores) -> Iterator[BoardContrast]:
    """Yield the contrast of each undisputed transport row with each standard row that was trained alike."""
    for ours, mine in enumerate(scores.towers):
        for theirs, other in enumerate(scores.towers):
            disputed = mine.disputed or other.disputed
            if not disputed and (mine.family, other.family) == ("OT", "KD") and trained_alike(mine, other):
                contrast = row_contrast(scores, ours, theirs)
                if contrast.gains:
                    yield contrast


def row_contrast(scores: BoardScores, ours: int, theirs: int) -> BoardContrast:
    """Return one row minus another, on the columns that both have and whose towers learned from the same sentence pairs."""
    codes = [
        code
        for code, column in scores.by_language.items()
        if {ours, theirs} <= set(column.rows) and same_bitext(scores, ours, theirs, code)
    ]
    if not codes:
        return BoardContrast(ours, theirs, {}, None)
    sides = [(scores.by_language[code].of_row(ours), scores.by_language[code].of_row(theirs)) for code in codes]
    estimates = np.array([mine[0] - other[0] for mine, other in sides])
    resampled = np.column_stack([mine[1] - other[1] for mine, other in sides])
    freedom = np.array([min(mine[2], other[2]) for mine, other in sides])
    intervals = percentile_intervals(estimates, expanded(estimates, resampled, freedom))
    tested = zip(intervals, significant_differences(estimates, expanded(estimates, resampled, freedom, len(codes))), strict=True)
    gains = {code: Gain(*result) for code, result in zip(codes, tested, strict=True)}
    complete = len(codes) == len(scores.columns)
    means = estimates.mean(keepdims=True), resampled.mean(axis=1, keepdims=True)
    widened = expanded(*means, freedom.min(keepdims=True))
    return BoardContrast(ours, theirs, gains, percentile_intervals(means[0], widened)[0] if complete else None)


def same_bitext(scores: BoardScores, ours: int, theirs: int, code: str) -> bool:
    """Return whether two rows' towers of a language were distilled from the same sentence pairs, seed by seed."""
    mine, other = (
        {
            seed: each.record.tower.bitext.digest
            for seed, each in scores.records[scores.towers[row], code].items()
            if each.record.tower
        }
        for row in (ours, theirs)
    )
    return mine == other


def trained_alike(mine: BoardTower, other: BoardTower) -> bool:
    """Return whether two towers differ only in their objective and, possibly, in the first one's transport initializer.

    A transport initializer equals `random`, which copies the teacher's layers, except for the embeddings of the subwords.
    """
    sides = [(each.fingerprint, each.scorer, each.sender) for each in (mine, other)]
    if mine.config is None or other.config is None or sides[0] != sides[1]:
        return False
    ignored = _OBJECTIVE_OPTIONS | {"init"}
    init, other_init = mine.config.init, other.config.init
    same_init = init == other_init or (init.startswith("ot-") and other_init == _TEACHER_LAYERS)
    return same_init and mine.config.model_dump(exclude=ignored) == other.config.model_dump(exclude=ignored)
