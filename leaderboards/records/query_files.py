"""The query files of records, read as untrusted files.

What a file declares about itself is checked against limits before any of it is decompressed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from harness.core.data import MEASURE_PREFIX, Ints
from harness.core.errors import HarnessError
from harness.records.files import FACET_PREFIX, POINTED_COLUMN, QUERIES_FILE, RECORD_FILE, explain_broken_queries
from harness.records.schema import Record
from harness.statistics.breakdown import captions_by_value
from harness.storage.seals import SEAL_FILE, read_seal, read_sealed_bytes

if TYPE_CHECKING:
    from pyarrow import DataType, Schema, Table
    from pyarrow.parquet import FileMetaData, ParquetFile

TEXT_COLUMNS = ("direction", "query", "image")
QUERY_COLUMNS = (*TEXT_COLUMNS, "rank")
GROUNDING_QUERY_COLUMNS = (*QUERY_COLUMNS, POINTED_COLUMN)
MAX_FACET_VALUES = 64  # that a board shows

_FOUND = "found"
_MAX_FILE_BYTES = {RECORD_FILE: 1 << 20, QUERIES_FILE: 32 << 20}
# The compressed and decompressed bytes of a query file: a base, and more for each row. An honest row has 30 compressed bytes.
_BASE_BYTES, _BYTES_PER_ROW, _DECOMPRESSED_BYTES_PER_ROW = 64 << 10, 256, 1024
_MAX_ROWS, _MAX_ROW_GROUPS, _MAX_COLUMNS = 2_000_000, 100, 64
_MAX_VALUES_PER_CAPTION, _MAX_VALUE_LENGTH = 16, 100  # of a facet
_MAX_ID_BYTES, _MAX_TOTAL_ID_BYTES = 300, 256 << 20
# Snappy compresses at most 25 times, and a dictionary holds each text once. Zstandard, gzip and prefixes have no such limit.
_ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
_CODECS = {"UNCOMPRESSED", "SNAPPY"}


@dataclass(frozen=True)
class Queries:
    """The part of a record's queries that a board needs.

    layout: digest of the direction, query and image of each rank, in order. captions: the number of caption queries, which come
    first; -1 if captions and images are mixed. pointed: in phrase grounding, whether each phrase's pointing game is a hit.
    """

    layout: str
    captions: int
    ranks: npt.NDArray[np.int32]
    pointed: npt.NDArray[np.bool_] | None


def read_record_queries(folder: Path, record: Record) -> Queries:
    """Read the queries of a record. Raises HarnessError naming the file and the fault."""
    path = folder / QUERIES_FILE
    table = read_columns(folder, record, *(GROUNDING_QUERY_COLUMNS if record.sought == "regions" else QUERY_COLUMNS))
    with explain_broken_queries(path):
        if any(column.null_count for column in table.itercolumns()):
            missing = next(name for name in table.column_names if table[name].null_count)
            raise ValueError(f"its column {missing} has a missing value")
        text = caption_mask(table)
        captions = int(text.sum())
        ranks = table["rank"].to_numpy()
        if len(ranks) and not 1 <= ranks.min() <= ranks.max() <= np.iinfo(np.int32).max:
            raise ValueError(f"its ranks go from {ranks.min():,} to {ranks.max():,}, expected 1 or more")
        pointed = table[POINTED_COLUMN].to_numpy() if POINTED_COLUMN in table.column_names else None
        ordered = captions if text[:captions].all() else -1
        return Queries(layout_digest(table), ordered, ranks.astype(np.int32), pointed)


def caption_mask(table: Table) -> npt.NDArray[np.bool_]:
    """Return whether each query is a caption. Raises ValueError for a direction other than t2i and i2t."""
    words = table["direction"].to_numpy()
    text: npt.NDArray[np.bool_] = words == "t2i"
    if not (text | (words == "i2t")).all():
        raise ValueError("expected a direction, t2i or i2t, in every row")
    return text


def layout_digest(table: Table) -> str:
    """Return a digest of the direction, query and image of each rank. It does not depend on the file's encoding."""
    import pyarrow as pa

    digest = hashlib.sha256()
    for name in TEXT_COLUMNS:
        array = pa.concat_arrays(table[name].cast(pa.string()).chunks or [pa.array([], pa.string())])
        _, offsets, letters = array.buffers()
        ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        digest.update(np.diff(ends).tobytes())
        digest.update(memoryview(letters or b"")[ends[0] : ends[-1]])
    return digest.hexdigest()


