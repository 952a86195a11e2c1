"""Write the files of a record, read them back, and check them against the seal and the ranks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from harness.core.data import MEASURE_PREFIX, Doubles, Ints, Ranks, Retrieval
from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.records.schema import SCHEMA_VERSION, Record, Version
from harness.retrieval.ranking import retrieval_scores
from harness.storage.seals import check_key, new_sealed_folder, read_seal, read_sealed_bytes, report_skipped
from harness.storage.store import TEMPORARY_PREFIX, DamagedError, explain_read_errors

if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

RECORD_FILE, QUERIES_FILE, CARD_FILE, SEEN_FILE = "record.json", "queries.parquet", "card.json", "seen.npy"
FACET_PREFIX = "facet:"  # prefix of the columns of facets
POINTED_COLUMN = "pointed"


def save_record(
    folder: Path,
    record: Record,
    retrieval: Retrieval,
    ranks: Ranks,
    columns: Mapping[str, npt.NDArray[np.generic]] | None = None,
) -> None:
    """Write `record.json` and `queries.parquet` (direction, query, image, rank, facets of the captions), both or neither.

    columns: further values of each query, (queries,), for records whose images are not queries.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    image_ids = np.array(retrieval.images.ids, dtype=object)
    owners = image_ids[retrieval.caption_images]
    image_ids = image_ids[: len(ranks.i2t)]  # empty where images are not queries
    table = pa.table(
        {
            "direction": ["t2i"] * len(ranks.t2i) + ["i2t"] * len(ranks.i2t),
            "query": [*retrieval.caption_ids, *image_ids],
            "image": [*owners, *image_ids],
            "rank": np.concatenate([ranks.t2i, ranks.i2t]).astype(np.int32),
        }
    )
    for name, values in retrieval.facets.items():
        column = pa.array([*values, *([()] * len(ranks.i2t))], pa.list_(pa.string()))
        table = table.append_column(f"facet:{name}", column)
    for name, rows in (columns or {}).items():
        table = table.append_column(name, pa.array(list(rows)))
    with new_sealed_folder(folder, record.cell) as temporary:
        (temporary / RECORD_FILE).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        pq.write_table(table, temporary / QUERIES_FILE)


_WAY_OUT = "measure it again, or copy it again from its source"


def load_record(folder: Path) -> Record:
    """Read a record from any folder.

    The seal shows whether the record is as it was written. A record of an earlier version has no seal, so its scores must follow
    from its ranks. Raises DamagedError if either fails, and HarnessError if it cannot be read or is of a newer version.
    """
    path = folder / RECORD_FILE
    found = read_seal(folder)
    try:
        data = read_sealed_bytes(folder, RECORD_FILE, found)
        version = Version.model_validate_json(data).schema_version
        if version > SCHEMA_VERSION:
            raise HarnessError(
                f"{path} was written by a newer version of this project (schema {version}; this one reads {SCHEMA_VERSION}): "
                "install that version to read it"
            )
        record = Record.model_validate_json(data)
    except ValidationError as error:
        what = f"{path} is not a record of this version: {short_message(error)}"
        # A sealed record with other fields was written by another version. It is not damaged and must not be removed.
        raise (HarnessError(what) if found else DamagedError(what, _WAY_OUT)) from error
    if found:
        check_key(folder, found.key, record.cell)
    else:
        ranks, _, measures = read_ranks(folder)
        check_scores(folder, record, ranks, measures)
    return record


def check_scores(folder: Path, record: Record, ranks: Ranks, measures: Mapping[str, Doubles]) -> None:
    """Raise DamagedError unless a record's scores follow from its ranks and measures."""
    from harness.retrieval.dense_search import SearchResult
    from harness.retrieval.grounding import grounding_scores

    sizes = record.captions, record.images if record.sought == "images" else 0
    if sizes != (len(ranks.t2i), len(ranks.i2t)):
        raise DamagedError(
            f"{folder} has {len(ranks.t2i):,} + {len(ranks.i2t):,} ranks, but its record says {sizes[0]:,} + {sizes[1]:,}",
            _WAY_OUT,
        )
    with explain_broken_queries(folder / QUERIES_FILE):
        if record.sought == "texts":
            true = SearchResult(ranks.t2i, measures, {}).scores()
        elif record.sought == "regions":
            true = grounding_scores(ranks.t2i, measures["pointing"] > 0)
        else:
            true = retrieval_scores(ranks)
    for name in sorted({*true, *record.scores}):
        stated, value = record.scores.get(name, math.nan), true.get(name, math.nan)
        if not math.isclose(stated, value, rel_tol=1e-9, abs_tol=1e-9):
            raise DamagedError(
                f"{folder}: its scores do not follow from its ranks: {name} is {stated}, but its ranks give {value}", _WAY_OUT
            )


def record_folders(folder: Path) -> list[Path]:
    """Return every folder below a folder that holds a record, sorted by path, except temporary ones.

    A folder that may not be read is named in a note. `Path.rglob` would skip it silently.
    """

    def refused(error: OSError) -> None:
        try:
            with suppress(FileNotFoundError), explain_read_errors(Path(error.filename)):
                raise error
        except HarnessError as explained:
            report_skipped(explained)

    found = []
    for place, folders, files in os.walk(folder, onerror=refused):
        folders[:] = [name for name in folders if not name.startswith(TEMPORARY_PREFIX)]
        if RECORD_FILE in files:
            found.append(Path(place))
    return sorted(found)


