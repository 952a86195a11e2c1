"""Records to boards: what a leaderboard shows, as data, before any of it is rendered.

A board ranks only what was measured over the same captions of the same images, so a declaration gives a board for each gallery
that it finds records of, and a further one where a language has a second set of captions on it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from harness.core.config import DistillConfig
from harness.core.data import Doubles, Ints, Language, english_side
from harness.core.errors import HarnessError
from harness.core.objective_terms import UNTRAINED, Side, side_of
from harness.leaderboards.board.config import BoardConfig
from harness.leaderboards.records.board_records import (
    BoardGallery,
    BoardRecord,
    TestSet,
    group_galleries,
    hits_by_image,
    hits_of_captions,
    queries_by_image,
)
from harness.leaderboards.records.checks import same_ranks
from harness.leaderboards.records.query_files import MAX_FACET_VALUES, FacetIndex, read_facet
from harness.records.schema import TRANSLATE_TEST, Record
from harness.retrieval.scorers import PLAIN
from harness.statistics.breakdown import facet_values as in_order
from harness.statistics.inference import Interval, cluster_weights, percentile_interval
from harness.statistics.rank_inference import RankInterval, rank_intervals, significant_differences

Floats32 = npt.NDArray[np.float32]
MethodFamily = Literal["OT", "KD", "none"]
METHOD_FAMILIES: dict[Side, MethodFamily] = {"transport": "OT", "standard": "KD", "control": "none"}

LEVEL = 0.95
TEACHER_LAYERS = "teacher"
NAME_LENGTH = 160
# What two arms of a comparison may differ in beside a start by transport: what is trained for, and how.
OBJECTIVE_OPTIONS = {"objective", "seed", "learning_rate", "solver", "eps", "rho", "sentence_weight", "temperature", "diagonal"}
OBJECTIVE_OPTIONS |= {"alpha", "batch_eps", "batch_iterations", "entity_weight"}


@dataclass(frozen=True)
class BoardColumn:
    """A language and the captions it is measured on. source, kind: as they may be shown. chance: a random ranking, in percent."""

    language: Language
    tests: TestSet
    source: str
    kind: str
    images: int
    captions: int
    chance: float
    group: str


@dataclass(frozen=True)
class BoardTower:
    """What a row is: an encoder, a text tower and a scorer, seeds pooled.

    config: without its seed; None for the encoder's own tower. translations: where the English comes from that it read instead of
    the captions, if it did. sender: the submission that its records came in; nothing for our own. again: how many rows of the
    same recipe and sender stand before it, with other ranks. disputed: whether a row before it has other ranks for the same seed.
    """

    encoder: str
    fingerprint: str
    config: DistillConfig | None
    scorer: str = PLAIN
    translations: str = ""
    sender: str = ""
    again: int = 0
    disputed: bool = False

    @classmethod
    def of(cls, record: Record) -> BoardTower:
        """The row of a record."""
        config = record.tower.requested.model_copy(update={"seed": 0}) if record.tower else None
        source = sanitize_line(record.translations.source) if record.translations else ""
        return cls(sanitize_line(record.encoder), record.encoder_fingerprint, config, sanitize_line(record.scorer), source)

    @property
    def mark(self) -> str:
        """What tells it from our own row of the same recipe."""
        again = "measured again" + (f" ({self.again})" if self.again > 1 else "") if self.again else ""
        sent = self.sender and f"sent in by {self.sender}"
        return ", ".join(filter(None, [sent, again, "disputed" if self.disputed else ""]))

    @property
    def method(self) -> str:
        """The objective, or what stands in its place, and the scorer where that is not the plain one."""
        own = f"{TRANSLATE_TEST} ({self.translations})" if self.translations else "English tower"
        objective = self.config.objective if self.config else own
        made = "untrained" if objective == UNTRAINED else sanitize_line(objective)
        scored = made if self.scorer == PLAIN else f"{made} + {self.scorer}"
        return f"{scored} ({self.mark})" if self.mark else scored

    @property
    def family(self) -> MethodFamily:
        """The side that a study would put it on."""
        return METHOD_FAMILIES[side_of(self.config.objective, self.config.init)] if self.config else "none"

    @property
    def choices(self) -> dict[str, Any]:
        """The options that are not at their default, but for those that have a column of their own."""
        if self.config is None:
            return {}
        chosen = self.config.model_dump(exclude_defaults=True, mode="json")
        return {name: value for name, value in chosen.items() if name not in ("objective", "init", "pairs", "seed")}


@dataclass(frozen=True)
class BoardCell:
    """A row on a column: the mean over seeds with its interval over images, and its records by seed.

    standing: None for a row that is disputed.
    """

    score: Interval
    standing: RankInterval | None
    records: Mapping[int, BoardRecord]


@dataclass(frozen=True)
class BoardMean:
    """The mean over the columns of a group, each counting once. standing: None where nothing is ranked."""

    score: Interval
    standing: RankInterval | None


@dataclass(frozen=True)
class BoardRow:
    """A tower, its cells by language, and the means of the groups that it has all of; `overall` likewise.

    conflict: what a row before it says of the same seeds; such a row is shown below that one and not ranked.
    """

    tower: BoardTower
    cells: Mapping[str, BoardCell]
    means: Mapping[str, BoardMean]
    overall: BoardMean | None
    conflict: str = ""

    @property
    def seeds(self) -> tuple[int, int]:
        """Fewest and most seeds of any cell."""
        counts = [len(cell.records) for cell in self.cells.values()]
        return min(counts), max(counts)


@dataclass(frozen=True)
class Ceiling:
    """An encoder's English tower on the English that the captions were translated from, by language. Shown, never ranked."""

    tower: BoardTower
    cells: Mapping[str, Interval]
    means: Mapping[str, BoardMean]
    overall: BoardMean | None


