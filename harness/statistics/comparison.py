"""From records to the figures of a table: scores with intervals, differences between towers, the gap to English.

`summarise` describes the towers of one run. `compare_records` compares any two sides over languages and seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harness.core.builtins import TASKS
from harness.core.data import Ints, Ranks, Sought
from harness.core.digests import digest_json
from harness.core.errors import HarnessError
from harness.core.plugins import without_code
from harness.core.suggestions import nearest
from harness.records.files import RECORD, load_facets, load_measures, load_ranks, load_record
from harness.records.schema import ENGLISH_TOWER, Record, Schema
from harness.retrieval.scorers import PLAIN
from harness.statistics.inference import (
    ALPHA,
    ArmContrast,
    Difference,
    Interval,
    PairedArms,
    bootstrap_means,
    contrasts,
    gap_recovered,
    holm,
    mcnemar,
    paired_difference,
)
from harness.statistics.matching import (
    ENTITY_WEIGHT,
    RecordPair,
    StoredRecord,
    UnmatchedRecord,
    load_records,
    pair_records,
    resolve_records,
    select_records,
    short_value,
)
from harness.storage.seals import readable

HIT_CUTOFFS = (1, 5, 10)
DIRECTIONS = ("t2i", "i2t")
Hits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """A record with its ranks. owner: (captions,), the image of each caption, as an index into the gallery.

    measures: by name, what there is of each text beside its rank, (captions,), in percent; nothing where images are looked for.
    """

    label: str
    record: Record
    ranks: Ranks
    owner: Ints
    measures: Mapping[str, Hits] = field(default_factory=dict)

    @classmethod
    def read(cls, label: str, folder: Path) -> Measurement:
        """Read a record's folder."""
        ranks, owner = load_ranks(folder)
        return cls(label, load_record(folder), ranks, owner, load_measures(folder))

    def hits(self, direction: str) -> Hits:
        """(queries, 3): 100 where the right one is among the first 1, 5, 10, else 0."""
        ranks = self.ranks.t2i if direction == "t2i" else self.ranks.i2t
        return np.where(ranks[:, None] <= np.array(HIT_CUTOFFS), 100.0, 0.0)

    def values(self, direction: str) -> dict[str, Hits]:
        """By name, (queries,) in percent: the hit rates, then the measures."""
        hits = self.hits(direction)
        return {f"R@{k}": hits[:, place] for place, k in enumerate(HIT_CUTOFFS)} | (
            dict(self.measures) if direction == "t2i" else {}
        )

    def headline(self, direction: str) -> Hits:
        """(queries,): what towers are compared by."""
        return self.values(direction)[self.record.headline]

    def clusters(self, direction: str) -> Ints:
        """(queries,): the image that each query belongs to; captions of one image are not independent."""
        return self.owner if direction == "t2i" else np.arange(len(self.ranks.i2t))


@dataclass(frozen=True)
class TowerRow:
    """One tower in one direction: each column of the table in percent with its interval, and the median rank."""

    label: str
    intervals: tuple[Interval, ...]
    median_rank: float
    images: int
    captions: int


@dataclass(frozen=True)
class TowerContrast:
    """The headline of one tower minus that of another, over the same queries."""

    label: str
    difference: Difference


@dataclass(frozen=True)
class TowerGap:
    """(tower - floor) / (English on the same captions - floor), by the headline: 0 is no distillation, 1 is English."""

    label: str
    share: Interval


@dataclass(frozen=True)
class Summary:
    """What one direction of a table shows. columns: hit rates, then measures. headline: the one that contrasts and gaps are of.

    chance: of each column, in percent; None where it is not known. upper_bound: the hit rate that the candidates of grounding
    allow, in percent.
    """

    direction: str
    columns: tuple[str, ...]
    headline: str
    chance: tuple[float | None, ...]
    upper_bound: float | None
    rows: tuple[TowerRow, ...]
    contrasts: tuple[TowerContrast, ...]
    gaps: tuple[TowerGap, ...]


