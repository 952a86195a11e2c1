"""Scores of every row on every column of a board, with their bootstrap resamples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.core.data import MEASURE_PREFIX, Doubles, Ints, Language
from harness.leaderboards.board.config import BoardConfig
from harness.leaderboards.board.grouping import RowAssignment
from harness.leaderboards.board.model import BoardColumn, BoardTower
from harness.leaderboards.records.board_records import BoardGallery, BoardRecord, TestSet
from harness.leaderboards.records.query_files import read_columns
from harness.leaderboards.rendering import sanitize_line
from harness.retrieval.scorers import PLAIN
from harness.statistics.inference import (
    Interval,
    cluster_weights,
    count_hits,
    degrees_of_freedom,
    expansion,
    few_hits_interval,
    percentile_interval,
    resampled_seeds,
    seed_variance,
)
from harness.statistics.methods.rates import FEW, HitCounts

Floats32 = npt.NDArray[np.float32]
_QUANTILE = 1.959963984540054  # of 95 % intervals


@dataclass(frozen=True)
class BoardResamples:
    """Bootstrap resamples of one board's images.

    weights: (r, n), how often each image occurs in each resample. places: the column of each image id.
    """

    weights: Floats32
    places: Mapping[str, int]

    @classmethod
    def draw(cls, image_ids: Sequence[str], resamples: int, seed: int) -> BoardResamples:
        """Draw resamples of the images."""
        weights = np.concatenate([part.astype(np.float32) for part in cluster_weights(len(image_ids), resamples, seed)])
        return cls(weights, {name: place for place, name in enumerate(image_ids)})

    def table(self, gallery: BoardGallery, hits: Sequence[Floats32], queries: Floats32) -> Floats32:
        """Return the hits (images,) of k rows and the number of queries (images,) as the columns of an (n, k + 1) table."""
        table = np.zeros((len(self.places), len(hits) + 1), np.float32)
        table[[self.places[name] for name in gallery.image_ids]] = np.column_stack([*hits, queries])
        return table

    def means(self, tables: Sequence[Floats32], seeds: Sequence[Ints]) -> list[tuple[Doubles, Doubles]]:
        """Return the means in percent of each table: estimates (k,) and resampled means (r, k).

        seeds: for each table, the numbers of seeds (k,) over which the hits are summed. Hits and queries are whole numbers, so
        the float32 product is exact. One product for all tables reads the weights once.
        """
        ends = np.cumsum([table.shape[1] for table in tables])[:-1]
        totals = np.split(self.weights @ np.column_stack(tables), ends, axis=1) if tables else []
        parts = zip(tables, totals, seeds, strict=True)
        return [(hit_rates(table.sum(axis=0), count), hit_rates(total, count)) for table, total, count in parts]


def hit_rates(sums: Floats32, seeds: Ints) -> Doubles:
    """Return the sums of hits (..., k) divided by the number of queries, in percent, and NaN without queries.

    sums: (..., k + 1), the number of queries last. seeds: (k,), the number of seeds over which the hits are summed.
    """
    wide = 100 * sums[..., :-1].astype(np.float64)
    with np.errstate(invalid="ignore"):
        wide /= sums[..., -1:].astype(np.float64) * seeds
    return wide


def percentile_intervals(estimates: Doubles, resampled: Doubles) -> list[Interval]:
    """Return estimates (k,) with the percentile intervals of their resamples (r, k)."""
    ends = percentile_interval(resampled)
    return [Interval(float(e), float(low), float(high)) for e, low, high in zip(estimates, *ends, strict=True)]


def expanded(estimates: Doubles, resampled: Doubles, freedom: Doubles, tests: int = 1) -> Doubles:
    """Return resamples (r, k) whose deviations from the estimates are widened for few seeds.

    freedom: (k,), degrees of freedom. tests: the number of simultaneous intervals, each at 1 - 0.05 / tests. The higher the
    level, the more t quantiles exceed the normal ones.
    """
    factors = np.array([expansion(float(free), 1 - 0.05 / tests) for free in freedom])
    widened: Doubles = estimates + factors * (resampled - estimates)
    return widened


@dataclass(frozen=True)
class ColumnScores:
    """Scores on one column. rows: the rows that have it. estimates: (k,), one score for each. resampled: (r, k).

    freedom: (k,), degrees of freedom of each row's error, infinite for one seed. counts: the hits of each row, None for measures
    that are no hit rates.
    """

    rows: tuple[int, ...]
    estimates: Doubles
    resampled: Doubles
    freedom: Doubles
    counts: tuple[HitCounts | None, ...]

    def of_row(self, row: int) -> tuple[float, Doubles, float]:
        """Return one row's score, its resamples (r,), and the degrees of freedom."""
        place = self.rows.index(row)
        return float(self.estimates[place]), self.resampled[:, place], float(self.freedom[place])

    def intervals(self) -> list[Interval]:
        """Return the rows' scores with percentile intervals, or Wilson's where hits or misses are few."""
        found = percentile_intervals(self.estimates, expanded(self.estimates, self.resampled, self.freedom))
        parts = zip(found, self.counts, self.resampled.var(axis=0, ddof=1), self.freedom, strict=True)
        return [
            each
            if counts is None or counts.rare >= FEW
            else few_hits_interval(each.estimate, float(variance), counts, 100.0, _QUANTILE * expansion(free, 0.95))
            for each, counts, variance, free in parts
        ]


