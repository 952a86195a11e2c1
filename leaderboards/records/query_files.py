"""The queries of a record, read within bounds: what a file declares of itself is checked before anything is unpacked."""

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
from harness.storage.seals import SEAL_FILE, read_seal, read_sealed_bytes

if TYPE_CHECKING:
    from pyarrow import DataType, Schema, Table
    from pyarrow.parquet import FileMetaData, ParquetFile

MAX_FILE_BYTES = {RECORD_FILE: 1 << 20, QUERIES_FILE: 32 << 20}
MINIMUM_BYTES, BYTES_A_ROW, UNPACKED_A_ROW = 64 << 10, 256, 1024
"""A file of queries has at most so many bytes, packed and unpacked: the floor, and more for each row. An honest row has 30."""
MOST_ROW_GROUPS, MOST_COLUMNS = 100, 64
VALUES_A_CAPTION, MAX_FACET_VALUES, LONGEST_VALUE = 16, 64, 100
"""How many values of a facet a caption may have, how many different ones a board shows, and how long one may be."""
MAX_ID_BYTES, MOST_ROWS, MOST_TEXT = 300, 2_000_000, 256 << 20
"""How many bytes an id may have, how many rows there may be, and how many bytes of ids."""
ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
CODECS = {"UNCOMPRESSED", "SNAPPY"}
"""What snappy packs unpacks to 25 times its size at the most, and a text by dictionary stands there once: zstd, gzip and prefixes
have no such bound."""
TEXT_COLUMNS = ("direction", "query", "image")
QUERY_COLUMNS = (*TEXT_COLUMNS, "rank")
GROUNDED = (POINTED_COLUMN, "found")
GROUNDING_QUERY_COLUMNS = (*QUERY_COLUMNS, POINTED_COLUMN)


@dataclass(frozen=True)
class Queries:
    """What a board needs of a record's queries. layout: digest of direction, query and image of each, in order.

    captions: how many of them, the first, are captions; -1 where captions and images stand mixed.
    """

    layout: str
    captions: int
    ranks: npt.NDArray[np.int32]
    pointed: npt.NDArray[np.bool_] | None


def read_record_queries(folder: Path, record: Record) -> Queries:
    """All queries of a record. Raises HarnessError naming the file and what is wrong with it."""
    path = folder / QUERIES_FILE
    table = read_columns(folder, record, *(GROUNDING_QUERY_COLUMNS if record.sought == "regions" else QUERY_COLUMNS))
    with explain_broken_queries(path):
        if any(column.null_count for column in table.itercolumns()):
            missing = next(name for name in table.column_names if table[name].null_count)
            raise ValueError(f"a rank is missing, or its {missing}")
        text = caption_mask(table)
        captions = int(text.sum())
        numbers = table["rank"].to_numpy()
        if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= np.iinfo(np.int32).max:
            raise ValueError(f"its ranks go from {numbers.min():,} to {numbers.max():,}, expected 1 or more")
        pointed = table[POINTED_COLUMN].to_numpy() if POINTED_COLUMN in table.column_names else None
        ordered = captions if text[:captions].all() else -1
        return Queries(layout_digest(table), ordered, numbers.astype(np.int32), pointed)


def caption_mask(table: Table) -> npt.NDArray[np.bool_]:
    """Whether each query is a caption. Raises ValueError for one that is neither a caption nor an image."""
    words = table["direction"].to_numpy()
    text: npt.NDArray[np.bool_] = words == "t2i"
    if not (text | (words == "i2t")).all():
        raise ValueError("expected a direction, t2i or i2t, in every row")
    return text


def layout_digest(table: Table) -> str:
    """A digest of what each rank is of, whatever the file packs it by."""
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
    """Columns of a record's queries, texts by dictionary. Raises HarnessError for a file that goes beyond the bounds.

    record: says how many rows there must be, and which columns there may be.
    """
    path = bounded_file(folder / QUERIES_FILE)
    with explain_broken_queries(path), open_query_file(path, record, TEXT_COLUMNS) as file:
        table = file.read(columns=list(names), use_threads=False).select(names)
        check_lengths(table)
        return table


