"""Checks that a record must pass to appear on a board.

A record must be consistent with itself and with the other records on the same test set.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.core.data import Ranks
from harness.core.errors import HarnessError
from harness.leaderboards.records.board_records import BoardGallery, BoardRecord
from harness.leaderboards.records.query_files import read_columns
from harness.records.files import QUERIES_FILE, explain_broken_queries, load_measures
from harness.records.schema import ENGLISH_TOWER, TRANSLATE_TEST, Record
from harness.retrieval.dense_search import SearchResult
from harness.retrieval.grounding import grounding_scores
from harness.retrieval.metrics import DEPTH
from harness.retrieval.ranking import CUTOFFS, MISSED, chance_rates, retrieval_scores

TestSetDigests = tuple[str, str]
"""The digests of the images and of the texts of a test set."""

_SIZE_FIELDS, _TASK_FIELDS = ("images", "captions", "documents"), ("task", "split", "sample")
_MAX_NUMBER = 1 << 53  # the largest integer that JavaScript represents exactly
_MAX_TEXT_LENGTH, _MAX_NOTE_LENGTH, _MAX_ITEMS = 500, 4000, 1000
_LONG_FIELDS = {"notes", "command"}  # which may be as long as a note
_LANGUAGE = re.compile("[A-Za-z][A-Za-z0-9_-]{0,34}")


class TestSetIndex:
    """Accepted records by test set. All records on one test set have the same queries in the same order.

    owners: the record that stands for each test set. galleries: the record that stands for each gallery. sources: the source and
    kind of the captions, by language and test set.
    """

    __test__ = False  # not a class of tests

    def __init__(self) -> None:
        self.owners: dict[TestSetDigests, BoardRecord] = {}
        self.galleries: dict[str, BoardRecord] = {}
        self.sources: dict[tuple[str, TestSetDigests], set[tuple[str, str]]] = {}
        self._layout_faults: dict[tuple[str, str, int], str] = {}  # by layout; empty for a valid one
        self._chances: dict[str, dict[str, float]] = {}  # scores of a random ranking, by layout

    @classmethod
    def from_records(cls, records: Sequence[BoardRecord]) -> TestSetIndex:
        """Return the index of records, the project's own first.

        The majority of the project's own records decides what the queries of a test set are; without own records, the first
        record does.
        """
        index = cls()
        readable = [each for each in records if is_readable(each)]
        ours = {digests_of_test_set(each.record) for each in readable if not each.sender}
        votes: dict[TestSetDigests, Counter[tuple[str, ...]]] = {}
        for each in readable:
            if not each.sender:
                votes.setdefault(digests_of_test_set(each.record), Counter())[values_of_test_set(each)] += 1
        for each in readable:
            pair = digests_of_test_set(each.record)
            if pair not in ours or (not each.sender and values_of_test_set(each) == votes[pair].most_common(1)[0][0]):
                index.add(each)
        return index

    def add(self, found: BoardRecord) -> None:
        """Add an accepted record. It stands for its test set if no earlier record does."""
        pair = digests_of_test_set(found.record)
        self.owners.setdefault(pair, found)
        self.galleries.setdefault(pair[0], found)
        if not found.sender or self.owners[pair].sender:
            self.sources.setdefault((found.record.lang, pair), set()).add((found.record.source, found.record.kind))

    def faults(self, found: BoardRecord) -> Iterator[str]:
        """Yield the faults of a record. Later checks assume that the earlier ones passed."""
        yield from value_faults(found)
        yield from card_faults(found.record)
        yield from self.layout_faults(found)
        yield from self.disagreements(found)
        yield from self.chance_faults(found)
        yield from _SCORE_CHECKS[found.record.sought](found)

    def layout_faults(self, found: BoardRecord) -> Iterator[str]:
        """Yield the fault in the ids of the queries. It is computed once for all records with the same layout."""
        key = (found.queries.layout, found.record.sought, found.record.images)
        if key not in self._layout_faults:
            self._layout_faults[key] = next(query_faults(found), "")
        if self._layout_faults[key]:
            yield self._layout_faults[key]

    def chance_faults(self, found: BoardRecord) -> Iterator[str]:
        """Yield the fault in the chance of a record of images. Chance depends on the number of captions of each image."""
        if found.record.sought == "images":
            key = found.queries.layout
            if key not in self._chances:
                self._chances[key] = chance_rates(BoardGallery.read(found.folder, found.record).owner, found.record.images)
            yield from mismatches("chance", found.record.chance, self._chances[key])

    def disagreements(self, found: BoardRecord) -> Iterator[str]:
        """Yield the differences between a record and the record that stands for its test set or gallery."""
        record, pair = found.record, digests_of_test_set(found.record)
        owner = self.owners.get(pair)
        if owner is not None:
            for name in (*_SIZE_FIELDS, *(_TASK_FIELDS if found.sender else ())):
                mine, theirs = getattr(record, name), getattr(owner.record, name)
                if mine != theirs:
                    yield f"its {name} is {mine!r}, but {theirs!r} in {owner.folder}, whose captions have the same digest"
            if found.queries.layout != owner.queries.layout:
                yield f"its queries or their order differ from {owner.folder}, whose captions have the same digest"
            known = self.sources.get((record.lang, pair))
            if found.sender and known and (record.source, record.kind) not in known:
                yield f"its captions are from {record.source!r} ({record.kind}), but from {sorted(known)[0]} in {owner.folder}"
            same = record.chance.keys() & owner.record.chance.keys()
            expected = {name: owner.record.chance[name] for name in same}
            yield from mismatches("chance", {name: record.chance[name] for name in same}, expected)
        elif (other := self.galleries.get(pair[0])) is not None:
            if found.sender and other.record.sample != record.sample:
                yield f"its sample is {record.sample}, but {other.record.sample} in {other.folder}, which has the same images"
            mine, theirs = (BoardGallery.read(each.folder, each.record) for each in (found, other))
            queried = record.sought == other.record.sought == "images"
            if mine.ids != theirs.ids or (queried and mine.image_ids != theirs.image_ids):
                yield f"its images or their order differ from {other.folder}, whose images have the same digest"


def consistent_records(found: Iterable[BoardRecord], problems: list[str]) -> list[BoardRecord]:
    """Return the records, each cell once, that pass all checks. `problems` receives a line for each of the others.

    found: the project's own records first.
    """
    every, kept = list(found), dict[str, BoardRecord]()
    index = TestSetIndex.from_records(every)
    for each in every:
        try:
            if fault := first_record_fault(index, each):
                problems.append(f"{each.folder}: {fault}")
            elif (other := kept.setdefault(each.record.cell, each)) is not each and not same_ranks(each, other):
                problems.append(f"{each.folder} and {other.folder} are of the same cell, but their ranks differ")
        except HarnessError as error:
            problems.append(str(error))
    return list(kept.values())


def first_record_fault(index: TestSetIndex, found: BoardRecord) -> str | None:
    """Return the first fault of a record, or None. Raises HarnessError if its queries cannot be read."""
    with explain_broken_queries(found.folder / QUERIES_FILE):
        return next(index.faults(found), None)


def same_ranks(one: BoardRecord, other: BoardRecord) -> bool:
    """Return whether two records have the same ranks of the same queries."""
    return one.queries.layout == other.queries.layout and np.array_equal(one.queries.ranks, other.queries.ranks)


def is_readable(found: BoardRecord) -> bool:
    """Return whether a record's queries can be read."""
    try:
        return bool(found.queries.layout)
    except HarnessError:
        return False