@dataclass(frozen=True)
class SeedSpread:
    """The hits of a cell by image and seed, (images, s), in queries, and the names of its s seeds.

    queries: (images,). counts: of the hits, None for measures that are no hit rates.
    """

    hits: Doubles
    seeds: tuple[str, ...]
    queries: Doubles
    counts: HitCounts | None

    @classmethod
    def of(cls, records: Sequence[BoardRecord], gallery: BoardGallery, queries: Floats32, config: BoardConfig) -> SeedSpread:
        """Read the records of a cell, one for each seed. Their order does not matter."""
        records = sorted(records, key=lambda each: each.record.tower.config.seed if each.record.tower else 0)
        hits = np.column_stack([hits_by_image(each, gallery, config) for each in records]).astype(np.float64)
        asked = queries.astype(np.float64)
        seeds = tuple(str(each.record.tower.config.seed) if each.record.tower else "" for each in records)
        counts = None if config.cutoff is None else count_hits(hits, np.tile(asked[:, None], hits.shape[1]), 1.0)
        return cls(hits, seeds, asked, counts)

    def resample(self, images: Doubles, seed: int) -> tuple[Doubles, float]:
        """Return the resamples (r,) of the mean with seeds drawn too, and the degrees of freedom of its error.

        Seeds are drawn as `harness.statistics.inference.contrasts` draws them.
        """
        if len(self.seeds) < 2:
            return images, np.inf
        asked = self.queries.sum()
        effects = 100 * self.hits.sum(axis=0) / asked
        influence = 100 * (self.hits - effects / 100 * self.queries[:, None]) / asked
        net, gross = seed_variance(effects, influence)
        spread = [(net, gross, len(self.seeds) - 1)]
        free = degrees_of_freedom(float(np.var(images, ddof=1)), int(np.count_nonzero(self.queries)), spread)
        if net == 0:
            return images, free
        moved: Doubles = images + np.sqrt(net / gross) * resampled_seeds(effects, self.seeds, len(images), seed)
        return moved, free


class BoardScores:
    """The scores of one board.

    records: by seed, for each row and language. conflicts: of each disputed row. towers: the rows. by_language: the scores on
    each column, by language code. notes: remarks on the records.
    """

    def __init__(
        self,
        config: BoardConfig,
        records: Sequence[BoardRecord],
        gallery: BoardGallery,
        languages: Mapping[str, Language],
        resamples: int,
        seed: int,
    ) -> None:
        self.config, self.gallery, self.resamples, self.seed = config, gallery, resamples, seed
        assignment = RowAssignment(records)
        self.records, self.conflicts, self.notes = assignment.records(), assignment.conflicts(), assignment.notes
        self.columns = board_columns(records, languages, config)
        self.bootstrap = BoardResamples.draw(gallery.image_ids, resamples, seed)
        self.towers = sorted(dict.fromkeys(tower for tower, _ in self.records), key=tower_sort_key)
        self._galleries: dict[str, BoardGallery] = {}
        self.by_language = self._column_scores()

    def cell_records(self, row: int, code: str) -> list[BoardRecord]:
        """Return the records of one row and language, one for each seed."""
        return list(self.records[self.towers[row], code].values())

    def column_gallery(self, code: str) -> BoardGallery:
        """Return the gallery of a column, which all its records share."""
        if code not in self._galleries:
            found = next(each for (_, lang), cell in self.records.items() if lang == code for each in cell.values())
            self._galleries[code] = BoardGallery.read(found.folder, found.record)
        return self._galleries[code]

    def hits(self, records: Sequence[BoardRecord], gallery: BoardGallery) -> Floats32:
        """Return the hits of each image, summed over seeds."""
        summed: Floats32 = np.sum([hits_by_image(each, gallery, self.config) for each in records], axis=0, dtype=np.float32)
        return summed

    def _column_scores(self) -> dict[str, ColumnScores]:
        """Return the score of every row on every column, by language."""
        present: list[tuple[int, ...]] = []
        seeds: list[Ints] = []
        tables: list[Floats32] = []
        spreads: list[list[SeedSpread]] = []
        for code in (column.language.code for column in self.columns):
            rows = [row for row, tower in enumerate(self.towers) if (tower, code) in self.records]
            cells = [self.cell_records(row, code) for row in rows]
            gallery = self.column_gallery(code)
            queries = queries_by_image(gallery, self.config.side)
            own = [SeedSpread.of(cell, gallery, queries, self.config) for cell in cells]
            hits = [np.asarray(each.hits.sum(axis=1), np.float32) for each in own]
            tables.append(self.bootstrap.table(gallery, hits, queries))
            spreads.append(own)
            present.append(tuple(rows))
            seeds.append(np.array([len(cell) for cell in cells]))
        scores = zip(self.columns, present, self.bootstrap.means(tables, seeds), spreads, strict=True)
        return {
            column.language.code: ColumnScores(
                rows, estimates, *self.with_seeds(resampled, own), tuple(each.counts for each in own)
            )
            for column, rows, (estimates, resampled), own in scores
        }

    def with_seeds(self, resampled: Doubles, spreads: Sequence[SeedSpread]) -> tuple[Doubles, Doubles]:
        """Return the resamples (r, k) of rows with their seeds resampled too, and the degrees of freedom (k,).

        A row with one seed keeps the resamples of images alone: its score is about that tower.
        """
        parts = [spread.resample(resampled[:, place], self.seed) for place, spread in enumerate(spreads)]
        return np.column_stack([drawn for drawn, _ in parts]), np.array([free for _, free in parts])