def read_columns(folder: Path, record: Record | None, *names: str) -> Table:
    """Read columns of a record's queries, text columns as dictionaries. Raises HarnessError if the file exceeds the limits.

    record: determines the expected number of rows and the allowed columns.
    """
    path = bounded_file(folder / QUERIES_FILE)
    with explain_broken_queries(path), open_query_file(path, record, TEXT_COLUMNS) as file:
        table = file.read(columns=list(names), use_threads=False).select(names)
        check_id_lengths(table)
        return table


@contextmanager
def open_query_file(path: Path, record: Record | None, texts: Sequence[str]) -> Iterator[ParquetFile]:
    """Open a query file whose declarations are within the limits. Raises ValueError if they are not.

    texts: columns that are read as dictionaries, if the file has them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data, limits = (
        pa.BufferReader(read_sealed_bytes(path.parent, path.name, read_seal(path.parent))),
        {"thrift_string_size_limit": 1 << 20, "thrift_container_size_limit": 100_000},
    )
    with pq.ParquetFile(data, **limits) as file:
        if fault := next(file_faults(path, file.metadata, file.schema_arrow, record), None):
            raise ValueError(fault)
        present = {file.metadata.schema.column(place).path for place in range(file.metadata.num_columns)}
        # A long text that repeats takes a few bytes in the file and, read as a plain column, fills the memory.
        yield pq.ParquetFile(data, metadata=file.metadata, read_dictionary=[name for name in texts if name in present])


def check_file_limits(folder: Path) -> None:
    """Raise HarnessError if a record's files exceed the limits. Readers without limits may only read files that pass."""
    for name in (RECORD_FILE, QUERIES_FILE):
        bounded_file(folder / name)
    if os.path.lexists(folder / SEAL_FILE):
        bounded_file(folder / SEAL_FILE)
    else:
        read_columns(folder, None, *TEXT_COLUMNS)  # because `load_record` reads the queries of a record without a seal