def summarise(towers: Sequence[Measurement], direction: str, resamples: int) -> Summary:
    """Figures of one direction. The first distilled tower is what the others are compared with.

    The floor is the first row of the English tower and its ceiling the one over the same images with as many captions.
    """
    plain = [tower for tower in towers if tower.record.scorer == PLAIN]
    distilled = [tower for tower in plain if tower.record.text_tower != ENGLISH_TOWER]
    english = [tower for tower in plain if tower.record.text_tower == ENGLISH_TOWER]
    chance, columns = towers[0].record.chance, tuple(towers[0].values(direction))
    pairs = [(tower, distilled[0]) for tower in distilled[1:]]
    # A scorer stands right behind the plain one of the same tower.
    pairs += [(tower, before) for before, tower in pairwise(towers) if tower.record.scorer != PLAIN]
    contrasts = tuple(tower_contrast(tower, base, direction, resamples) for tower, base in pairs)
    floor = english[0]
    ceilings = [tower for tower in english[1:] if np.array_equal(tower.owner, floor.owner)]
    gaps = tuple(tower_gap(tower, floor, ceilings[0], direction, resamples) for tower in distilled) if ceilings else ()
    return Summary(
        direction=direction,
        columns=columns,
        headline=towers[0].record.headline,
        chance=tuple(chance.get(f"{direction}_r{name[2:]}" if name.startswith("R@") else name) for name in columns),
        upper_bound=towers[0].record.scores.get("upper_bound"),
        rows=tuple(tower_row(tower, direction, resamples) for tower in towers),
        contrasts=contrasts,
        gaps=gaps,
    )


def tower_row(tower: Measurement, direction: str, resamples: int) -> TowerRow:
    """One tower's figures."""
    values = np.column_stack(list(tower.values(direction).values()))
    intervals = bootstrap_means(values, tower.clusters(direction), resamples=resamples)
    record = tower.record
    return TowerRow(tower.label, tuple(intervals), record.scores[f"{direction}_median_rank"], record.images, record.captions)


def tower_contrast(tower: Measurement, base: Measurement, direction: str, resamples: int) -> TowerContrast:
    """One tower against another."""
    ours, theirs = tower.headline(direction), base.headline(direction)
    difference = paired_difference(ours, theirs, tower.clusters(direction), resamples=resamples)
    return TowerContrast(f"{tower.label} − {base.label}", difference)


def tower_gap(tower: Measurement, floor: Measurement, ceiling: Measurement, direction: str, resamples: int) -> TowerGap:
    """One tower between no distillation and English."""
    student, low, high = (each.headline(direction) for each in (tower, floor, ceiling))
    return TowerGap(tower.label, gap_recovered(student, low, high, tower.clusters(direction), resamples=resamples))


Direction = Literal["t2i", "i2t"]
BY_LANGUAGE, BY_TIER, BY_SOURCE, BY_NOTHING = "lang", "tier", "source", "all"
LANGUAGE_GROUPINGS = (
    BY_LANGUAGE,
    BY_TIER,
    BY_SOURCE,
    BY_NOTHING,
)  # what is not a facet: chosen by these, a language's queries stay together


class Estimate(Schema):
    """An estimate with its 95 % interval; null where none can be given."""

    estimate: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, interval: Interval) -> Estimate:
        """Take over an interval."""
        return cls(
            estimate=finite_or_none(interval.estimate), low=finite_or_none(interval.low), high=finite_or_none(interval.high)
        )


class ComparisonLine(Schema):
    """A against B over some of the queries. Scores are hit rates in percent, differences in points; p-values are two-sided."""

    by: str = Field(description="what the queries are chosen by: all, lang, tier, source, or a facet of the captions")
    value: str = Field(description="which of them these are")
    langs: tuple[str, ...] = Field(description="languages, each of the same weight")
    queries: int = Field(description="queries of one seed, over all languages")
    a: Estimate
    b: Estimate
    difference: Estimate = Field(description="A less B: bootstrap of images, and of seeds where there are several")
    p_value: float = Field(
        description="of the difference; with several seeds the larger of p_sign_flip and a t over seeds and images"
    )
    p_holm: float = Field(description="p_value adjusted for all lines that are chosen by the same thing in the same table")
    p_sign_flip: float = Field(description="sign flips over images, of these very towers")
    outcome: Literal["win", "tie", "loss"] = Field(description="of A: told apart if p_holm < 0.05, else a tie")
    only_a: int | None = Field(description="McNemar's b: queries that A alone got right; null where seeds are not the same")
    only_b: int | None = Field(description="McNemar's c: queries that B alone got right")
    p_mcnemar: float | None = Field(description="exact; null unless there is one seed, one language, and one query an image")
    minimal_detectable: float | None = Field(description="true difference that would be found with 80 % power")
    image_error: float | None = Field(description="standard error of the difference from the choice of images")
    seed_error: float | None = Field(description="what the choice of seeds adds to it; null with one seed")
    gap_a: Estimate | None = Field(description="share of the gap to English that A recovers; null without floor and ceiling")
    gap_b: Estimate | None


