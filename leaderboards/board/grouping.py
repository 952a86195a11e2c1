"""Records grouped into boards, into parts with one test set for each language, and into rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from harness.leaderboards.board.config import BoardConfig
from harness.leaderboards.board.model import BoardTower
from harness.leaderboards.records.board_records import BoardGallery, BoardRecord, TestSet
from harness.leaderboards.records.checks import same_ranks
from harness.leaderboards.rendering import sanitize_line
from harness.records.schema import Record

_SMALLEST_SHARE = 0.95  # of a gallery's images, which a smaller gallery must have to share its board


def belongs_to_board(record: Record, config: BoardConfig) -> bool:
    """Return whether a record fills one of the board's cells."""
    if not matches_config(record, config):
        return False
    if config.languages is None:
        return record.lang != "en"
    return record.lang in config.languages and not is_english_ceiling(record, config)


def is_english_ceiling(record: Record, config: BoardConfig) -> bool:
    """Return whether a record is an English tower's on the English captions behind translations."""
    english = record.lang == "en" and record.tower is None and record.is_english_side
    return english and matches_config(record, config)


def matches_config(record: Record, config: BoardConfig) -> bool:
    """Return whether a record has the board's task, split and metric.

    A gallery of one image does not match: it has no ranking and no interval.
    """
    same = (record.task, record.split, record.sample) == (config.task, config.split, config.sample)
    sought = {"texts": ("texts",), "i2t": ("images",), "t2i": ("images", "regions")}[config.direction]
    scored = config.key in record.scores and config.key in record.chance
    return same and record.images > 1 and record.sought in sought and scored


def group_galleries(galleries: Sequence[tuple[str, BoardGallery]], own: Collection[str] | None = None) -> list[list[str]]:
    """Return the digests of the galleries that share a board: the same images, or at least 95 % of a larger gallery's images.

    A source that lacks a caption leaves its language one image short. That language stays on the board, its column says so, and
    nothing is ranked across columns. Another subset of the images gets a board of its own.

    galleries: (digest, gallery) of each. own: digests of the galleries of the project's own records, all by default. A gallery
    that only submissions have never takes in one of these.

    >>> import numpy as np
    >>> ids = ("abcdefghijklmnopqrst", "abcdefghijklmnopqrs", "tu")
    >>> full, short, other = (BoardGallery(tuple(each), np.arange(0)) for each in ids)
    >>> group_galleries([("short", short), ("full", full), ("other", other)])
    [['full', 'short'], ['other']]
    >>> group_galleries([("short", short), ("full", full)], own={"short"})
    [['short'], ['full']]
    """
    largest: list[tuple[BoardGallery, list[str]]] = []
    ours = {digest for digest, _ in galleries} if own is None else own
    for digest, gallery in sorted(galleries, key=lambda item: (item[0] not in ours, -len(item[1].image_ids), item[0])):
        for head, members in largest:
            if gallery.ids < head.ids and len(gallery.ids) >= _SMALLEST_SHARE * len(head.ids):
                members.append(digest)
                break
        else:
            largest.append((gallery, [digest]))
    return [members for _, members in largest]


def split_by_test_set(records: Iterable[BoardRecord]) -> list[list[BoardRecord]]:
    """Split records into parts with one test set for each language. The first part has the test sets that most towers have.

    Languages and captions that only submissions have come in parts after those of the project's own records, so that none of the
    project's own rows lacks them.
    """
    by_language: defaultdict[str, defaultdict[TestSet, list[BoardRecord]]] = defaultdict(lambda: defaultdict(list))
    for each in records:
        by_language[each.record.lang][TestSet.from_record(each.record)].append(each)
    ours = {
        lang: [test_set for test_set, members in sets.items() if any(not each.sender for each in members)]
        for lang, sets in by_language.items()
    }
    parts: defaultdict[int, list[BoardRecord]] = defaultdict(list)
    for lang, sets in by_language.items():
        towers = {test_set: len({BoardTower.from_record(each.record) for each in members}) for test_set, members in sets.items()}
        ordered = sorted(sets, key=lambda each: (-towers[each], each.source, each.kind, each.texts_digest))
        own = [test_set for test_set in ordered if test_set in ours[lang]]
        others = [test_set for test_set in ordered if test_set not in ours[lang]]
        for place, test_set in [*enumerate(own), *enumerate(others, start=max(map(len, ours.values())))]:
            parts[place] += sets[test_set]
    return [parts[place] for place in sorted(parts)]


@dataclass(frozen=True)
class RowConflict:
    """A record whose ranks differ from those of an earlier row.

    tower: the earlier row. disputed, earlier: the later record, and the earlier row's record of the same language and seed.
    """

    tower: BoardTower
    disputed: BoardRecord
    earlier: BoardRecord


class RowAssignment:
    """Records assigned to rows, the project's own first.

    If two records have the same recipe and seed but other ranks, both are shown, the second in a row of its own. Dates do not
    decide between them.
    """

    def __init__(self, records: Sequence[BoardRecord]) -> None:
        self.notes: list[str] = []
        ordered = sorted(records, key=lambda each: bool(each.sender))
        self._names = {each.record.encoder_fingerprint: sanitize_line(each.record.encoder) for each in reversed(ordered)}
        self._rows: dict[tuple[BoardTower, str], dict[int, BoardRecord]] = {}
        self._first: dict[tuple[BoardTower, str, int], tuple[BoardTower, BoardRecord]] = {}
        self._conflicts: defaultdict[BoardTower, list[RowConflict]] = defaultdict(list)
        for each in ordered:
            self._assign(each)

    def records(self) -> dict[tuple[BoardTower, str], dict[int, BoardRecord]]:
        """Return the records by seed, for each row and language."""
        return {(self._final(tower), lang): seeds for (tower, lang), seeds in self._rows.items()}

    def conflicts(self) -> dict[BoardTower, list[RowConflict]]:
        """Return the conflicts of each disputed row."""
        return {
            self._final(tower): [replace(each, tower=self._final(each.tower)) for each in conflicts]
            for tower, conflicts in self._conflicts.items()
        }

    def _final(self, tower: BoardTower) -> BoardTower:
        return replace(tower, disputed=tower in self._conflicts)

    def _assign(self, found: BoardRecord) -> None:
        """Assign a record to the first row of its recipe and sender that has no record of its seed."""
        record = found.record
        recipe = replace(BoardTower.from_record(record), encoder=self._names[record.encoder_fingerprint])
        seed = record.tower.config.seed if record.tower else 0
        tower = replace(recipe, sender=sanitize_line(found.sender))
        while (other := self._rows.setdefault((tower, record.lang), {}).setdefault(seed, found)) is not found:
            if same_ranks(other, found):
                self.notes.append(
                    f"{tower.encoder}, {tower.method}, {record.lang}: seed {seed} was measured twice, with the same ranks"
                )
                return
            tower = replace(tower, repeat=tower.repeat + 1)
        first, earlier = self._first.setdefault((recipe, record.lang, seed), (tower, found))
        if first != tower and not same_ranks(found, earlier):
            self._conflicts[tower].append(RowConflict(first, found, earlier))