def check_id_lengths(table: Table) -> None:
    """Raise ValueError if an id in a dictionary column is too long, or all ids together are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    total = 0
    for column in table.itercolumns():
        for chunk in column.chunks if pa.types.is_dictionary(column.type) else []:
            lengths = pc.binary_length(chunk.dictionary)
            if (longest := pc.max(lengths).as_py() or 0) > _MAX_ID_BYTES:
                raise ValueError(f"it has an id of {longest:,} bytes: expected at most {_MAX_ID_BYTES}")
            total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    if total > _MAX_TOTAL_ID_BYTES:
        raise ValueError(f"its ids have {total:,} bytes: expected at most {_MAX_TOTAL_ID_BYTES:,}")


def bounded_file(path: Path) -> Path:
    """Return the path of a regular file within the size limit of its kind. Raises HarnessError for any other path."""
    if path.is_symlink() or not path.is_file():
        raise HarnessError(f"{path} is not a file")
    size, most = path.stat().st_size, _MAX_FILE_BYTES.get(path.name, _MAX_FILE_BYTES[RECORD_FILE])
    if size > most:
        raise HarnessError(f"{path} has {size:,} bytes: expected at most {most:,}")
    return path


def file_faults(path: Path, metadata: FileMetaData, schema: Schema, record: Record | None) -> Iterator[str]:
    """Yield the faults in what a file declares about itself, before any of it is decompressed."""
    images = record.images if record and record.sought == "images" else 0
    rows = metadata.num_rows
    if record and rows != record.captions + images:
        yield f"it has {rows:,} ranks, expected {record.captions:,} of captions and {images:,} of images"
    yield from column_faults(schema, record)
    if rows > _MAX_ROWS:
        yield f"it has {rows:,} rows: expected at most {_MAX_ROWS:,}"
    if metadata.num_row_groups > _MAX_ROW_GROUPS:
        yield f"it has {metadata.num_row_groups:,} row groups: expected at most {_MAX_ROW_GROUPS}"
    if path.stat().st_size > (most := _BASE_BYTES + _BYTES_PER_ROW * rows):
        yield f"it has {path.stat().st_size:,} bytes for {rows:,} ranks: expected at most {most:,}"
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    if (total := sum(group.num_rows for group in groups)) != rows:
        yield f"its row groups have {total:,} rows in all, expected {rows:,}"
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks)
    if size > (most := _BASE_BYTES + _DECOMPRESSED_BYTES_PER_ROW * rows):
        yield f"it decompresses to {size:,} bytes for {rows:,} ranks: expected at most {most:,}"
    if other := {chunk.compression for chunk in chunks} - _CODECS:
        yield f"it is compressed with {', '.join(sorted(other))}: expected Snappy or no compression"
    if other := {encoding for chunk in chunks for encoding in chunk.encodings} - _ENCODINGS:
        yield f"it is encoded with {', '.join(sorted(other))}: expected plain values or a dictionary"
    for chunk in chunks:
        if chunk.num_values > rows * (_MAX_VALUES_PER_CAPTION if "." in chunk.path_in_schema else 1):
            yield f"its column {chunk.path_in_schema[:80]} has {chunk.num_values:,} values for {rows:,} ranks"


def column_faults(schema: Schema, record: Record | None) -> Iterator[str]:
    """Yield the faults in the columns of a file."""
    names = schema.names
    if len(names) > _MAX_COLUMNS or len(set(names)) < len(names):
        yield f"it has {len(names):,} columns, expected at most {_MAX_COLUMNS}, each once"
    grounding = record.sought == "regions" if record else POINTED_COLUMN in names
    expected = (*QUERY_COLUMNS, POINTED_COLUMN, _FOUND) if grounding else QUERY_COLUMNS
    optional = (FACET_PREFIX, MEASURE_PREFIX) if record is None or record.sought == "texts" else (FACET_PREFIX,)
    other = [name for name in names if name not in expected and not name.startswith(optional)]
    if other or any(name not in names for name in expected):
        shown = ", ".join(name[:40] for name in names[:10])
        yield f"it has the columns {shown}; expected {', '.join(expected)}, and beside them only facets or measures"
    elif wrong := next((name for name in names if not has_expected_type(name, schema.field(name).type)), None):
        kind = str(schema.field(wrong).type)
        yield f"its column {wrong[:40]} is of type {kind[:60]}: ranks must be integers, and the other columns flat text"


def has_expected_type(name: str, kind: DataType) -> bool:
    """Return whether a column has the type that its name requires."""
    from pyarrow import types

    if name == "rank":
        return bool(types.is_integer(kind))
    if name == POINTED_COLUMN:
        return bool(types.is_boolean(kind))
    if name.startswith(MEASURE_PREFIX):
        return bool(types.is_floating(kind))
    if name == _FOUND:
        return bool(types.is_list(kind)) and bool(types.is_integer(kind.value_type))
    if name.startswith(FACET_PREFIX):
        return bool(types.is_list(kind)) and (is_text(kind.value_type) or bool(types.is_null(kind.value_type)))
    return is_text(kind)


def is_text(kind: DataType) -> bool:
    """Return whether a type is text, plain or as a dictionary."""
    from pyarrow import types

    value = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(value) or types.is_large_string(value))


def read_facet(folder: Path, record: Record, name: str) -> dict[str, Ints] | None:
    """Return a record's captions by the values of a facet, as ascending indices, or None if the record lacks the facet.

    Raises HarnessError if the facet has more values than a board shows, or one that is too long.
    """
    path, column = bounded_file(folder / QUERIES_FILE), FACET_PREFIX + name
    with explain_broken_queries(path), open_query_file(path, record, [f"{column}.list.element"]) as file:
        if column not in file.schema_arrow.names:
            return None
        values = file.read(columns=[column], use_threads=False)[column].combine_chunks().slice(0, record.captions)
        distinct = values.flatten().unique()
        if len(distinct) > MAX_FACET_VALUES:
            raise ValueError(f"its captions have {len(distinct):,} values of {name}: expected at most {MAX_FACET_VALUES}")
        if any(len(value or "") > _MAX_VALUE_LENGTH for value in distinct.to_pylist()):
            raise ValueError(f"it has a value of {name} with more than {_MAX_VALUE_LENGTH} characters")
        return captions_by_value([tuple(value for value in each or () if value is not None) for each in values.to_pylist()])