class ComparisonSection(Schema):
    """One direction. wins, ties, losses: languages, of A."""

    direction: Direction
    wins: int
    ties: int
    losses: int
    lines: tuple[ComparisonLine, ...]


class PairedRecords(Schema):
    """The records that were laid side by side in one language."""

    lang: str
    source: str
    kind: str
    captions: int
    cells_a: tuple[str, ...]
    cells_b: tuple[str, ...]
    seeds_a: tuple[int | None, ...]
    seeds_b: tuple[int | None, ...]


class ComparisonSetting(Schema):
    """What may be averaged: one gallery, one encoder and one recipe a side, in all languages that have them."""

    metric: str = Field(description="what is compared: `R@1`, or a measure of the records")
    sought: Sought = Field(description="what the queries look for")
    task: str
    task_version: str
    split: str
    sample: bool
    images: int
    images_digest: str
    encoders: tuple[str, ...] = Field(description="A's and B's, or the one that both have")
    a: str = Field(description="A's text tower")
    b: str
    pairs: tuple[int, ...] = Field(description="sentence pairs that the towers were distilled from")
    differences: tuple[str, ...] = Field(description="what else than the objective differs between A and B")
    paired: tuple[PairedRecords, ...]
    sections: tuple[ComparisonSection, ...]


class UnpairedRecord(Schema):
    """A record that could not be compared, and why."""

    side: str
    cell: str
    lang: str
    text_tower: str
    reason: str


class Comparison(Schema):
    """A against B."""

    schema_version: int = 1
    a: str = Field(description="as it was asked for")
    b: str
    metric: str = Field(description="as it was asked for; empty: what each task compares towers by")
    resamples: int
    settings: tuple[ComparisonSetting, ...]
    unpaired: tuple[UnpairedRecord, ...]


def finite_or_none(value: float) -> float | None:
    """A number, or None for NaN and infinity, which JSON has no word for."""
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class ComparisonOptions:
    """What is asked of two sides. by: what lines are chosen by; langs: which languages, () for all; pairs: size of the bitext.

    metric: a column of the tables, as `r1`, `R@10` or `ndcg@10`; empty for what each task compares towers by.
    """

    metric: str = ""
    directions: tuple[Direction, ...] = ("t2i", "i2t")
    by: tuple[str, ...] = (BY_LANGUAGE,)
    langs: tuple[str, ...] = ()
    pairs: int | None = None
    resamples: int = 10_000

    def __post_init__(self) -> None:
        """Raises HarnessError if facets are asked for where there are none."""
        facets = [name for name in self.by if name not in LANGUAGE_GROUPINGS]
        if facets and "t2i" not in self.directions:
            raise HarnessError(f"--by {facets[0]}: facets are of captions; ask with --direction t2i")


def compare_records(a: str, b: str, records: Path, question: ComparisonOptions) -> Comparison:
    """Lay A's records beside B's and say what differs and how surely.

    a, b: see `harness.statistics.matching.resolve_records`. records: folder in which objectives and digests are looked up,
    and with the folders given, the English tower's records that a gap needs.
    Raises HarnessError if a name means nothing, if nothing pairs, or if lines are asked for that the records cannot give.
    """
    kept = load_records(records)
    sides = [select_records(resolve_records(text, kept), question.langs, question.pairs, text) for text in (a, b)]
    pairing = pair_records(*sides)
    pool = with_sibling_records(kept, [entry for side in sides for entry in side])
    groups: dict[str, list[RecordPair]] = {}
    for pair in pairing.pairs:
        groups.setdefault(setting_key(pair), []).append(pair)
    return Comparison(
        a=a,
        b=b,
        metric=question.metric,
        resamples=question.resamples,
        settings=tuple(comparison_setting(pairs, pool, question) for pairs in groups.values()),
        unpaired=tuple(unpaired_record(left) for left in pairing.left),
    )