@contextmanager
def open_query_file(path: Path, record: Record | None, texts: Sequence[str]) -> Iterator[ParquetFile]:
    """A file of queries that declares nothing beyond the bounds. texts: columns that are read by dictionary, where it has them.

    Raises ValueError for a file that goes beyond them.
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
        there = {file.metadata.schema.column(place).path for place in range(file.metadata.num_columns)}
        # A run of one long text takes a few bytes in the file and fills the memory as a plain column.
        yield pq.ParquetFile(data, metadata=file.metadata, read_dictionary=[name for name in texts if name in there])


def check_bounds(folder: Path) -> None:
    """Raise HarnessError for a record whose files go beyond the bounds. Only then may a reader that knows none be given it."""
    for name in (RECORD_FILE, QUERIES_FILE):
        bounded_file(folder / name)
    if os.path.lexists(folder / SEAL_FILE):
        bounded_file(folder / SEAL_FILE)
    else:
        read_columns(folder, None, *TEXT_COLUMNS)  # `load_record` reads the queries of what is not sealed


def check_lengths(table: Table) -> None:
    """Raise ValueError if the ids in columns by dictionary are longer than ids are, one by one or together."""
    import pyarrow as pa
    import pyarrow.compute as pc

    together = 0
    for column in table.itercolumns():
        for chunk in column.chunks if pa.types.is_dictionary(column.type) else []:
            lengths = pc.binary_length(chunk.dictionary)
            if (longest := pc.max(lengths).as_py() or 0) > MAX_ID_BYTES:
                raise ValueError(f"it has an id of {longest:,} bytes: expected at most {MAX_ID_BYTES}")
            together += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    if together > MOST_TEXT:
        raise ValueError(f"its ids have {together:,} bytes: expected at most {MOST_TEXT:,}")


def bounded_file(path: Path) -> Path:
    """A file of a record that is a file, and of no more bytes than such files have. Raises HarnessError if it is not."""
    if path.is_symlink() or not path.is_file():
        raise HarnessError(f"{path} is not a file")
    size, most = path.stat().st_size, MAX_FILE_BYTES.get(path.name, MAX_FILE_BYTES[RECORD_FILE])
    if size > most:
        raise HarnessError(f"{path} has {size:,} bytes: a record's has at most {most:,}")
    return path


def file_faults(path: Path, of: FileMetaData, schema: Schema, record: Record | None) -> Iterator[str]:
    """What is wrong with what a file declares of itself, seen before any of it is unpacked."""
    images = record.images if record and record.sought == "images" else 0
    if record and of.num_rows != record.captions + images:
        yield f"it has {of.num_rows:,} ranks, expected {record.captions:,} of captions and {images:,} of images"
    yield from column_faults(schema, record)
    if of.num_rows > MOST_ROWS:
        yield f"it has {of.num_rows:,} rows: expected at most {MOST_ROWS:,}"
    if of.num_row_groups > MOST_ROW_GROUPS:
        yield f"it has {of.num_row_groups:,} row groups: expected at most {MOST_ROW_GROUPS}"
    if path.stat().st_size > MINIMUM_BYTES + BYTES_A_ROW * of.num_rows:
        yield f"it has {path.stat().st_size:,} bytes for {of.num_rows:,} ranks, which no honest one has"
    groups = [of.row_group(group) for group in range(of.num_row_groups)]
    if sum(group.num_rows for group in groups) != of.num_rows:
        yield "its row groups have another number of rows than it says"
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    unpacked = sum(chunk.total_uncompressed_size for chunk in chunks)
    if unpacked > MINIMUM_BYTES + UNPACKED_A_ROW * of.num_rows:
        yield f"it unpacks to {unpacked:,} bytes for {of.num_rows:,} ranks, which no honest one does"
    if other := {chunk.compression for chunk in chunks} - CODECS:
        yield f"it is packed by {', '.join(sorted(other))}: expected snappy, or nothing"
    if other := {encoding for chunk in chunks for encoding in chunk.encodings} - ENCODINGS:
        yield f"it is encoded by {', '.join(sorted(other))}: expected plain values, or a dictionary"
    for chunk in chunks:
        if chunk.num_values > of.num_rows * (VALUES_A_CAPTION if "." in chunk.path_in_schema else 1):
            yield f"its column {chunk.path_in_schema[:80]} has {chunk.num_values:,} values for {of.num_rows:,} ranks"


def column_faults(schema: Schema, record: Record | None) -> Iterator[str]:
    """What is wrong with the columns of a file."""
    names = schema.names
    if len(names) > MOST_COLUMNS or len(set(names)) < len(names):
        yield f"it has {len(names):,} columns, expected at most {MOST_COLUMNS}, each once"
    grounded = record.sought == "regions" if record else POINTED_COLUMN in names
    expected = (*QUERY_COLUMNS, *GROUNDED) if grounded else QUERY_COLUMNS
    beside = (FACET_PREFIX, MEASURE_PREFIX) if record is None or record.sought == "texts" else (FACET_PREFIX,)
    other = [name for name in names if name not in expected and not name.startswith(beside)]
    if other or any(name not in names for name in expected):
        shown = ", ".join(name[:40] for name in names[:10])
        yield f"it has the columns {shown}; expected {', '.join(expected)}, and none but facets beside them"
    elif wrong := next((name for name in names if not has_expected_type(name, schema.field(name).type)), None):
        kind = str(schema.field(wrong).type)
        yield f"its column {wrong[:40]} is of type {kind[:60]}: ranks must be whole numbers, and the other columns flat text"


def has_expected_type(name: str, kind: DataType) -> bool:
    """Whether a column's type is the one that such columns have."""
    from pyarrow import types

    if name == "rank":
        return bool(types.is_integer(kind))
    if name == POINTED_COLUMN:
        return bool(types.is_boolean(kind))
    if name.startswith(MEASURE_PREFIX):
        return bool(types.is_floating(kind))
    if name == "found":
        return bool(types.is_list(kind)) and bool(types.is_integer(kind.value_type))
    if name.startswith(FACET_PREFIX):
        return bool(types.is_list(kind)) and (is_text(kind.value_type) or bool(types.is_null(kind.value_type)))
    return is_text(kind)