def digests_of_test_set(record: Record) -> TestSetDigests:
    """Return the digests that identify a record's test set."""
    return record.images_digest, record.texts_digest


def values_of_test_set(found: BoardRecord) -> tuple[str, ...]:
    """Return the values that all records on one test set share."""
    return found.queries.layout, *(str(getattr(found.record, name)) for name in _SIZE_FIELDS)


def value_faults(found: BoardRecord) -> Iterator[str]:
    """Yield the numbers of a record that no page can show and, in submissions, the texts that no valid record has."""
    for name, value in nested_values(found.record.model_dump(mode="json")):
        if isinstance(value, (int, float)) and not abs(value) <= _MAX_NUMBER:
            yield f"its {name[:40]} is a number that a page cannot show: expected at most {_MAX_NUMBER:,}"
        if found.sender:
            yield from text_faults(name, value)
    if not _LANGUAGE.fullmatch(found.record.lang):
        yield f"its language is {found.record.lang[:40]!r}: expected a code such as de or zh-Hant"


def text_faults(name: str, value: Any) -> Iterator[str]:
    """Yield the faults of a text, or of the length of a collection."""
    most = (_MAX_NOTE_LENGTH if name in _LONG_FIELDS else _MAX_TEXT_LENGTH) if isinstance(value, str) else _MAX_ITEMS
    if isinstance(value, (str, list, dict)) and len(value) > most:
        yield f"its {name[:40]} has a length of {len(value):,}: expected at most {most:,}"
    if isinstance(value, str) and any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") for letter in value):
        yield f"its {name[:40]} has a control character or a direction mark: {value[:40]!r}"


