"""Comparison of two sides, A and B, over languages and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.core.digests import digest_json
from harness.core.errors import HarnessError
from harness.records.files import RECORD_FILE, load_record
from harness.records.schema import Record
from harness.retrieval.scorers import PLAIN, scorer_spec
from harness.statistics.comparison_schema import Comparison, ComparisonOptions, ComparisonSetting, PairedRecords, UnpairedRecord
from harness.statistics.comparison_sections import comparison_section, secondary_outcomes
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
from harness.statistics.measurement import Measurement
from harness.statistics.paired_runs import PairedRuns
from harness.storage.seals import load_readable


def compare_records(a: str, b: str, records: Path, question: ComparisonOptions) -> Comparison:
    """Compare the records of A with those of B.

    a, b: see `harness.statistics.matching.resolve_records`. records: folder in which arms and digests are looked
    up, and the records of the English tower that a gap needs. Folders next to a given record are searched for these as well.
    Raises HarnessError if a name cannot be resolved, if no records pair, or if the records lack a requested group or metric.
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
        margin=question.margin,
        settings=tuple(comparison_setting(pairs, pool, question) for pairs in groups.values()),
        unpaired=tuple(unpaired_record(left) for left in pairing.left),
    )


def with_sibling_records(kept: Sequence[StoredRecord], given: Sequence[StoredRecord]) -> list[StoredRecord]:
    """Return the known records, and those next to a record that was given by its folder."""
    cells = {entry.record.cell: entry for entry in kept}
    beside = {entry.folder.parent for entry in given if entry.record.cell not in cells}
    folders = [path.parent for folder in sorted(beside) for path in sorted(folder.glob(f"*/{RECORD_FILE}"))]
    siblings = [StoredRecord(folder, record) for folder, record in load_readable(folders, load_record)]
    return list(({entry.record.cell: entry for entry in siblings} | cells).values())


def setting_key(pair: RecordPair) -> str:
    """Return a digest of everything that languages must share to be averaged."""
    first = pair.a[0].record
    sides = [side[0].record for side in (pair.a, pair.b)]
    recipes = [side.tower.requested.model_dump(exclude={"seed"}) if side.tower else None for side in sides]
    shared = [first.task, first.task_version, first.split, first.sample, first.images_digest]
    towers = [(side.encoder_fingerprint, side.text_tower, side.scorer) for side in sides]
    return digest_json([*shared, *towers, recipes])


def comparison_setting(
    pairs: Sequence[RecordPair], pool: Sequence[StoredRecord], question: ComparisonOptions
) -> ComparisonSetting:
    """Return the statistics of one setting."""
    first, other = pairs[0].a[0].record, pairs[0].b[0].record
    laid = [PairedRuns.of(pair, pool) for pair in pairs]
    metric = resolve_metric(question.metric, laid[0].a[0])
    sizes = {entry.record.tower.bitext.used for pair in pairs for entry in (*pair.a, *pair.b) if entry.record.tower}
    # Only image galleries have the direction image to text.
    directions = [side for side in question.directions if f"{side}_r1" in first.scores]
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
        sections=tuple(comparison_section(laid, side, metric, question) for side in directions),
        secondary=secondary_outcomes(laid, [(side, metric) for side in directions], directions, question.resamples),
    )


def resolve_metric(metric: str, tower: Measurement) -> str:
    """Return the column of a metric such as `r1`, `R@1` or `ndcg@10`, or the primary measure if it is empty.

    Raises HarnessError with the known columns.
    """
    names = tower.outcomes("t2i")
    folded = {name.lower().replace("@", ""): name for name in names}
    asked = metric.lower().replace("@", "")
    if asked and asked not in folded:
        raise HarnessError(f"--metric {metric}: the records of {tower.record.task} have {', '.join(names)}")
    return folded[asked] if asked else tower.record.headline


def tower_title(record: Record) -> str:
    """Return the text tower, and the scorer if it is not the plain one."""
    return record.text_tower if record.scorer == PLAIN else f"{record.text_tower} + {scorer_spec(record.scorer)}"


def unpaired_record(left: UnmatchedRecord) -> UnpairedRecord:
    """Convert an unmatched record."""
    record = left.entry.record
    return UnpairedRecord(side=left.side, cell=record.cell, lang=record.lang, text_tower=record.text_tower, reason=left.reason)


def paired_records(pair: RecordPair) -> PairedRecords:
    """Convert a pair."""
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
    """Return the differences between A and B other than the objective, each once."""
    said: dict[str, list[str]] = {}
    for pair in pairs:
        for what in pair_differences(pair):
            said.setdefault(what, []).append(pair.a[0].record.lang)
    everywhere = len(pairs)
    return tuple(what if len(langs) == everywhere else f"{what} (in {', '.join(langs)})" for what, langs in said.items())


def pair_differences(pair: RecordPair) -> list[str]:
    """Return the differences between the two sides of a pair other than the objective."""
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
    # An entity weight on one side only is part of the objective.
    both = [trait for trait in ours if trait != ENTITY_WEIGHT or None not in (ours[trait], theirs[trait])]
    said += [
        f"{trait} {short_value(ours[trait])} and {short_value(theirs[trait])}" for trait in both if ours[trait] != theirs[trait]
    ]
    seeds = [[entry.seed() for entry in side] for side in (pair.a, pair.b)]
    if seeds[0] != seeds[1]:
        return [*said, f"seed {' '.join(map(str, seeds[0]))} and {' '.join(map(str, seeds[1]))}"]
    bitexts = [[entry.record.tower.bitext.digest for entry in side if entry.record.tower] for side in (pair.a, pair.b)]
    return said if bitexts[0] == bitexts[1] else [*said, f"bitext {short_value(bitexts[0][0])} and {short_value(bitexts[1][0])}"]