def with_sibling_records(kept: Sequence[StoredRecord], given: Sequence[StoredRecord]) -> list[StoredRecord]:
    """The records looked up in, and those that lie beside a record that was given by its folder."""
    cells = {entry.record.cell: entry for entry in kept}
    beside = {entry.folder.parent for entry in given if entry.record.cell not in cells}
    folders = [path.parent for folder in sorted(beside) for path in sorted(folder.glob(f"*/{RECORD}"))]
    siblings = [StoredRecord(folder, record) for folder, record in readable(folders, load_record)]
    return list(({entry.record.cell: entry for entry in siblings} | cells).values())


def setting_key(pair: RecordPair) -> str:
    """What must be equal for two languages to be averaged."""
    first = pair.a[0].record
    sides = [side[0].record for side in (pair.a, pair.b)]
    recipes = [side.tower.asked.model_dump(exclude={"seed"}) if side.tower else None for side in sides]
    shared = [first.task, first.task_version, first.split, first.sample, first.images_digest]
    towers = [(side.encoder_fingerprint, side.text_tower, side.scorer) for side in sides]
    return digest_json([*shared, *towers, recipes])


def comparison_setting(
    pairs: Sequence[RecordPair], pool: Sequence[StoredRecord], question: ComparisonOptions
) -> ComparisonSetting:
    """All figures of one setting."""
    first, other = pairs[0].a[0].record, pairs[0].b[0].record
    laid = [PairedRuns.of(pair, pool) for pair in pairs]
    metric = resolve_metric(question.metric, laid[0].a[0])
    sizes = {entry.record.tower.bitext.used for pair in pairs for entry in (*pair.a, *pair.b) if entry.record.tower}
    return ComparisonSetting(
        metric=metric,
        sought=first.sought,
        task=first.task,
        task_version=first.task_version,
        split=first.split,
        sample=first.sample,
        images=first.images,
        images_digest=first.images_digest,
        encoders=tuple(dict.fromkeys((first.encoder, other.encoder))),
        a=tower_title(first),
        b=tower_title(other),
        pairs=tuple(sorted(sizes)),
        differences=setting_differences(pairs),
        paired=tuple(paired_records(pair) for pair in pairs),
        # Only images look for texts in turn.
        sections=tuple(
            comparison_section(laid, side, metric, question) for side in question.directions if f"{side}_r1" in first.scores
        ),
    )


def resolve_metric(metric: str, tower: Measurement) -> str:
    """The column that a word means, as `r1`, `R@1` or `ndcg@10`; the record's headline if it is empty.

    Raises HarnessError with the columns there are.
    """
    names = tower.values("t2i")
    folded = {name.lower().replace("@", ""): name for name in names}
    asked = metric.lower().replace("@", "")
    if asked and asked not in folded:
        raise HarnessError(f"--metric {metric}: the records of {tower.record.task} have {', '.join(names)}")
    return folded[asked] if asked else tower.record.headline


def tower_title(record: Record) -> str:
    """A text tower, and the scorer that it was measured with where that is not the plain one."""
    return record.text_tower if record.scorer == PLAIN else f"{record.text_tower} + {record.scorer.partition(',')[0]}"


def unpaired_record(left: UnmatchedRecord) -> UnpairedRecord:
    """A record left out, by its names."""
    record = left.entry.record
    return UnpairedRecord(side=left.side, cell=record.cell, lang=record.lang, text_tower=record.text_tower, reason=left.reason)


def paired_records(pair: RecordPair) -> PairedRecords:
    """The records of a pair, by their names."""
    record = pair.a[0].record
    return PairedRecords(
        lang=record.lang,
        source=record.source,
        kind=record.kind,
        captions=record.captions,
        cells_a=tuple(entry.record.cell for entry in pair.a),
        cells_b=tuple(entry.record.cell for entry in pair.b),
        seeds_a=tuple(entry.seed() for entry in pair.a),
        seeds_b=tuple(entry.seed() for entry in pair.b),
    )


def setting_differences(pairs: Sequence[RecordPair]) -> tuple[str, ...]:
    """What else than the objective differs between A and B, each difference once."""
    said: dict[str, list[str]] = {}
    for pair in pairs:
        for what in pair_differences(pair):
            said.setdefault(what, []).append(pair.a[0].record.lang)
    everywhere = len(pairs)
    return tuple(what if len(langs) == everywhere else f"{what} (in {', '.join(langs)})" for what, langs in said.items())


