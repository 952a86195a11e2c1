"""Edits of stored records that keep or renew their seal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.storage.seals import seal_folder
from tests.support.synthetic_records import reseal


def edit_record(folder: Path, change: Callable[[dict[str, object]], object], key: str | None = None) -> None:
    path = folder / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")
    reseal(folder) if key is None else seal_folder(folder, key)


def edit_queries(folder: Path, change: Callable[[dict[str, list[object]]], object]) -> None:
    columns = pq.read_table(folder / "queries.parquet").to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), folder / "queries.parquet")
    reseal(folder)