def check_stored_record(folder: Path) -> Record:
    """Return the record in a folder of the store. Raises DamagedError if it is damaged or of another cell than the folder's."""
    record = load_record(folder)
    check_key(folder, record.cell, folder.name)
    return record


def load_stored_record(folder: Path) -> Record | None:
    """Return the record in a folder of the store, None if there is no folder. Raises DamagedError as `check_stored_record`."""
    with explain_read_errors(folder):
        if not folder.is_dir():
            return None
    return check_stored_record(folder)


@contextmanager
def explain_broken_queries(path: Path) -> Iterator[None]:
    """Turn the errors that a broken file of queries causes into a DamagedError that names it."""
    import pyarrow as pa

    try:
        yield
    except MemoryError as error:
        raise HarnessError(f"{path} cannot be read: {short_message(error)}") from None
    except (OSError, KeyError, ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        raise DamagedError(f"{path} cannot be read: {short_message(error)}", _WAY_OUT) from None


@contextmanager
def open_queries(folder: Path) -> Iterator[ParquetFile]:
    """Open a record's queries. Raises DamagedError naming the file if it differs from the seal or cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Files this small are read fastest in one piece and by one thread.
    data = read_sealed_bytes(folder, QUERIES_FILE, read_seal(folder))
    with explain_broken_queries(folder / QUERIES_FILE), pq.ParquetFile(pa.BufferReader(data)) as file:
        yield file


def read_queries(folder: Path, *names: str) -> Table:
    """Return columns of a record's queries, all columns without names. Raises as `open_queries`, and if a column is missing."""
    with open_queries(folder) as file:
        return file.read(columns=list(names) or None, use_threads=False).select(names or file.schema_arrow.names)


def load_ranks(folder: Path) -> tuple[Ranks, Ints]:
    """Return the ranks of a record's queries, and the index of the image that each caption belongs to.

    Images are numbered in gallery order. Where images are not queries, they are numbered in order of occurrence. Raises
    HarnessError naming the file if its ranks cannot be read or do not give the record's scores.
    """
    record = load_record(folder)
    ranks, owner, measures = read_ranks(folder)
    check_scores(folder, record, ranks, measures)
    return ranks, owner


def read_ranks(folder: Path) -> tuple[Ranks, Ints, dict[str, Doubles]]:
    """Return ranks, image indices and measures of a record's queries, as `load_ranks` and `load_measures` return them."""
    with open_queries(folder) as file:
        measures = [name for name in file.schema_arrow.names if is_measure_column(name)]
        table = file.read(columns=["direction", "image", "rank", *measures], use_threads=False)
        direction = table["direction"].to_numpy(zero_copy_only=False)
        ranks = table["rank"].combine_chunks().to_numpy(zero_copy_only=False)
        if not np.issubdtype(ranks.dtype, np.integer) or (ranks < 1).any() or not set(direction) <= {"t2i", "i2t"}:
            raise ValueError("expected a direction (t2i or i2t) and a rank from 1 in every row")
        ranks = ranks.astype(np.int64)
        images = table["image"].to_pylist()
        text = direction == "t2i"
        queried = images if text.all() else table.filter(~text)["image"].to_pylist()
        gallery = {image: index for index, image in enumerate(dict.fromkeys(queried))}
        owner = np.array([gallery[image] for image, is_text in zip(images, text, strict=True) if is_text], dtype=np.int64)
        return Ranks(t2i=ranks[text], i2t=ranks[~text]), owner, measures_in_table(table.select(measures))


def load_facets(folder: Path) -> dict[str, list[tuple[str, ...]]]:
    """Return the values of each caption for each facet (`entity-type`, ...) of a record, empty where it has no facets.

    Captions are in the order of `load_ranks`. A caption may have several values or none.
    """
    table = read_queries(folder)
    with explain_broken_queries(folder / QUERIES_FILE):
        captions = table.filter(table["direction"].to_numpy(zero_copy_only=False) == "t2i")
        names = [name for name in captions.column_names if name.startswith(FACET_PREFIX)]
        return {name.removeprefix(FACET_PREFIX): [tuple(values or ()) for values in captions[name].to_pylist()] for name in names}


def load_found_boxes(folder: Path) -> Ints:
    """Return the first-ranked box (left, top, right, bottom) of each phrase of a grounding record, (phrases, 4)."""
    table = read_queries(folder, "found")
    with explain_broken_queries(folder / QUERIES_FILE):
        return np.array(table["found"].to_pylist(), dtype=np.int64).reshape(-1, 4)


def load_measures(folder: Path) -> dict[str, Doubles]:
    """Return the measures of each query in percent by name, (queries,), empty for image retrieval.

    They are the measures of text-to-text retrieval (`nDCG@10`), or, in grounding, whether a phrase points into a true box.
    """
    with open_queries(folder) as file:
        return measures_in_table(
            file.read(columns=[name for name in file.schema_arrow.names if is_measure_column(name)], use_threads=False)
        )


def is_measure_column(column: str) -> bool:
    """Return whether a column holds a measure of each query."""
    return column == POINTED_COLUMN or column.startswith(MEASURE_PREFIX)


def measures_in_table(table: Table) -> dict[str, Doubles]:
    """Return the columns of measures as `load_measures` returns them."""
    measures = {}
    for name in table.column_names:
        values = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
        measures["pointing" if name == POINTED_COLUMN else name.removeprefix(MEASURE_PREFIX)] = (
            100 * values if name == POINTED_COLUMN else values
        )
    return measures