def pair_differences(pair: RecordPair) -> list[str]:
    """What else than the objective differs between the two sides of a pair."""
    a, b = pair.a[0], pair.b[0]
    said = (
        []
        if a.record.encoder_fingerprint == b.record.encoder_fingerprint
        else [f"encoder {a.record.encoder} and {b.record.encoder}"]
    )
    for name, entry in (("A", a), ("B", b)):
        if entry.record.translations:
            said.append(f"{name} is the English tower on translations by {entry.record.translations.source}")
        elif entry.record.tower is None:
            said.append(f"{name} is the encoder's own English tower, not distilled")
    if a.record.tower is None or b.record.tower is None:
        return said
    ours, theirs = a.training(), b.training()
    # A weight that only one side's objective has says no more than the objective.
    both = [trait for trait in ours if trait != ENTITY_WEIGHT or None not in (ours[trait], theirs[trait])]
    said += [
        f"{trait} {short_value(ours[trait])} and {short_value(theirs[trait])}" for trait in both if ours[trait] != theirs[trait]
    ]
    seeds = [[entry.seed() for entry in side] for side in (pair.a, pair.b)]
    if seeds[0] != seeds[1]:
        return [*said, f"seed {' '.join(map(str, seeds[0]))} and {' '.join(map(str, seeds[1]))}"]
    bitexts = [[entry.record.tower.bitext.digest for entry in side if entry.record.tower] for side in (pair.a, pair.b)]
    return said if bitexts[0] == bitexts[1] else [*said, f"bitext {short_value(bitexts[0][0])} and {short_value(bitexts[1][0])}"]


@dataclass(frozen=True)
class PairedRuns:
    """A pair, read: both sides' towers by seed, and the two ends of each side's gap to English where they are known."""

    pair: RecordPair
    a: tuple[Measurement, ...]
    b: tuple[Measurement, ...]
    ends: tuple[tuple[Measurement, Measurement] | None, ...]

    @classmethod
    def of(
        cls, pair: RecordPair, pool: Sequence[StoredRecord], read: Callable[[str, Path], Measurement] = Measurement.read
    ) -> PairedRuns:
        """Read the ranks of a pair. Raises HarnessError if they are not over the same queries after all."""
        sides = [tuple(read(entry.record.text_tower, entry.folder) for entry in side) for side in (pair.a, pair.b)]
        for entry, tower in zip((*pair.a, *pair.b), (*sides[0], *sides[1]), strict=True):
            if not np.array_equal(tower.owner, sides[0][0].owner) or len(tower.ranks.i2t) != len(sides[0][0].ranks.i2t):
                raise HarnessError(f"{entry.folder} lists other queries than {pair.a[0].folder}, though its digests are the same")
        ends = tuple(gap_references(side[0], sides[0][0].owner, pool) for side in (pair.a, pair.b))
        return cls(pair, sides[0], sides[1], ends)

    @property
    def record(self) -> Record:
        """The first record: language and captions are those of all."""
        return self.pair.a[0].record

    def tier(self) -> str:
        """The resource tier of the language."""
        languages = TASKS.load(without_code(self.record.task, self.record.cell))().languages()
        if self.record.lang not in languages:
            raise HarnessError(f"--by tier: the task {self.record.task} knows no language {self.record.lang!r}, so no tier of it")
        tier = languages[self.record.lang].tier
        return "unknown" if tier is None else str(tier)

    def clusters(self, direction: str) -> Ints:
        """(queries,): the image of each query."""
        return self.a[0].clusters(direction)


def gap_references(entry: StoredRecord, owner: Ints, pool: Sequence[StoredRecord]) -> tuple[Measurement, Measurement] | None:
    """The English tower on the captions of a distilled one, and on their English twins; None where one is not known."""
    record = entry.record
    if record.text_tower == ENGLISH_TOWER:
        return None
    shared = ("sample", "task", "task_version", "split", "images_digest", "encoder_fingerprint", "scorer", "regions")
    english = [
        other
        for other in pool
        if other.record.text_tower == ENGLISH_TOWER
        and all(getattr(other.record, name) == getattr(record, name) for name in shared)
    ]
    floors = [other for other in english if other.record.texts_digest == record.texts_digest]
    ceilings = [other for other in english if other.record.source == f"{record.source} (English side)"]
    if not floors or not ceilings:
        return None
    ends = (Measurement.read("floor", floors[0].folder), Measurement.read("ceiling", ceilings[0].folder))
    return ends if all(np.array_equal(end.owner, owner) for end in ends) else None