@dataclass(frozen=True)
class Gain:
    """A difference over the same images. apart: whether it is told from 0, all languages of the contrast being tested at once."""

    difference: Interval
    apart: bool


@dataclass(frozen=True)
class BoardContrast:
    """A row trained by transport less one trained by standard distillation, alike in all else. Rows as indices."""

    ours: int
    theirs: int
    gains: Mapping[str, Gain]
    overall: Interval | None


@dataclass(frozen=True)
class BoardBreakdown:
    """Scores by the values of a facet of the captions, which may overlap.

    captions: by value, how many captions have it in all columns. rows: of each row, by value, the mean over the columns with such
    captions, each counting once; none where the row lacks one of them.
    """

    facet: str
    captions: Mapping[str, int]
    rows: tuple[Mapping[str, Interval], ...]


@dataclass(frozen=True)
class Board:
    """A leaderboard. Rows in order of rank, complete ones first; columns by group, then by name."""

    declaration: BoardConfig
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
        """Groups whose means say more than their languages do."""
        several = len(self.groups) > 1 and len(self.columns) > len(self.groups)
        return self.groups if several else ()

    @property
    def title(self) -> str:
        """Name and gallery, for a heading."""
        alone = self.declaration.direction == "texts" and all(column.images == column.captions for column in self.columns)
        return f"{self.declaration.title} · {self.images:,} {'queries' if alone else 'images'}"