def board_columns(
    records: Sequence[BoardRecord], languages: Mapping[str, Language], config: BoardConfig
) -> tuple[BoardColumn, ...]:
    """Return the columns that the records fill, by group, then by name. A language unknown to the task has no group."""
    columns = {}
    # The first record of a language describes its column; the project's own records come first.
    for each in reversed(records):
        record = each.record
        language = languages.get(record.lang) or Language(record.lang, sanitize_line(record.lang), "", None, ())
        tier = "" if language.tier is None else f"tier {language.tier}"
        group = {"tier": tier, "script": language.script, "none": ""}[config.groups]
        columns[record.lang] = BoardColumn(
            language,
            TestSet.from_record(record),
            sanitize_line(record.source),
            sanitize_line(record.kind),
            record.images,
            record.captions,
            record.chance[config.key],
            group,
        )
    return tuple(sorted(columns.values(), key=lambda column: (column.group, column.language.name, column.language.code)))


def tower_sort_key(tower: BoardTower) -> tuple[Any, ...]:
    """Return the key that orders rows before they are ranked. It does not depend on the folders of records."""
    config = tower.config.model_dump_json() if tower.config else ""
    recipe = (tower.encoder, tower.fingerprint, bool(config), config, tower.translations, tower.scorer != PLAIN, tower.scorer)
    return (*recipe, tower.sender, tower.repeat)


def hits_by_image(record: BoardRecord, gallery: BoardGallery, config: BoardConfig) -> Floats32:
    """Return (images,): for each image, the number of its queries that are hits, or the sum of the queries' measure.

    Raises HarnessError if the record's queries cannot be read, or if it lacks the measure.
    """
    images, captions = len(gallery.image_ids), record.record.captions
    if config.cutoff is None:
        column = f"{MEASURE_PREFIX}{config.measure}"
        shares = read_columns(record.folder, record.record, column)[column].to_numpy() / 100
        return np.bincount(gallery.owner, weights=shares, minlength=images).astype(np.float32)
    ranks = record.queries.ranks
    if config.side == "i2t":
        return (ranks[captions:] <= config.cutoff).astype(np.float32)
    return hits_of_captions(record, gallery, config.cutoff, np.arange(captions))


def hits_of_captions(record: BoardRecord, gallery: BoardGallery, cutoff: int, captions: Ints) -> Floats32:
    """Return (images,): for each image, how many of the given captions rank it within the cutoff. captions: indices."""
    right = captions[record.queries.ranks[captions] <= cutoff]
    return np.bincount(gallery.owner[right], minlength=len(gallery.image_ids)).astype(np.float32)


def queries_by_image(gallery: BoardGallery, direction: str) -> Floats32:
    """Return (images,): the number of queries of each image in a direction."""
    images = len(gallery.image_ids)
    counts = np.bincount(gallery.owner, minlength=images) if direction == "t2i" else np.ones(images)
    return counts.astype(np.float32)


def complete_rows(rows: int, columns: Iterable[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Return the rows that all columns have, and their places in each column. columns: the rows that each has."""
    present = list(columns)
    complete = [row for row in range(rows) if all(row in each for each in present)]
    return complete, [[each.index(row) for row in complete] for each in present]
