"""Submissions: records of others, checked one by one and merged all together or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.core.data import MEASURE_PREFIX
from harness.core.errors import HarnessError
from harness.leaderboards.records.board_records import BoardRecord
from harness.leaderboards.records.checks import TestSetIndex, digests_of_test_set, first_record_fault, same_ranks
from harness.leaderboards.records.loading import OWN_RESULTS, SUBMISSION, find_records
from harness.leaderboards.records.query_files import (
    GROUNDING_QUERY_COLUMNS,
    QUERY_COLUMNS,
    TEXT_COLUMNS,
    caption_mask,
    check_file_limits,
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

_MAX_RECORDS = 10_000
_MAX_FAULTS_SHOWN = 10
_NAME = re.compile(r"\w[\w. -]{0,79}")


def merge_submission(folder: Path, into: Path | None) -> str:
    """Merge the records below `folder` into `into`, as a folder of the same name, and return a line that says how many.

    into: the project's own results by default. Raises HarnessError, and merges nothing, if a record is invalid, does not
    reproduce its scores from its ranks, disagrees with existing records on the same test set, or exists with other ranks. The
    message names each such record with its fault.
    """
    name = folder.resolve().name
    results = into or OWN_RESULTS
    target = results / name
    if not folder.is_dir():
        raise HarnessError(f"{folder} is not a folder of records")
    if not _NAME.fullmatch(name):
        raise HarnessError(f"{name!r} cannot name a submission: rename the folder, with letters, digits, - and _")
    if target.exists():
        raise HarnessError(f"{target} exists already: rename {folder}, so that its records get a folder of their own")
    paths = record_folders(folder)
    if not paths:
        raise HarnessError(f"{folder} holds no {RECORD_FILE} at any depth: there is nothing to merge")
    if len(paths) > _MAX_RECORDS:
        raise HarnessError(f"{folder} holds {len(paths):,} records: submit at most {_MAX_RECORDS:,} at once")
    known = find_records([results], []) if results.is_dir() else []
    new, index = check_submission(paths, name, known)
    if new:
        with new_folder(target) as temporary:
            for found in new:
                write_record(temporary / found.record.cell, found, index.owners.get(digests_of_test_set(found.record)))
            submission = {"received": datetime.now(UTC).isoformat(timespec="microseconds"), "records": len(new)}
            (temporary / SUBMISSION).write_text(json.dumps(submission) + "\n", encoding="utf-8")
            temporary.chmod(0o755)
    return f"{len(new):,} records merged into {target}, {len(paths) - len(new):,} were there already"


def check_submission(paths: Sequence[Path], sender: str, known: Sequence[BoardRecord]) -> tuple[list[BoardRecord], TestSetIndex]:
    """Return the records that are not known yet, and the test sets of all. Raises HarnessError naming every invalid record."""
    index, existing = TestSetIndex.from_records(known), {each.record.cell: each for each in known}
    new: list[BoardRecord] = []
    refused = []
    for path in paths:
        try:
            found = check_against(index, path, sender)
            other = existing.setdefault(found.record.cell, found)
            if other is found:
                new.append(found)
                index.add(found)
            elif not same_ranks(found, other):
                refused.append(f"{path} is of the same cell as {other.folder}, with other ranks: keep one of them")
        except HarnessError as error:
            refused.append(str(error))
    if refused:
        more = f"; and {len(refused) - _MAX_FAULTS_SHOWN:,} more" if len(refused) > _MAX_FAULTS_SHOWN else ""
        counts = f"{len(refused):,} of {len(paths):,} records refused, none merged"
        raise HarnessError(f"{counts}: {'; '.join(refused[:_MAX_FAULTS_SHOWN])}{more}")
    return new, index


def check_record(folder: Path) -> Record:
    """Return a record that is valid and reproduces its scores. Raises HarnessError naming the folder and the fault."""
    return check_against(TestSetIndex(), folder, folder.name).record


def check_against(index: TestSetIndex, folder: Path, sender: str) -> BoardRecord:
    """Return a record that is consistent with itself and with known test sets. Raises HarnessError naming folder and fault."""
    check_file_limits(folder)
    found = BoardRecord(folder, load_record(folder), sender)
    if fault := first_record_fault(index, found):
        raise HarnessError(f"{folder}: {fault}")
    return found


def write_record(folder: Path, found: BoardRecord, owner: BoardRecord | None) -> None:
    """Write the checked part of a record, with a seal of its own, and nothing else that its files hold.

    The facets of its captions are those of `owner`, the record that stands for its test set.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    record = found.record
    columns = GROUNDING_QUERY_COLUMNS if record.sought == "regions" else QUERY_COLUMNS
    table = read_columns(found.folder, record, *columns, *(MEASURE_PREFIX + name for name in query_measures(found)))
    with explain_broken_queries(found.folder / QUERIES_FILE):
        images = int((~caption_mask(table)).sum())
        for name in TEXT_COLUMNS:
            place = table.column_names.index(name)
            table = table.set_column(place, name, table[name].cast(pa.string()))
        for name, values in (load_facets(owner.folder) if owner and not owner.sender else {}).items():
            table = table.append_column(FACET_PREFIX + name, pa.array([*values, *([()] * images)], pa.list_(pa.string())))
        folder.mkdir()
        (folder / RECORD_FILE).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        pq.write_table(table.replace_schema_metadata(None), folder / QUERIES_FILE)
        seal_folder(folder, record.cell)


def query_measures(found: BoardRecord) -> list[str]:
    """Return the names of the measures that a text-to-text record has for each query."""
    return list(load_measures(found.folder)) if found.record.sought == "texts" else []
