"""What a record must hold to stand on a board: it agrees with itself, and with the others over the same captions."""

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
from harness.retrieval.dense_search import Searched
from harness.retrieval.grounding import grounding_scores
from harness.retrieval.metrics import DEPTH
from harness.retrieval.ranking import CUTOFFS, MISSED, chance, scores

TestSetDigests = tuple[str, str]
"""The digests of the images and of the texts of a test set."""
LARGEST = 1 << 53  # what a page can count to
LONGEST_TEXT, LONGEST_NOTE, MOST_ITEMS = 500, 4000, 1000
NOTES = {"notes", "command"}  # what may be as long as a sentence
SIZE_FIELDS, TASK_FIELDS = ("images", "captions", "documents"), ("task", "split", "sample")
LANGUAGE = re.compile("[A-Za-z][A-Za-z0-9_-]{0,34}")


class TestSetIndex:
    """The test sets of records that are there: whoever is measured over one has its queries, in its order."""

    __test__ = False  # not a class of tests

    def __init__(self) -> None:
        self.owners: dict[TestSetDigests, BoardRecord] = {}
        self.galleries: dict[str, BoardRecord] = {}
        self.sources: dict[tuple[str, TestSetDigests], set[TestSetDigests]] = {}
        self.whole: dict[tuple[str, str, int], str] = {}  # what is wrong with a layout of queries, once it was looked at
        self.chances: dict[str, dict[str, float]] = {}  # and what a random ranking of it is expected to have

    @classmethod
    def of(cls, found: Sequence[BoardRecord]) -> TestSetIndex:
        """Those of some records, our own first. Most of our own decide what the queries are, and else the first that came in."""
        made = cls()
        readable = [each for each in found if is_readable(each)]
        ours = {test_set_digests(each.record) for each in readable if not each.sender}
        votes: dict[TestSetDigests, Counter[tuple[str, ...]]] = {}
        for each in readable:
            if not each.sender:
                votes.setdefault(test_set_digests(each.record), Counter())[test_set_signature(each)] += 1
        for each in readable:
            pair = test_set_digests(each.record)
            if pair not in ours or (not each.sender and test_set_signature(each) == votes[pair].most_common(1)[0][0]):
                made.take(each)
        return made

    def take(self, found: BoardRecord) -> None:
        """Let a record that was found right stand for its test set, if none does yet."""
        pair = test_set_digests(found.record)
        self.owners.setdefault(pair, found)
        self.galleries.setdefault(pair[0], found)
        if not found.sender or self.owners[pair].sender:
            self.sources.setdefault((found.record.lang, pair), set()).add((found.record.source, found.record.kind))

    def faults(self, found: BoardRecord) -> Iterator[str]:
        """What is wrong with a record, the first thing first: later checks rely on earlier ones."""
        yield from value_faults(found)
        yield from card_faults(found.record)
        yield from self.faults_of_layout(found)
        yield from self.disagreements(found)
        yield from self.faults_of_chance(found)
        yield from SCORE_CHECKS[found.record.sought](found)

    def faults_of_layout(self, found: BoardRecord) -> Iterator[str]:
        """What is wrong with the ids of the queries, looked at once for all records that have the same."""
        key = (found.queries.layout, found.record.sought, found.record.images)
        if key not in self.whole:
            self.whole[key] = next(query_faults(found), "")
        if self.whole[key]:
            yield self.whole[key]

    def faults_of_chance(self, found: BoardRecord) -> Iterator[str]:
        """What is wrong with the chance of a record of images, which hangs on how many captions each image has."""
        if found.record.sought == "images":
            key = found.queries.layout
            if key not in self.chances:
                self.chances[key] = chance(BoardGallery.read(found.folder, found.record).owner, found.record.images)
            yield from mismatches("chance", found.record.chance, self.chances[key])

    def disagreements(self, found: BoardRecord) -> Iterator[str]:
        """Where a record and the owner of its test set say different things of it."""
        record, pair = found.record, test_set_digests(found.record)
        owner = self.owners.get(pair)
        if owner is not None:
            for name in (*SIZE_FIELDS, *(TASK_FIELDS if found.sender else ())):
                mine, theirs = getattr(record, name), getattr(owner.record, name)
                if mine != theirs:
                    yield f"its {name} is {mine!r}, but {theirs!r} in {owner.folder}, which is over the same captions by digest"
            if found.queries.layout != owner.queries.layout:
                yield f"its queries are not those of {owner.folder}, in their order, which is over the same captions by digest"
            known = self.sources.get((record.lang, pair))
            if found.sender and known and (record.source, record.kind) not in known:
                yield f"its captions are by {record.source!r} ({record.kind}), but by {sorted(known)[0]} in {owner.folder}"
            same = record.chance.keys() & owner.record.chance.keys()
            yield from mismatches(
                "chance", {name: record.chance[name] for name in same}, {n: owner.record.chance[n] for n in same}
            )
        elif (other := self.galleries.get(pair[0])) is not None:
            if found.sender and other.record.sample != record.sample:
                yield f"its sample is {record.sample}, but {other.record.sample} in {other.folder}, which has the same images"
            mine, theirs = (BoardGallery.read(each.folder, each.record) for each in (found, other))
            queried = record.sought == other.record.sought == "images"
            if mine.ids != theirs.ids or (queried and mine.image_ids != theirs.image_ids):
                yield f"its images are not those of {other.folder}, in their order, which has the same by digest"