def sanitize_line(text: str, longest: int = NAME_LENGTH) -> str:
    """A name of somebody else's as it may stand in a table: one line, of bounded length, no control or direction marks.

    >>> sanitize_line("a\\u202eb\\n c" + "d" * 999, 8)
    'a�b cdd…'
    """
    line = " ".join(text[: 4 * longest].split())
    line = "".join("�" if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") else letter for letter in line)
    return line if len(line) <= longest and len(text) <= 4 * longest else line[: longest - 1] + "…"


def make_boards(
    declaration: BoardConfig,
    found: Sequence[BoardRecord],
    languages: Mapping[str, Language],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Board]:
    """The boards of a declaration, those with most records first; none where no record fits it.

    found: as `find_records` gives them, our own first. Records of others never decide what a board says of ours: they stand in
    rows of their own, and a gallery, a language or captions that only they have make a board of their own.

    Intervals resample images, all rows and columns of a board in the same draws, and keep the seeds that there are: they cover
    the choice of images. Raises HarnessError for a record whose ranks cannot be read.
    """
    chosen = [each for each in found if belongs_to_board(each.record, declaration)]
    first = {each.record.images_digest: each for each in reversed(chosen)}
    galleries = {digest: BoardGallery.read(each.folder, each.record) for digest, each in sorted(first.items())}
    boards = []
    for members in group_galleries(list(galleries.items()), {each.record.images_digest for each in chosen if not each.sender}):
        inside = [each for each in chosen if each.record.images_digest in members]
        for place, part in enumerate(split_by_test_set(inside)):
            english = [
                each
                for each in found
                if each.record.images_digest in members
                and is_english_ceiling(each.record, declaration)
                and each.record.scorer == PLAIN
            ]
            work = BoardBuilder(declaration, part, english, galleries[members[0]], languages, resamples, seed)
            own = sum(not each.sender for each in part)
            boards.append((own, len(part), work.board(members[0], place)))
    return with_unique_names([board for _, _, board in sorted(boards, key=lambda item: (-item[0], -item[1]))])


def with_unique_names(boards: Sequence[Board]) -> list[Board]:
    """Boards whose names, which their files have, are different: the digest of a gallery of others may begin as ours does."""
    names: set[str] = set()
    out = []
    for board in boards:
        whole = f"{board.declaration.name}-{board.gallery}"
        name = board.name if board.name not in names else f"{whole}-{len(names)}"
        names.add(name)
        out.append(replace(board, name=name))
    return out


def belongs_to_board(record: Record, declaration: BoardConfig) -> bool:
    """Whether a record is one of the board's cells."""
    if not matches_config(record, declaration):
        return False
    if declaration.languages is None:
        return record.lang != "en"
    return record.lang in declaration.languages and not is_english_ceiling(record, declaration)


def is_english_ceiling(record: Record, declaration: BoardConfig) -> bool:
    """Whether a record is an English tower on the English captions behind a translation."""
    english = record.lang == "en" and record.tower is None and record.is_english_side
    return english and matches_config(record, declaration)


def matches_config(record: Record, declaration: BoardConfig) -> bool:
    """Whether a record is of the declared task, split and number. A gallery of one image ranks nothing and has no interval."""
    same = (record.task, record.split, record.sample) == (declaration.task, declaration.split, declaration.sample)
    sought = {"texts": ("texts",), "i2t": ("images",), "t2i": ("images", "regions")}[declaration.direction]
    scored = declaration.key in record.scores and declaration.key in record.chance
    return same and record.images > 1 and record.sought in sought and scored


def split_by_test_set(found: Iterable[BoardRecord]) -> list[list[BoardRecord]]:
    """Part records so that each part has one test set a language; the first has those that most towers were measured on.

    Languages and captions that only others have come in parts behind those of our own: no row of ours lacks them.
    """
    by_language: defaultdict[str, defaultdict[TestSet, list[BoardRecord]]] = defaultdict(lambda: defaultdict(list))
    for each in found:
        by_language[each.record.lang][TestSet.of(each.record)].append(each)
    ours = {
        lang: [tests for tests, of in sets.items() if any(not each.sender for each in of)] for lang, sets in by_language.items()
    }
    parts: defaultdict[int, list[BoardRecord]] = defaultdict(list)
    for lang, sets in by_language.items():
        counts = {tests: len({BoardTower.of(each.record) for each in of}) for tests, of in sets.items()}
        ordered = sorted(sets, key=lambda tests: (-counts[tests], tests.source, tests.kind, tests.texts_digest))
        own = [tests for tests in ordered if tests in ours[lang]]
        others = [tests for tests in ordered if tests not in ours[lang]]
        places = [*enumerate(own), *enumerate(others, start=max(map(len, ours.values())))]
        for place, tests in places:
            parts[place] += sets[tests]
    return [parts[place] for place in sorted(parts)]


@dataclass(frozen=True)
class BoardResamples:
    """The images of one board, resampled. weights: (r, n), how often each is in each resample."""

    weights: Floats32
    places: Mapping[str, int]

    def table(self, gallery: BoardGallery, hits: Sequence[Floats32], queries: Floats32) -> Floats32:
        """Hits (images,) of k rows and the number of queries (images,) as the k + 1 columns of (n, k + 1)."""
        table = np.zeros((len(self.places), len(hits) + 1), np.float32)
        table[[self.places[name] for name in gallery.image_ids]] = np.column_stack([*hits, queries])
        return table

    def means(self, tables: Sequence[Floats32], seeds: Sequence[Ints]) -> list[tuple[Doubles, Doubles]]:
        """Means in percent, (k,) and resampled (r, k), of each table, whose hits are added up over as many seeds (k,).

        Hits and queries are whole numbers, which a float32 product adds up exactly; one product for all tables reads the
        weights once.
        """
        ends = np.cumsum([table.shape[1] for table in tables])[:-1]
        totals = np.split(self.weights @ np.column_stack(tables), ends, axis=1) if tables else []
        parts = zip(tables, totals, seeds, strict=True)
        return [(hit_rates(table.sum(axis=0), count), hit_rates(total, count)) for table, total, count in parts]


def hit_rates(sums: Floats32, seeds: Ints) -> Doubles:
    """The sums of hits (..., k) over those of queries, the last of (..., k + 1), in percent; NaN without a query.

    seeds: (k,), summed in the hits.
    """
    wide = 100 * sums[..., :-1].astype(np.float64)
    with np.errstate(invalid="ignore"):
        wide /= sums[..., -1:].astype(np.float64) * seeds
    return wide


@dataclass(frozen=True)
class ColumnScores:
    """Scores of some rows, (k,), and in each resample, (r, k). rows: which."""

    rows: tuple[int, ...]
    estimates: Doubles
    resampled: Doubles

    def of(self, row: int) -> tuple[float, Doubles]:
        """One row's score, and its resamples (r,)."""
        place = self.rows.index(row)
        return float(self.estimates[place]), self.resampled[:, place]

    def intervals(self) -> list[Interval]:
        """Percentile intervals, as `harness.statistics.inference` gives them."""
        return percentile_intervals(self.estimates, self.resampled)


def percentile_intervals(estimates: Doubles, resampled: Doubles) -> list[Interval]:
    """Estimates (k,) with percentile intervals of their resamples (r, k)."""
    ends = percentile_interval(resampled, LEVEL)
    return [Interval(float(e), float(low), float(high)) for e, low, high in zip(estimates, *ends, strict=True)]


@dataclass(frozen=True)
class RowConflict:
    """What stands against a disputed row.

    tower: the row that was there first. found, other: the disputed record, and that row's of the same language and seed.
    """

    tower: BoardTower
    found: BoardRecord
    other: BoardRecord


class RowAssignment:
    """Records in the rows that they belong to, our own first.

    No date decides between two records of one recipe and seed: both are kept, the second in a row of its own.
    """

    def __init__(self, found: Sequence[BoardRecord]) -> None:
        self.notes: list[str] = []
        ordered = sorted(found, key=lambda each: bool(each.sender))
        self._names = {each.record.encoder_fingerprint: sanitize_line(each.record.encoder) for each in reversed(ordered)}
        self._rows: dict[tuple[BoardTower, str], dict[int, BoardRecord]] = {}
        self._first: dict[tuple[BoardTower, str, int], tuple[BoardTower, BoardRecord]] = {}
        self._against: defaultdict[BoardTower, list[RowConflict]] = defaultdict(list)
        for each in ordered:
            self._place(each)

    def named(self) -> dict[tuple[BoardTower, str], dict[int, BoardRecord]]:
        """Records by seed, by row and language."""
        return {(self._final(tower), lang): seeds for (tower, lang), seeds in self._rows.items()}

    def rivals(self) -> dict[BoardTower, list[RowConflict]]:
        """By disputed row, what stands against it."""
        return {
            self._final(tower): [replace(each, tower=self._final(each.tower)) for each in against]
            for tower, against in self._against.items()
        }

    def _final(self, tower: BoardTower) -> BoardTower:
        return replace(tower, disputed=tower in self._against)

    def _place(self, found: BoardRecord) -> None:
        """Put a record into the first row of its recipe and sender that has none of its seed."""
        record = found.record
        recipe = replace(BoardTower.of(record), encoder=self._names[record.encoder_fingerprint])
        seed = record.tower.config.seed if record.tower else 0
        tower = replace(recipe, sender=sanitize_line(found.sender))
        while (there := self._rows.setdefault((tower, record.lang), {}).setdefault(seed, found)) is not found:
            if same_ranks(there, found):
                self.notes.append(
                    f"{tower.encoder}, {tower.method}, {record.lang}: seed {seed} was measured twice, with the same ranks"
                )
                return
            tower = replace(tower, again=tower.again + 1)
        first, other = self._first.setdefault((recipe, record.lang, seed), (tower, found))
        if first != tower and not same_ranks(found, other):
            self._against[tower].append(RowConflict(first, found, other))


class BoardBuilder:
    """One board in the making."""

    def __init__(
        self,
        declaration: BoardConfig,
        found: Sequence[BoardRecord],
        english: Sequence[BoardRecord],
        gallery: BoardGallery,
        languages: Mapping[str, Language],
        resamples: int,
        seed: int,
    ) -> None:
        self.declaration, self.gallery, self.resamples = declaration, gallery, resamples
        placed = RowAssignment(found)
        self.records, self.rivals = placed.named(), placed.rivals()
        self.notes = placed.notes
        self.galleries: dict[str, BoardGallery] = {}
        self.english = english
        self.columns = board_columns(found, languages, declaration)
        weights = np.concatenate([part.astype(np.float32) for part in cluster_weights(len(gallery.image_ids), resamples, seed)])
        self.draws = BoardResamples(weights, {name: place for place, name in enumerate(gallery.image_ids)})
        self.towers = sorted(dict.fromkeys(tower for tower, _ in self.records), key=tower_sort_key)
        self.sampled = self.sample()

    def sample(self) -> dict[str, ColumnScores]:
        """Every row's score on every column, by language."""
        present: list[tuple[int, ...]] = []
        seeds: list[Ints] = []
        tables: list[Floats32] = []
        for column in self.columns:
            rows = [row for row, tower in enumerate(self.towers) if (tower, column.language.code) in self.records]
            cells = [list(self.records[self.towers[row], column.language.code].values()) for row in rows]
            gallery = self.read_gallery(column.language.code)
            hits = [self.hits(cell, gallery) for cell in cells]
            tables.append(self.draws.table(gallery, hits, queries_by_image(gallery, self.declaration.side)))
            present.append(tuple(rows))
            seeds.append(np.array([len(cell) for cell in cells]))
        scores = zip(self.columns, present, self.draws.means(tables, seeds), strict=True)
        return {column.language.code: ColumnScores(rows, *score) for column, rows, score in scores}

    def read_gallery(self, code: str) -> BoardGallery:
        """The gallery of a column, which all its records share."""
        if code not in self.galleries:
            found = next(each for (_, lang), cell in self.records.items() if lang == code for each in cell.values())
            self.galleries[code] = BoardGallery.read(found.folder, found.record)
        return self.galleries[code]

    def hits(self, found: Sequence[BoardRecord], gallery: BoardGallery) -> Floats32:
        """Hits of each image, added up over seeds."""
        parts = [hits_by_image(each, gallery, self.declaration) for each in found]
        added: Floats32 = np.sum(parts, axis=0, dtype=np.float32)
        return added

    def board(self, digest: str, place: int) -> Board:
        """Put it all together."""
        groups = tuple(dict.fromkeys(column.group for column in self.columns if column.group))
        sets = {"": self.columns, **{group: [column for column in self.columns if column.group == group] for group in groups}}
        ranked = {name: self.ranked_means(members) for name, members in sets.items()}
        cells = self.cells()
        rows = [
            BoardRow(
                tower,
                cells[row],
                {name: ranked[name][row] for name in groups if row in ranked[name]},
                ranked[""].get(row),
                self.conflict(tower),
            )
            for row, tower in enumerate(self.towers)
        ]
        above = [self.towers.index(self.undisputed(tower)) for tower in self.towers]
        order = sorted(range(len(rows)), key=lambda row: (row_sort_key(rows[above[row]]), above[row], above[row] != row, row))
        breakdown = self.breakdown(order)
        about = board_notes(self.records.values(), self.gallery, self.columns)
        conflicts = tuple(f"{row.tower.encoder}, {row.tower.method}: {row.conflict}" for row in rows if row.conflict)
        return Board(
            declaration=self.declaration,
            name=f"{self.declaration.name}-{digest[:8]}" + (f"-{place + 1}" if place else ""),
            gallery=digest,
            images=len(self.gallery.image_ids),
            columns=self.columns,
            groups=groups,
            rows=tuple(rows[row] for row in order),
            ceilings=tuple(self.ceilings(sets)),
            contrasts=tuple(self.contrasts({row: place for place, row in enumerate(order)})),
            breakdown=breakdown,
            conflicts=conflicts,
            notes=tuple(dict.fromkeys([*conflicts, *self.notes, *about])),
            resamples=self.resamples,
        )

    def undisputed(self, tower: BoardTower) -> BoardTower:
        """The row that a disputed one stands below: the first of those that it disagrees with. A row itself, if it is none."""
        while tower in self.rivals:
            tower = self.rivals[tower][0].tower
        return tower

    def conflict(self, tower: BoardTower) -> str:
        """What a disputed row and the one that it disagrees with say, of the first languages; nothing for another row."""
        against = self.rivals.get(tower, [])
        if not against:
            return ""
        key = self.declaration.key
        pairs = [(each.found.record, each.other.record) for each in against]
        says = [f"{mine.lang} {mine.scores[key]:.1f} against {other.scores[key]:.1f}" for mine, other in pairs]
        more = f" and {len(says) - 3:,} more" if len(says) > 3 else ""
        return f"not ranked; the same seeds as in {against[0].tower.method}: {', '.join(says[:3])}{more}"

    def cells(self) -> list[dict[str, BoardCell]]:
        """Every row's cells, by language."""
        out: list[dict[str, BoardCell]] = [{} for _ in self.towers]
        for code, sampled in self.sampled.items():
            ranks = self.ranks(sampled.rows, sampled.estimates, sampled.resampled)
            for row, score in zip(sampled.rows, sampled.intervals(), strict=True):
                out[row][code] = BoardCell(score, ranks.get(row), dict(sorted(self.records[self.towers[row], code].items())))
        return out

    def ranks(self, rows: Sequence[int], estimates: Doubles, resampled: Doubles) -> dict[int, RankInterval]:
        """The ranks of some rows, but for those that are disputed: they change nothing for the others."""
        kept = [place for place, row in enumerate(rows) if self.towers[row] not in self.rivals]
        found = rank_intervals(estimates[kept], resampled[:, kept], LEVEL) if kept else []
        return {rows[place]: standing for place, standing in zip(kept, found, strict=True)}

    def ranked_means(self, columns: Sequence[BoardColumn]) -> dict[int, BoardMean]:
        """Macro means over some columns, ranked, of the rows that have all of them."""
        sampled = [self.sampled[column.language.code] for column in columns]
        complete = [row for row in range(len(self.towers)) if all(row in each.rows for each in sampled)]
        if not complete:
            return {}
        picked = [[each.rows.index(row) for row in complete] for each in sampled]
        estimates = np.mean([each.estimates[pick] for each, pick in zip(sampled, picked, strict=True)], axis=0)
        resampled = np.zeros((self.resamples, len(complete)))
        for each, pick in zip(sampled, picked, strict=True):
            resampled += each.resampled[:, pick] / len(sampled)
        ranks = self.ranks(complete, estimates, resampled)
        return {
            row: BoardMean(score, ranks.get(row))
            for row, score in zip(complete, percentile_intervals(estimates, resampled), strict=True)
        }

    def ceilings(self, sets: Mapping[str, Sequence[BoardColumn]]) -> Iterable[Ceiling]:
        """The English towers of the board's encoders on the English side of its captions."""
        for fingerprint, name in dict.fromkeys((tower.fingerprint, tower.encoder) for tower in self.towers):
            found = ((column.language.code, self.english_twin(column, fingerprint)) for column in self.columns)
            twins = {code: twin for code, twin in found if twin}
            records = {twin.record.cell: twin for twin in twins.values()}
            tables = [self.english_table(twin) for twin in records.values()]
            scores = dict(zip(records, self.draws.means(tables, [np.ones(1, np.int64)] * len(tables)), strict=True))
            if scores:
                sampled = {code: scores[twin.record.cell] for code, twin in twins.items()}
                cells = {code: percentile_intervals(*score)[0] for code, score in sampled.items()}
                means = {group: unranked_mean(sampled, members) for group, members in sets.items()}
                kept = {group: mean for group, mean in means.items() if mean}
                yield Ceiling(BoardTower(name, fingerprint, None), cells, kept, kept.pop("", None))

    def english_table(self, twin: BoardRecord) -> Floats32:
        """Hits and queries of one record, by image."""
        gallery = BoardGallery.read(twin.folder, twin.record)
        return self.draws.table(gallery, [self.hits([twin], gallery)], queries_by_image(gallery, self.declaration.side))

    def english_twin(self, column: BoardColumn, fingerprint: str) -> BoardRecord | None:
        """The record of an encoder's English tower on the English side of a column's captions."""
        wanted = (fingerprint, column.tests.images_digest, english_side(column.tests.source), column.captions)
        own = any(tower.fingerprint == fingerprint and not tower.sender for tower in self.towers)
        for each in self.english:
            record = each.record
            if own and each.sender:
                continue
            if (record.encoder_fingerprint, record.images_digest, record.source, record.captions) == wanted:
                return each
        return None

    def breakdown(self, order: Sequence[int]) -> BoardBreakdown | None:
        """Every row's scores by the declared facet; None where no record tells it of the captions of a column."""
        facet = self.declaration.breakdown
        told = {code: values for code in self.sampled if facet and (values := self.facet_values(code, facet))}
        if facet is None or not told:
            return None
        every = in_order([tuple(of.captions) for of in told.values()])
        if len(every) > MAX_FACET_VALUES:
            self.notes.append(f"{facet} has {len(every):,} values in all, too many to break scores down by")
            return None
        captions = {value: sum(len(of.captions.get(value, ())) for of in told.values()) for value in every}
        found: list[dict[str, Interval]] = [{} for _ in self.towers]
        for value in captions:
            for row, score in self.scores_of(value, told).items():
                found[row][value] = score
        return BoardBreakdown(facet, captions, tuple(found[row] for row in order))

    def facet_values(self, code: str, facet: str) -> FacetIndex | None:
        """A facet of a column's captions, told by the first of our own records that has it: it hangs on no tower."""
        own = [found for (_, lang), cell in self.records.items() if lang == code for found in cell.values() if not found.sender]
        try:
            return next((told for each in own if (told := read_facet(each.folder, each.record, facet))), None)
        except HarnessError as error:
            self.notes.append(f"no scores by {facet} in {code}: {sanitize_line(str(error), 300)}")
            return None

    def scores_of(self, value: str, told: Mapping[str, FacetIndex]) -> dict[int, Interval]:
        """The mean over the columns that have captions of a value, of each row that has all of these columns."""
        tables, present, seeds = [], [], []
        for code, facet in told.items():
            if value in facet.captions:
                captions = facet.captions[value]
                present.append(self.sampled[code].rows)
                cells = [list(self.records[self.towers[row], code].values()) for row in present[-1]]
                gallery, cutoff = self.read_gallery(code), self.declaration.cutoff
                assert cutoff is not None, "a breakdown is of images, which have no other measure"
                parts = [[hits_of_captions(each, gallery, cutoff, captions) for each in cell] for cell in cells]
                hits = [np.asarray(np.sum(part, axis=0), dtype=np.float32) for part in parts]
                queries = np.bincount(gallery.owner[captions], minlength=len(gallery.image_ids)).astype(np.float32)
                tables.append(self.draws.table(gallery, hits, queries))
                seeds.append(np.array([len(cell) for cell in cells]))
        scores = self.draws.means(tables, seeds)
        complete = [row for row in range(len(self.towers)) if all(row in rows for rows in present)]
        picked = [[rows.index(row) for row in complete] for rows in present]
        estimates = np.mean([estimate[pick] for (estimate, _), pick in zip(scores, picked, strict=True)], axis=0)
        resampled = np.mean([draws[:, pick] for (_, draws), pick in zip(scores, picked, strict=True)], axis=0)
        # A resample without any image whose captions have the value says nothing of it.
        return dict(zip(complete, percentile_intervals(estimates, resampled[np.isfinite(resampled).all(1)]), strict=True))

    def contrasts(self, places: Mapping[int, int]) -> Iterable[BoardContrast]:
        """Every row of transport against every row of standard distillation that was trained alike."""
        for ours, mine in enumerate(self.towers):
            for theirs, other in enumerate(self.towers):
                disputed = mine.disputed or other.disputed
                if not disputed and (mine.family, other.family) == ("OT", "KD") and trained_alike(mine, other):
                    contrast = self.contrast(ours, theirs)
                    if contrast.gains:
                        yield BoardContrast(places[ours], places[theirs], contrast.gains, contrast.overall)

    def contrast(self, ours: int, theirs: int) -> BoardContrast:
        """One row less another, on the columns that both have and learned from the same pairs."""
        codes = [
            code
            for code, sampled in self.sampled.items()
            if {ours, theirs} <= set(sampled.rows) and self.same_bitext(ours, theirs, code)
        ]
        if not codes:
            return BoardContrast(ours, theirs, {}, None)
        sides = [(self.sampled[code].of(ours), self.sampled[code].of(theirs)) for code in codes]
        estimates = np.array([mine[0] - other[0] for mine, other in sides])
        resampled = np.column_stack([mine[1] - other[1] for mine, other in sides])
        apart = significant_differences(estimates, resampled, LEVEL)
        gains = {
            code: Gain(*pair)
            for code, pair in zip(codes, zip(percentile_intervals(estimates, resampled), apart, strict=True), strict=True)
        }
        complete = len(codes) == len(self.columns)
        overall = (
            percentile_intervals(estimates.mean(keepdims=True), resampled.mean(axis=1, keepdims=True))[0] if complete else None
        )
        return BoardContrast(ours, theirs, gains, overall)

    def same_bitext(self, ours: int, theirs: int, code: str) -> bool:
        """Whether two rows' towers of a language were distilled from the very same pairs, seed by seed."""
        mine, other = (
            {
                seed: each.record.tower.bitext.digest
                for seed, each in self.records[self.towers[row], code].items()
                if each.record.tower
            }
            for row in (ours, theirs)
        )
        return mine == other


def board_columns(
    found: Sequence[BoardRecord], languages: Mapping[str, Language], declaration: BoardConfig
) -> tuple[BoardColumn, ...]:
    """The columns that records fill, by group, then by name; a language that the task no longer knows stands without a group."""
    out = {}
    # The first, our own where there is one, says what a column is.
    for each in reversed(found):
        record = each.record
        language = languages.get(record.lang) or Language(record.lang, sanitize_line(record.lang), "", None, ())
        tier = "" if language.tier is None else f"tier {language.tier}"
        group = {"tier": tier, "script": language.script, "none": ""}[declaration.groups]
        chance = record.chance[declaration.key]
        names = sanitize_line(record.source), sanitize_line(record.kind)
        out[record.lang] = BoardColumn(language, TestSet.of(record), *names, record.images, record.captions, chance, group)
    return tuple(sorted(out.values(), key=lambda column: (column.group, column.language.name, column.language.code)))


def unranked_mean(sampled: Mapping[str, tuple[Doubles, Doubles]], columns: Sequence[BoardColumn]) -> BoardMean | None:
    """The macro mean over all of some columns, unranked; None where one is missing."""
    codes = [column.language.code for column in columns]
    if not all(code in sampled for code in codes):
        return None
    estimates = np.mean([sampled[code][0] for code in codes], axis=0)
    resampled = np.mean([sampled[code][1] for code in codes], axis=0)
    return BoardMean(percentile_intervals(estimates, resampled)[0], None)


def trained_alike(mine: BoardTower, other: BoardTower) -> bool:
    """Whether two towers share everything but what they were trained for, and the transport that the first may have started from.

    A start by transport is `teacher`, the teacher's layers, in all but the embeddings of its subwords.
    """
    sides = [(each.fingerprint, each.scorer, each.sender) for each in (mine, other)]
    if mine.config is None or other.config is None or sides[0] != sides[1]:
        return False
    apart = OBJECTIVE_OPTIONS | {"init"}
    start, rival = mine.config.init, other.config.init
    started_alike = start == rival or (start.startswith("ot-") and rival == TEACHER_LAYERS)
    return started_alike and mine.config.model_dump(exclude=apart) == other.config.model_dump(exclude=apart)


def tower_sort_key(tower: BoardTower) -> tuple[Any, ...]:
    """Where a row stands before it is ranked: an order that no record's folder decides."""
    made = tower.config.model_dump_json() if tower.config else ""
    of = (tower.encoder, tower.fingerprint, bool(made), made, tower.translations, tower.scorer != PLAIN, tower.scorer)
    return (*of, tower.sender, tower.again)


def row_sort_key(row: BoardRow) -> tuple[float, ...]:
    """Complete rows by rank and score; then the others by how many columns they have."""
    if row.overall and row.overall.standing:
        return (0, row.overall.standing.first, -row.overall.score.estimate)
    return (1, -len(row.cells), -float(np.mean([cell.score.estimate for cell in row.cells.values()])))


def board_notes(cells: Iterable[Mapping[int, BoardRecord]], gallery: BoardGallery, columns: Sequence[BoardColumn]) -> list[str]:
    """What the records' captions and the columns' galleries need said of them."""
    whole = len(gallery.image_ids)
    short = [f"{c.language.name} has captions for {c.images:,} of the {whole:,} images" for c in columns if c.images < whole]
    counted = Counter(note for seeds in cells for each in seeds.values() for note in set(each.record.notes))
    return short + [sanitize_line(note, 400) for note, _ in counted.most_common(40)]