def is_text(kind: DataType) -> bool:
    """Whether a type is text, plain or by dictionary."""
    from pyarrow import types

    value = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(value) or types.is_large_string(value))


@dataclass(frozen=True)
class FacetIndex:
    """A facet of captions, by its values: the captions that have each, as ascending indices."""

    captions: dict[str, Ints]

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]]) -> FacetIndex:
        """The facet of captions whose values are given."""
        found: dict[str, list[int]] = {}
        for place, values in enumerate(captions):
            for value in dict.fromkeys(values):
                found.setdefault(value, []).append(place)
        return cls({value: np.array(places, dtype=np.int64) for value, places in found.items()})


def read_facet(folder: Path, record: Record, name: str) -> FacetIndex | None:
    """A facet of a record's captions; None where it tells none. Raises HarnessError for one of more values than a board shows."""
    path, column = bounded_file(folder / QUERIES_FILE), FACET_PREFIX + name
    with explain_broken_queries(path), open_query_file(path, record, [f"{column}.list.element"]) as file:
        if column not in file.schema_arrow.names:
            return None
        values = file.read(columns=[column], use_threads=False)[column].combine_chunks().slice(0, record.captions)
        kinds = values.flatten().unique()
        if len(kinds) > MAX_FACET_VALUES:
            raise ValueError(f"its captions have {len(kinds):,} values of {name}: expected at most {MAX_FACET_VALUES}")
        if any(len(value or "") > LONGEST_VALUE for value in kinds.to_pylist()):
            raise ValueError(f"it has a value of {name} that is longer than {LONGEST_VALUE} letters")
        return FacetIndex.of([[value for value in several or () if value is not None] for several in values.to_pylist()])
