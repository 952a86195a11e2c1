"""The configuration of a board over synthetic records, and its languages."""

from __future__ import annotations

from harness.core.data import Language
from harness.leaderboards.board.config import BoardConfig

TIERS = {"de": 5, "fr": 5, "cy": 1, "qu": 1, "gn": 0}
LANGUAGES = {code: Language(code, code.upper(), "Latn", tier, ()) for code, tier in TIERS.items()}


def board_config(**changes: object) -> BoardConfig:
    fields = {
        "name": "made-up",
        "title": "Made up",
        "task": "flickr30k",
        "split": "test",
        "sample": False,
        "direction": "t2i",
        "cutoff": 1,
    }
    return BoardConfig.model_validate(fields | changes)