@dataclass(frozen=True)
class Subset:
    """Some queries of a pair. rows: (queries,), which."""

    laid: PairedRuns
    rows: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ComparedColumn:
    """One direction and column."""

    direction: Direction
    metric: str
    resamples: int

    def hits(self, tower: Measurement) -> Hits:
        """(queries,), in percent: 100 for a hit, else 0, or the measure's value."""
        return tower.values(self.direction)[self.metric]

    def arms(self, cut: Subset) -> PairedArms:
        """Both sides' hits, and the images they share."""
        sides = [np.stack([self.hits(tower)[cut.rows] for tower in side]) for side in (cut.laid.a, cut.laid.b)]
        seeds = [tuple(str(entry.seed()) for entry in side) for side in (cut.laid.pair.a, cut.laid.pair.b)]
        return PairedArms(sides[0], sides[1], cut.laid.clusters(self.direction)[cut.rows], seeds[0], seeds[1])

    def contrasts(self, groups: Sequence[Sequence[Subset]]) -> list[ArmContrast]:
        """A against B in each group of cuts, from one set of resamples."""
        arms = [self.arms(cut) for cuts in groups for cut in cuts]
        starts = np.cumsum([0, *map(len, groups)]).tolist()
        rows = [
            {start + i: weight for i, weight in macro_weights(cuts).items()} for start, cuts in zip(starts, groups, strict=False)
        ]
        return contrasts(arms, rows, resamples=self.resamples)


def comparison_section(
    laid: Sequence[PairedRuns], direction: Direction, metric: str, question: ComparisonOptions
) -> ComparisonSection:
    """All lines of one direction, and how many languages A wins."""
    asked = ComparedColumn(direction, metric, question.resamples)
    whole = [Subset(each, np.ones(len(each.clusters(direction)), bool)) for each in laid]
    by_lang = group_lines(BY_LANGUAGE, group_subsets(whole, lambda each: each.record.lang), asked)
    found = [] if len(laid) == 1 and BY_LANGUAGE in question.by else group_lines(BY_NOTHING, {"": whole}, asked)
    for name in question.by:
        if name == BY_LANGUAGE:
            found += by_lang
        elif name == BY_TIER:
            found += group_lines(name, group_subsets(whole, PairedRuns.tier), asked)
        elif name == BY_SOURCE:
            found += group_lines(name, group_subsets(whole, lambda each: each.record.source), asked)
        elif direction == "t2i":
            found += group_lines(name, facet_subsets(laid, name), asked)
    outcomes = [line.outcome for line in by_lang]
    return ComparisonSection(
        direction=direction,
        wins=outcomes.count("win"),
        ties=outcomes.count("tie"),
        losses=outcomes.count("loss"),
        lines=tuple(found),
    )


def group_subsets(cuts: Iterable[Subset], key: Callable[[PairedRuns], str]) -> dict[str, list[Subset]]:
    """Pairs by a property, in its order."""
    groups: dict[str, list[Subset]] = {}
    for cut in cuts:
        groups.setdefault(key(cut.laid), []).append(cut)
    return dict(sorted(groups.items()))


def facet_subsets(laid: Sequence[PairedRuns], name: str) -> dict[str, list[Subset]]:
    """Captions by the values of a facet; one with several values stands under each. Raises HarnessError if a record lacks it."""
    groups: dict[str, list[Subset]] = {}
    for each in laid:
        folder = each.pair.a[0].folder
        facets = load_facets(folder)
        if name not in facets:
            there = nearest(name, [BY_LANGUAGE, BY_TIER, BY_SOURCE, *facets])
            again = "" if facets else "; a record of an earlier version has no facets: measure it again"
            raise HarnessError(f"--by {name}: {folder} has no such facet of its captions: {there}{again}")
        for value in sorted({value for values in facets[name] for value in values}):
            groups.setdefault(value, []).append(Subset(each, np.array([value in values for values in facets[name]])))
    return dict(sorted(groups.items()))