def nested_values(value: Any, name: str = "record") -> Iterator[tuple[str, Any]]:
    """Yield every value in a record with the name of its field."""
    yield name, value
    if isinstance(value, dict):
        for key, member in value.items():
            yield name, key
            yield from nested_values(member, key)
    elif isinstance(value, list):
        for member in value:
            yield from nested_values(member, name)


def card_faults(record: Record) -> Iterator[str]:
    """Yield the faults in the fields of a record."""
    if not re.fullmatch("[0-9a-f]{64}", record.cell):
        yield "its cell is not a digest of 64 hexadecimal digits"
    if not all(re.fullmatch("[0-9A-Za-z]{1,64}", digest) for digest in digests_of_test_set(record)):
        yield "its digests of images and texts are not digests: expected 1 to 64 letters and digits"
    if record.text_tower != (expected := expected_text_tower(record)):
        yield f"its text tower is {record.text_tower!r}, but its cards give {expected!r}"
    if record.images < 1 or record.captions < 1 or (record.documents is not None and record.documents < 1):
        yield "it has no images, captions or documents: expected at least one of each"


def expected_text_tower(record: Record) -> str:
    """Return the name of the text tower that a record's cards describe."""
    return record.tower.config.arm if record.tower else TRANSLATE_TEST if record.translations else ENGLISH_TOWER


def query_faults(found: BoardRecord) -> Iterator[str]:
    """Yield the faults in the ids of queries and images."""
    record, from_images = found.record, image_queries(found.record)
    unit = {"images": "captions", "regions": "phrases", "texts": "queries"}[record.sought]
    table = read_columns(found.folder, record, "query", "image")
    queries, images = (np.array(table[name].to_pylist(), dtype=object) for name in ("query", "image"))
    if found.queries.captions != record.captions:
        yield f"expected ranks of {record.captions:,} {unit} (t2i), then of {from_images:,} images (i2t)"
    if bad := next((name for name in {*queries, *images} if is_unsafe_id(name)), None):
        yield f"it has the id {bad[:60]!r}, which has control characters or leads out of its folder"
    captions, owners = queries[: record.captions], images[: record.captions]
    gallery = queries[record.captions :]
    if not np.array_equal(gallery, images[record.captions :]) or len(set(gallery)) < from_images:
        yield "its image queries are not each image of the gallery exactly once"
    if len(set(captions)) < record.captions:
        yield f"two of its {unit} have the same id"
    if (set(owners) != set(gallery)) if from_images else has_wrong_images(record, len(set(owners))):
        yield f"its {unit} do not match its gallery: every image needs one or more, and none may be of another image"


def has_wrong_images(record: Record, count: int) -> bool:
    """Return whether queries for regions or texts belong to an impossible number of images."""
    return count > record.images if record.sought == "regions" else count != record.images


