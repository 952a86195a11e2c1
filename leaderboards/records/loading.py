"""The records below some folders: our own first, then those of submissions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.core.errors import HarnessError
from harness.leaderboards.records.board_records import BoardRecord
from harness.leaderboards.records.query_files import bounded_file, check_bounds
from harness.records.files import load_record, record_folders

SUBMISSION = "submission.json"
"""Lies in a folder of records that `leaderboard --add` merged. Such records never decide what a board says of others."""


def find_records(folders: Iterable[Path], problems: list[str] | None = None) -> list[BoardRecord]:
    """Every record anywhere below the folders, each cell once: our own in order of path, then those of others as they came in.

    problems: gets a line for each record that is left out because it is damaged, or does not agree with itself or with the others
    over its captions. Without it, the first such record raises HarnessError, as a folder that is not there always does.
    """
    from harness.leaderboards.records.checks import consistent_records

    said: list[str] = []
    found: list[BoardRecord] = []
    for folder in folders:
        if not folder.is_dir():
            raise HarnessError(f"{folder} is not a folder of records: give one that holds record.json files, at any depth")
        found += readable_records(folder, said)
    # A sort keeps the order of those that are alike.
    kept = consistent_records(sorted(found, key=lambda each: (bool(each.sender), each.received, each.sender)), said)
    if problems is None and said:
        raise HarnessError(said[0])
    if problems is not None:
        problems += said
    return kept


def readable_records(folder: Path, problems: list[str]) -> Iterator[BoardRecord]:
    """Every record below a folder that can be read, in order of path; of the others, why not."""
    for place in record_folders(folder):
        try:
            check_bounds(place)
            yield BoardRecord(place, load_record(place), *submission_of(place))
        except HarnessError as error:
            problems.append(str(error))


def submission_of(folder: Path) -> tuple[str, str]:
    """The submission that a folder belongs to, and when that was merged; nothing for one of our own.

    What cannot be read marks a submission all the same.
    """
    for place in (folder, *folder.parents):
        path = place / SUBMISSION
        if path.is_file():
            try:
                return place.name, str(json.loads(bounded_file(path).read_bytes())["received"])[:40]
            except (HarnessError, OSError, ValueError, TypeError, KeyError, RecursionError):
                return place.name, ""
    return "", ""