def group_lines(by: str, groups: Mapping[str, Sequence[Subset]], asked: ComparedColumn) -> list[ComparisonLine]:
    """One line a group, with p-values adjusted for their number."""
    # A facet has many values: one at a time keeps memory bounded. All other groups are of one gallery and share their resamples.
    calls = [list(groups.values())] if by in LANGUAGE_GROUPINGS else [[cuts] for cuts in groups.values()]
    found = [each for call in calls for each in asked.contrasts(call)]
    adjusted = holm([each.p_value for each in found])
    return [
        comparison_line(by, value, cuts, each, p, asked)
        for (value, cuts), each, p in zip(groups.items(), found, adjusted, strict=True)
    ]


def macro_weights(cuts: Sequence[Subset]) -> dict[int, float]:
    """Weights under which each language counts alike, and each of its caption sources."""
    langs = [cut.laid.record.lang for cut in cuts]
    return {i: 1 / (len(set(langs)) * langs.count(lang)) for i, lang in enumerate(langs)}


def comparison_line(
    by: str, value: str, cuts: Sequence[Subset], found: ArmContrast, p_holm: float, asked: ComparedColumn
) -> ComparisonLine:
    """All figures of one line."""
    only_a, only_b, p_mcnemar = (
        mcnemar_counts([asked.arms(cut) for cut in cuts]) if asked.metric.startswith("R@") else (None,) * 3
    )
    sign = found.difference.estimate
    return ComparisonLine(
        by=by,
        value=value,
        langs=tuple(dict.fromkeys(cut.laid.record.lang for cut in cuts)),
        queries=sum(int(np.count_nonzero(cut.rows)) for cut in cuts),
        a=Estimate.of(found.a),
        b=Estimate.of(found.b),
        difference=Estimate.of(found.difference),
        p_value=found.p_value,
        p_holm=p_holm,
        p_sign_flip=found.p_sign_flip,
        outcome="tie" if p_holm >= ALPHA or sign == 0 else "win" if sign > 0 else "loss",
        only_a=only_a,
        only_b=only_b,
        p_mcnemar=p_mcnemar,
        minimal_detectable=finite_or_none(found.minimal_detectable),
        image_error=finite_or_none(found.image_error),
        seed_error=finite_or_none(found.seed_error),
        gap_a=gap_estimate(cuts, 0, asked),
        gap_b=gap_estimate(cuts, 1, asked),
    )


def mcnemar_counts(arms: Sequence[PairedArms]) -> tuple[int | None, int | None, float | None]:
    """McNemar's b and c, added up over languages and seeds, and its p where queries are independent."""
    if any(each.seeds_a != each.seeds_b and (len(each.seeds_a) > 1 or len(each.seeds_b) > 1) for each in arms):
        return None, None, None
    tests = [mcnemar(a, b) for each in arms for a, b in zip(np.asarray(each.a), np.asarray(each.b), strict=True)]
    alone = len(tests) == 1 and len(np.unique(np.asarray(arms[0].cluster))) == len(np.asarray(arms[0].cluster))
    return sum(test.b for test in tests), sum(test.c for test in tests), tests[0].p_value if alone else None


def gap_estimate(cuts: Sequence[Subset], side: int, asked: ComparedColumn) -> Estimate | None:
    """Gap to English that a side recovers: of the means over seeds and languages, with an interval over images."""
    columns = []
    for cut, weight in zip(cuts, macro_weights(cuts).values(), strict=True):
        ends = cut.laid.ends[side]
        if ends is None:
            return None
        towers = cut.laid.b if side else cut.laid.a
        student = np.mean([asked.hits(tower) for tower in towers], axis=0)
        values = np.column_stack([student, *map(asked.hits, ends)])[cut.rows] * weight / np.count_nonzero(cut.rows)
        columns.append(np.column_stack([values, cut.laid.clusters(asked.direction)[cut.rows]]))
    student, floor, ceiling, cluster = np.concatenate(columns).T
    return Estimate.of(gap_recovered(student, floor, ceiling, cluster, resamples=asked.resamples))


# By what is looked for, and by direction.
DIRECTION_TITLES: dict[Sought, dict[str, str]] = {
    "images": {"t2i": "text → image", "i2t": "image → text"},
    "regions": {"t2i": "phrase → region"},
    "texts": {"t2i": "query → English text"},
}