def is_unsafe_id(name: str) -> bool:
    """Return whether an id is unsafe as a line of text or as a path."""
    leads_out = name.startswith("/") or ".." in re.split(r"[/\\]", name)
    return leads_out or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def image_queries(record: Record) -> int:
    """Return how many images are queries: all if the task retrieves images, else none."""
    return record.images if record.sought == "images" else 0


def rank_faults(found: BoardRecord) -> Iterator[str]:
    """Yield the faults in ranks of images and captions, or in the scores computed from them."""
    record, ranks = found.record, found.queries.ranks.astype(np.int64)
    t2i, i2t = ranks[: record.captions], ranks[record.captions :]
    for side, values, most in (("t2i", t2i, record.images), ("i2t", i2t, record.captions)):
        if values.max() > most:
            yield f"its {side} ranks go from {values.min():,} to {values.max():,}, expected 1 to {most:,}"
    yield from mismatches("scores", record.scores, retrieval_scores(Ranks(t2i, i2t)))
    yield from hubness_faults(record)


def hubness_faults(record: Record) -> Iterator[str]:
    """Yield the fault in the hubness of a record. Its ranks do not give it, but the skewness of n counts is below sqrt(n)."""
    candidates = {"t2i": record.images, "i2t": record.captions}
    if any(side not in candidates or abs(value) > math.sqrt(candidates[side]) for side, value in record.hubness.items()):
        yield "its hubness is not the skewness of the occurrences of images (t2i) and captions (i2t)"


def grounding_faults(found: BoardRecord) -> Iterator[str]:
    """Yield the faults in the scores of phrase grounding. Chance cannot be checked: records lack the data for it."""
    record, pointed = found.record, found.queries.pointed
    assert pointed is not None, "a file without this column is refused when it is opened"
    yield from mismatches("scores", record.scores, grounding_scores(found.queries.ranks.astype(np.int64), pointed))
    if set(record.chance) != {f"t2i_r{k}" for k in CUTOFFS} or not are_percentages(record.chance):
        yield "its chance is not three hit rates in percent"


def search_faults(found: BoardRecord) -> Iterator[str]:
    """Yield the faults in a text-to-text record. Chance cannot be checked: it depends on texts that records do not hold."""
    record, ranks = found.record, found.queries.ranks
    ranked, most = ranks[ranks != MISSED], min(record.documents or 0, DEPTH)
    if len(ranked) and ranked.max() > most:
        yield f"its ranks go from {ranks.min():,} to {ranked.max():,}, expected 1 to {most:,}"
    measures = load_measures(found.folder)
    for name, values in measures.items():
        if len(values) != record.captions or not ((values >= 0) & (values <= 100 + 1e-4)).all():
            yield f"its {name} is not a number from 0 to 100 for each of {record.captions:,} queries"
    yield from mismatches("scores", record.scores, SearchResult(ranks.astype(np.int64), measures, {}).scores())
    if set(record.chance) != {*(f"t2i_r{k}" for k in CUTOFFS), *measures} or not are_percentages(record.chance):
        yield "its chance is not its hit rates and measures in percent"
    if record.headline not in {*(f"R@{k}" for k in CUTOFFS), *measures}:
        yield f"its headline metric is {record.headline}, which it does not have"


def are_percentages(values: Mapping[str, float]) -> bool:
    """Return whether all numbers are percentages."""
    return all(0 <= value <= 100 for value in values.values())


def mismatches(what: str, stated: Mapping[str, float], computed: Mapping[str, float]) -> Iterator[str]:
    """Yield the first stated number that differs from the computed one, or the names that nothing computes."""
    wrong = [
        name for name in computed if not math.isclose(stated.get(name, math.nan), computed[name], rel_tol=1e-9, abs_tol=1e-9)
    ]
    if wrong:
        yield f"its {what} do not reproduce: {wrong[0]} is {stated.get(wrong[0])}, but its ranks give {computed[wrong[0]]}"
    elif set(stated) != set(computed):
        yield f"its {what} have the unknown names {sorted(set(stated) - set(computed))}"


_SCORE_CHECKS = {"images": rank_faults, "regions": grounding_faults, "texts": search_faults}
