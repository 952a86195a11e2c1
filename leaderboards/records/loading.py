"""Loading of the records below folders: the project's own first, then those of submissions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.core.errors import HarnessError
from harness.leaderboards.records.board_records import BoardRecord
from harness.leaderboards.records.checks import consistent_records
from harness.leaderboards.records.query_files import bounded_file, check_file_limits
from harness.records.files import load_record, record_folders

OWN_RESULTS = Path(__file__).parents[1] / "results"
SUBMISSION = "submission.json"
"""Marks a folder of records that `leaderboard --add` merged. Such records never change what a board says of other records."""


def find_records(folders: Iterable[Path], problems: list[str] | None = None) -> list[BoardRecord]:
    """Return every record at any depth below the folders, each cell once.

    The project's own records come first, in order of path, then those of submissions, in the order of their merging.

    problems: receives a line for each record that is left out because it is damaged or inconsistent with itself or with others on
    the same test set. Without it, the first such record raises HarnessError. A missing folder always does.
    """
    faults: list[str] = []
    found: list[BoardRecord] = []
    for folder in folders:
        if not folder.is_dir():
            raise HarnessError(f"{folder} is not a folder of records: give one that holds record.json files, at any depth")
        found += readable_records(folder, faults)
    # The sort is stable.
    records = consistent_records(sorted(found, key=lambda each: (bool(each.sender), each.received, each.sender)), faults)
    if problems is None and faults:
        raise HarnessError(faults[0])
    if problems is not None:
        problems += faults
    return records


def readable_records(folder: Path, problems: list[str]) -> Iterator[BoardRecord]:
    """Yield every readable record below a folder in order of path. `problems` receives a line for each of the others."""
    for place in record_folders(folder):
        try:
            check_file_limits(place)
            yield BoardRecord(place, load_record(place), *submission_of(place))
        except HarnessError as error:
            problems.append(str(error))


def submission_of(folder: Path) -> tuple[str, str]:
    """Return the submission that a folder belongs to and the time of its merging. Both are empty for the project's own records.

    A submission whose file cannot be read still counts as one, with an empty time.
    """
    for place in (folder, *folder.parents):
        path = place / SUBMISSION
        if path.is_file():
            try:
                return place.name, str(json.loads(bounded_file(path).read_bytes())["received"])[:40]
            except (HarnessError, OSError, ValueError, TypeError, KeyError, RecursionError):
                return place.name, ""
    return "", ""