def consistent_records(found: Iterable[BoardRecord], problems: list[str]) -> list[BoardRecord]:
    """The records, our own first, that agree with themselves and the others, each cell once; of the others, why not."""
    every, kept = list(found), dict[str, BoardRecord]()
    sets = TestSetIndex.of(every)
    for each in every:
        try:
            if fault := first_record_fault(sets, each):
                problems.append(f"{each.folder}: {fault}")
            elif (other := kept.setdefault(each.record.cell, each)) is not each and not same_ranks(each, other):
                problems.append(f"{each.folder} is of the same cell as {other.folder}, with other ranks")
        except HarnessError as error:
            problems.append(str(error))
    return list(kept.values())


def first_record_fault(sets: TestSetIndex, found: BoardRecord) -> str | None:
    """The first thing that is wrong with a record. Raises HarnessError if its queries cannot be read."""
    with explain_broken_queries(found.folder / QUERIES_FILE):
        return next(sets.faults(found), None)


def same_ranks(one: BoardRecord, other: BoardRecord) -> bool:
    """Whether two records have the same ranks of the same queries."""
    return one.queries.layout == other.queries.layout and np.array_equal(one.queries.ranks, other.queries.ranks)


def is_readable(found: BoardRecord) -> bool:
    """Whether a record's queries can be read."""
    try:
        return bool(found.queries.layout)
    except HarnessError:
        return False


def test_set_digests(record: Record) -> TestSetDigests:
    """What names a record's test set."""
    return record.images_digest, record.texts_digest


def test_set_signature(found: BoardRecord) -> tuple[str, ...]:
    """What all records over one test set have in common."""
    return found.queries.layout, *(str(getattr(found.record, name)) for name in SIZE_FIELDS)


def value_faults(found: BoardRecord) -> Iterator[str]:
    """What of a record's numbers no page could show, and of what others sent, which texts no honest record has."""
    for name, value in nested_values(found.record.model_dump(mode="json")):
        if isinstance(value, (int, float)) and not abs(value) <= LARGEST:
            yield f"its {name[:40]} is a number that no page can show"
        if found.sender:
            yield from text_faults(name, value)
    if not LANGUAGE.fullmatch(found.record.lang):
        yield f"its language is {found.record.lang[:40]!r}: expected a code, as de or zh-Hant"


def text_faults(name: str, value: Any) -> Iterator[str]:
    """What is wrong with a text, or with how many values there are."""
    most = (LONGEST_NOTE if name in NOTES else LONGEST_TEXT) if isinstance(value, str) else MOST_ITEMS
    if isinstance(value, (str, list, dict)) and len(value) > most:
        yield f"its {name[:40]} is {len(value):,} long: expected at most {most:,}"
    if isinstance(value, str) and any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") for letter in value):
        yield f"its {name[:40]} has a control or direction mark: {value[:40]!r}"


def nested_values(value: Any, name: str = "record") -> Iterator[tuple[str, Any]]:
    """Every value in a record, by the name that it has where it stands."""
    yield name, value
    if isinstance(value, dict):
        for key, of in value.items():
            yield name, key
            yield from nested_values(of, key)
    elif isinstance(value, list):
        for of in value:
            yield from nested_values(of, name)


def card_faults(record: Record) -> Iterator[str]:
    """What is wrong with what a record says of itself."""
    if not re.fullmatch("[0-9a-f]{64}", record.cell):
        yield "its cell is not a digest of 64 hexadecimal digits"
    if not all(re.fullmatch("[0-9A-Za-z]{1,64}", digest) for digest in test_set_digests(record)):
        yield "its digests of images and texts are none"
    if record.text_tower != expected_text_tower(record):
        yield f"its text tower is {record.text_tower!r}, but the tower's card says otherwise"
    if record.images < 1 or record.captions < 1 or (record.documents is not None and record.documents < 1):
        yield "it says that it is over nothing"


def expected_text_tower(record: Record) -> str:
    """What a record's cards say of its text tower."""
    return record.tower.config.objective if record.tower else TRANSLATE_TEST if record.translations else ENGLISH_TOWER


