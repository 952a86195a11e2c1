"""Data types of a leaderboard, before any of it is rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.core.arms import Side, side_of
from harness.core.config import DistillConfig
from harness.core.data import Language
from harness.leaderboards.board.config import BoardConfig
from harness.leaderboards.records.board_records import BoardRecord, TestSet
from harness.leaderboards.rendering import sanitize_line
from harness.records.schema import TRANSLATE_TEST, Record
from harness.retrieval.scorers import PLAIN, is_transductive
from harness.statistics.inference import Interval
from harness.statistics.rank_inference import RankInterval

MethodFamily = Literal["OT", "KD", "none"]
TRANSDUCTIVE_NOTE = "not ranked; the test queries are ranked together, which is not zero-shot retrieval"
METHOD_FAMILIES: dict[Side, MethodFamily] = {"transport": "OT", "standard": "KD", "control": "none"}


@dataclass(frozen=True)
class BoardColumn:
    """A language and the captions that it is measured on.

    source, kind: sanitized, for display. chance: the expected score of a random ranking, in percent.
    """

    language: Language
    test_set: TestSet
    source: str
    kind: str
    images: int
    captions: int
    chance: float
    group: str


@dataclass(frozen=True)
class BoardTower:
    """What a row stands for: an encoder, a text tower and a scorer, with seeds pooled.

    config: the tower's configuration without its seed, or None for the encoder's own tower. translations: the source of the
    English translations that the tower read instead of the captions, if it did. sender: the submission that the records came
    in, or empty for the project's own. repeat: the number of earlier rows with the same recipe and sender but other ranks.
    disputed: whether an earlier row has other ranks for the same seed.
    """

    encoder: str
    fingerprint: str
    config: DistillConfig | None
    scorer: str = PLAIN
    translations: str = ""
    sender: str = ""
    repeat: int = 0
    disputed: bool = False

    @classmethod
    def from_record(cls, record: Record) -> BoardTower:
        """Return the tower of a record."""
        config = record.tower.requested.model_copy(update={"seed": 0}) if record.tower else None
        source = sanitize_line(record.translations.source) if record.translations else ""
        return cls(sanitize_line(record.encoder), record.encoder_fingerprint, config, sanitize_line(record.scorer), source)

    @property
    def qualifier(self) -> str:
        """What distinguishes the row from the project's own row of the same recipe."""
        repeat = "measured again" + (f" ({self.repeat})" if self.repeat > 1 else "") if self.repeat else ""
        sent = self.sender and f"submitted by {self.sender}"
        return ", ".join(filter(None, [sent, repeat, "disputed" if self.disputed else ""]))

    @property
    def method(self) -> str:
        """The arm, or "English tower" or "translate-test", and the scorer if it is not the plain one."""
        own = f"{TRANSLATE_TEST} ({self.translations})" if self.translations else "English tower"
        name = sanitize_line(self.config.arm) if self.config else own
        scored = name if self.scorer == PLAIN else f"{name} + {self.scorer}"
        return f"{scored} ({self.qualifier})" if self.qualifier else scored

    @property
    def is_transductive(self) -> bool:
        """Whether the scorer ranks the test queries together. Such a row is not ranked among those of single queries."""
        return is_transductive(self.scorer)

    @property
    def family(self) -> MethodFamily:
        """The method family: the side that a study assigns to the tower's objective and initializer."""
        return METHOD_FAMILIES[side_of(self.config.objective, self.config.init)] if self.config else "none"

    @property
    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults, except those with a column of their own."""
        if self.config is None:
            return {}
        chosen = self.config.chosen()
        return {name: value for name, value in chosen.items() if name not in ("objective", "init", "pairs", "seed")}


@dataclass(frozen=True)
class BoardCell:
    """A row's score on a column: the mean over seeds with its interval over images, and the records by seed.

    rank: None for a disputed row.
    """

    score: Interval
    rank: RankInterval | None
    records: Mapping[int, BoardRecord]


@dataclass(frozen=True)
class BoardMean:
    """The macro mean over the columns of a group, each with equal weight. rank: None where rows are not ranked."""

    score: Interval
    rank: RankInterval | None


@dataclass(frozen=True)
class BoardRow:
    """A tower, its cells by language, and the means of the groups whose columns it has all of. overall: the mean of all columns.

    conflict: how the row's scores differ from those of an earlier row with the same seeds. Such a row is shown below the earlier
    one and is not ranked.
    """

    tower: BoardTower
    cells: Mapping[str, BoardCell]
    means: Mapping[str, BoardMean]
    overall: BoardMean | None
    conflict: str = ""

    @property
    def seeds(self) -> tuple[int, int]:
        """The smallest and largest number of seeds in any cell."""
        counts = [len(cell.records) for cell in self.cells.values()]
        return min(counts), max(counts)


@dataclass(frozen=True)
class Ceiling:
    """An encoder's English tower on the English captions behind the translations, by language. It is shown but not ranked."""

    tower: BoardTower
    cells: Mapping[str, Interval]
    means: Mapping[str, BoardMean]
    overall: BoardMean | None


@dataclass(frozen=True)
class Gain:
    """A difference over the same images. significant: whether it is, with all languages of the contrast tested at once."""

    difference: Interval
    significant: bool


@dataclass(frozen=True)
class BoardContrast:
    """A transport row minus a standard row that was otherwise trained alike. transport, standard: indices of the rows."""

    transport: int
    standard: int
    gains: Mapping[str, Gain]
    overall: Interval | None


@dataclass(frozen=True)
class BoardBreakdown:
    """Scores by the values of a caption facet. A caption may have several values.

    captions: the number of captions with each value, over all columns. rows: for each row, by value, the macro mean over the
    columns with such captions. A row that lacks one of these columns has no entry for the value.
    """

    facet: str
    captions: Mapping[str, int]
    rows: tuple[Mapping[str, Interval], ...]


@dataclass(frozen=True)
class Board:
    """A leaderboard. Rows are in order of rank, complete ones first. Columns are ordered by group, then by name."""

    config: BoardConfig
    name: str
    gallery: str
    images: int
    columns: tuple[BoardColumn, ...]
    groups: tuple[str, ...]
    rows: tuple[BoardRow, ...]
    ceilings: tuple[Ceiling, ...]
    contrasts: tuple[BoardContrast, ...]
    breakdown: BoardBreakdown | None
    conflicts: tuple[str, ...]
    notes: tuple[str, ...]
    resamples: int

    @property
    def averaged(self) -> tuple[str, ...]:
        """The groups whose means are shown: all groups, if there are several and one has more than one language."""
        several = len(self.groups) > 1 and len(self.columns) > len(self.groups)
        return self.groups if several else ()

    @property
    def title(self) -> str:
        """The name and the gallery size, for a heading."""
        text_only = self.config.direction == "texts" and all(column.images == column.captions for column in self.columns)
        return f"{self.config.title} · {self.images:,} {'queries' if text_only else 'images'}"
