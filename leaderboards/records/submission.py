"""Records of others: checked one by one, then merged all at once or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.core.data import MEASURE_PREFIX
from harness.core.errors import HarnessError
from harness.leaderboards.board.publish import RESULTS
from harness.leaderboards.records.board_records import BoardRecord
from harness.leaderboards.records.checks import TestSetIndex, first_record_fault, same_ranks, test_set_digests
from harness.leaderboards.records.loading import SUBMISSION, find_records
from harness.leaderboards.records.query_files import (
    GROUNDING_QUERY_COLUMNS,
    QUERY_COLUMNS,
    caption_mask,
    check_bounds,
    read_columns,
)
from harness.records.files import (
    FACET_PREFIX,
    QUERIES_FILE,
    RECORD_FILE,
    explain_broken_queries,
    load_facets,
    load_measures,
    load_record,
    record_folders,
)
from harness.records.schema import Record
from harness.storage.seals import seal_folder
from harness.storage.store import new_folder

MOST_NAMED_FAULTS = 10
MOST_RECORDS = 10_000
NAME = re.compile(r"\w[\w. -]{0,79}")


def merge_submission(folder: Path, into: Path | None) -> str:
    """Merge the records below `folder` into `into`, by default this project's own, as a folder of the same name; say how many.

    Raises HarnessError, and merges nothing, if a record is not one, does not reproduce its scores from its ranks, does not agree
    with the records that are there over the same captions, or is there already with other ranks: each by its path, with the
    reason.
    """
    name = folder.resolve().name
    target = (into or RESULTS) / name
    if not folder.is_dir():
        raise HarnessError(f"{folder} is not a folder of records")
    if not NAME.fullmatch(name):
        raise HarnessError(f"{name!r} cannot be the name of a submission: rename it to letters, digits, and - or _ between them")
    if target.exists():
        raise HarnessError(f"{target} is there already: rename {folder}, so that its records get a folder of their own")
    paths = record_folders(folder)
    if not paths:
        raise HarnessError(f"{folder} holds no {RECORD_FILE} at any depth: nothing to merge")
    if len(paths) > MOST_RECORDS:
        raise HarnessError(f"{folder} holds {len(paths):,} records: send at most {MOST_RECORDS:,} at once")
    known = find_records([into or RESULTS], []) if (into or RESULTS).is_dir() else []
    new, sets = check_submission(paths, name, known)
    if new:
        with new_folder(target) as temporary:
            for found in new:
                write_record(temporary / found.record.cell, found, sets.owners.get(test_set_digests(found.record)))
            said = {"received": datetime.now(UTC).isoformat(timespec="microseconds"), "records": len(new)}
            (temporary / SUBMISSION).write_text(json.dumps(said) + "\n", encoding="utf-8")
            temporary.chmod(0o755)
    return f"{len(new):,} records merged into {target}, {len(paths) - len(new):,} were there already"


def check_submission(paths: Sequence[Path], sender: str, known: Sequence[BoardRecord]) -> tuple[list[BoardRecord], TestSetIndex]:
    """Those records that are not known, and the test sets of all. Raises HarnessError naming all that do not hold."""
    sets, there = TestSetIndex.of(known), {each.record.cell: each for each in known}
    new: list[BoardRecord] = []
    refused = []
    for path in paths:
        try:
            found = check_against(sets, path, sender)
            other = there.setdefault(found.record.cell, found)
            if other is found:
                new.append(found)
                sets.take(found)
            elif not same_ranks(found, other):
                raise HarnessError(f"{path} is of the same cell as {other.folder}, with other ranks: keep one of them")
        except HarnessError as error:
            refused.append(str(error))
    if refused:
        more = f"; and {len(refused) - MOST_NAMED_FAULTS:,} more" if len(refused) > MOST_NAMED_FAULTS else ""
        counts = f"{len(refused):,} of {len(paths):,} records refused, none merged"
        raise HarnessError(f"{counts}: {'; '.join(refused[:MOST_NAMED_FAULTS])}{more}")
    return new, sets


def check_record(folder: Path) -> Record:
    """A record that holds what it must and reproduces its scores. Raises HarnessError naming the folder and what is wrong."""
    return check_against(TestSetIndex(), folder, folder.name).record


def check_against(sets: TestSetIndex, folder: Path, sender: str) -> BoardRecord:
    """A record that agrees with itself and with test sets that are known. Raises HarnessError naming the folder of another."""
    check_bounds(folder)
    found = BoardRecord(folder, load_record(folder), sender)
    if fault := first_record_fault(sets, found):
        raise HarnessError(f"{folder}: {fault}")
    return found


def write_record(folder: Path, found: BoardRecord, owner: BoardRecord | None) -> None:
    """Write what was checked of a record, and nothing else that its files hold, with the facets of the owner of its test set.

    It gets a seal of its own.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    record = found.record
    names = [
        *(GROUNDING_QUERY_COLUMNS if record.sought == "regions" else QUERY_COLUMNS),
        *(MEASURE_PREFIX + name for name in query_measures(found)),
    ]
    table = read_columns(found.folder, record, *names)
    with explain_broken_queries(found.folder / QUERIES_FILE):
        images = int((~caption_mask(table)).sum())
        for name in QUERY_COLUMNS[:3]:
            place = table.column_names.index(name)
            table = table.set_column(place, name, table[name].cast(pa.string()))
        for name, values in (load_facets(owner.folder) if owner and not owner.sender else {}).items():
            table = table.append_column(FACET_PREFIX + name, pa.array([*values, *([()] * images)], pa.list_(pa.string())))
        folder.mkdir()
        (folder / RECORD_FILE).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        pq.write_table(table.replace_schema_metadata(None), folder / QUERIES_FILE)
        seal_folder(folder, record.cell)


def query_measures(found: BoardRecord) -> list[str]:
    """The measures that a record has of each query that looks for texts."""
    return list(load_measures(found.folder)) if found.record.sought == "texts" else []