def query_faults(found: BoardRecord) -> Iterator[str]:
    """What is wrong with the ids of queries and images."""
    record, asking = found.record, image_queries(found.record)
    unit = record.unit
    table = read_columns(found.folder, record, "query", "image")
    queries, images = (np.array(table[name].to_pylist(), dtype=object) for name in ("query", "image"))
    if found.queries.captions != record.captions:
        yield f"its ranks are not {record.captions:,} of {unit} (t2i), then {asking:,} of images (i2t)"
    if bad := next((name for name in {*queries, *images} if is_bad_id(name)), None):
        yield f"it has the id {bad[:60]!r}, which has control marks or leads out of its folder"
    asked, of = queries[: record.captions], images[: record.captions]
    if not np.array_equal(queries[record.captions :], images[record.captions :]) or len(set(queries[record.captions :])) < asking:
        yield "its image queries are not each image of the gallery, once"
    if len(set(asked)) < record.captions:
        yield f"two of its {unit} have one id"
    if (set(of) != set(queries[record.captions :])) if asking else has_other_images(record, len(set(of))):
        yield f"its {unit} are not of the images of its gallery, each of which has one or more"


def has_other_images(record: Record, there: int) -> bool:
    """Whether captions that look for something else than images are of more or fewer images than there can be."""
    return there > record.images if record.sought == "regions" else there != record.images


def is_bad_id(name: str) -> bool:
    """Whether an id would do harm as a line or as a path."""
    leads_out = name.startswith("/") or ".." in re.split(r"[/\\]", name)
    return leads_out or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def image_queries(record: Record) -> int:
    """How many images are queries themselves: none where something else than images is looked for."""
    return record.images if record.sought == "images" else 0


def rank_faults(found: BoardRecord) -> Iterator[str]:
    """What is wrong with ranks of images and captions, or with the scores said to come of them."""
    record, ranks = found.record, found.queries.ranks.astype(np.int64)
    t2i, i2t = ranks[: record.captions], ranks[record.captions :]
    for side, values, most in (("t2i", t2i, record.images), ("i2t", i2t, record.captions)):
        if values.max() > most:
            yield f"its {side} ranks go from {values.min():,} to {values.max():,}, expected 1 to {most:,}"
    yield from mismatches("scores", record.scores, scores(Ranks(t2i, i2t)))


def grounding_faults(found: BoardRecord) -> Iterator[str]:
    """What is wrong with the ranks of phrases. Chance hangs on what no record holds."""
    record, pointed = found.record, found.queries.pointed
    assert pointed is not None, "a file without this column is refused when it is opened"
    yield from mismatches("scores", record.scores, grounding_scores(found.queries.ranks.astype(np.int64), pointed))
    if set(record.chance) != {f"t2i_r{k}" for k in CUTOFFS} or not are_percentages(record.chance):
        yield "its chance is not three hit rates in percent"


def search_faults(found: BoardRecord) -> Iterator[str]:
    """What is wrong with a record whose queries look for texts. What chance is hangs on the texts, which no record holds."""
    record, ranks = found.record, found.queries.ranks
    kept, most = ranks[ranks != MISSED], min(record.documents or 0, DEPTH)
    if len(kept) and kept.max() > most:
        yield f"its ranks go from {ranks.min():,} to {kept.max():,}, expected 1 to {most:,}"
    values = load_measures(found.folder)
    for name, of in values.items():
        if len(of) != record.captions or not ((of >= 0) & (of <= 100 + 1e-4)).all():
            yield f"its {name} is not a number from 0 to 100 for each of {record.captions:,} queries"
    yield from mismatches("scores", record.scores, Searched(ranks.astype(np.int64), values, {}).scores())
    if set(record.chance) != {*(f"t2i_r{k}" for k in CUTOFFS), *values} or not are_percentages(record.chance):
        yield "its chance is not its hit rates and measures in percent"
    if record.headline not in {*(f"R@{k}" for k in CUTOFFS), *values}:
        yield f"its headline is {record.headline}, which it does not measure"


def are_percentages(values: Mapping[str, float]) -> bool:
    """Whether all numbers are percentages."""
    return all(0 <= value <= 100 for value in values.values())


def mismatches(what: str, said: Mapping[str, float], true: Mapping[str, float]) -> Iterator[str]:
    """What is said and does not come out."""
    wrong = [name for name in true if not math.isclose(said.get(name, math.nan), true[name], rel_tol=1e-9, abs_tol=1e-9)]
    if wrong:
        yield f"its {what} do not reproduce: {wrong[0]} is {said.get(wrong[0])}, but its ranks give {true[wrong[0]]}"
    elif set(said) != set(true):
        yield f"its {what} name {sorted(set(said) - set(true))}, which nothing measures"


SCORE_CHECKS = {"images": rank_faults, "regions": grounding_faults, "texts": search_faults}
