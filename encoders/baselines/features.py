"""Precomputed embeddings, read from a table by id. They serve users who have embeddings but no weights.

Each row is an image or a caption: kind (`image` or `text`), id, lang (BCP-47; empty for images) and embedding (d,).
The table is a file in one of these formats:

    .parquet       columns kind, id, lang, embedding (a list of d numbers)
    .npz           arrays kind (n,), id (n,), lang (n,), embedding (n, d)
    .safetensors   tensor embedding (n, d); kind, id and lang as JSON lists in the file's metadata
    .npy           embedding (n, d), and FILE.tsv next to FILE.npy: one line per row, with kind, id and lang separated by tabs

Ids are the task's ids. For flickr30k they are `<image>` and `<image>#<number>`, with an image's captions counted from 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from harness.core.data import Floats
from harness.core.digests import digest_file, digest_strings
from harness.core.errors import HarnessError
from harness.storage.archives import check_zip, max_unpacked_bytes, unpacking_error

if TYPE_CHECKING:
    from PIL import Image
    from pyarrow import Table

KINDS = ("image", "text")
KEY_COLUMNS = ["kind", "id", "lang"]
_VALUE_BYTES = 4  # bytes of a number, or of a dictionary index, in an unpacked table
FeatureKey = tuple[str, str, str]


@dataclass(frozen=True)
class FeatureTable:
    """A table of n rows, as read from its file."""

    kind: Sequence[str]
    id: Sequence[str]
    lang: Sequence[str]
    embedding: Floats


class Features:
    """`features:FILE`: precomputed embeddings by id. FILE is .npy, .npz, .safetensors or .parquet."""

    def __init__(self, argument: str, device: str) -> None:  # noqa: ARG002
        self.path = Path(argument).expanduser()
        if self.path.suffix not in READERS:
            raise HarnessError(f"features:{argument}: expected a file in {', '.join(READERS)} (docs/encoders.md)")
        for file in self._files:
            if not file.is_file():
                raise HarnessError(f"features:{argument}: {file} is not there")
        self.name = f"features:{argument}"

    @property
    def _files(self) -> list[Path]:
        return [self.path, self.path.with_suffix(".tsv")] if self.path.suffix == ".npy" else [self.path]

    @cached_property
    def _digest(self) -> str:
        return digest_strings(["features 1", *map(digest_file, self._files)])

    def fingerprint(self) -> str:
        """Return a digest of the table's files."""
        return self._digest

    @cached_property
    def _table(self) -> tuple[Floats, Mapping[FeatureKey, int]]:
        """The matrix, and the row number of each key. Raises HarnessError if the table has another format."""
        try:
            columns = READERS[self.path.suffix](self.path)
            matrix = to_float32(columns.embedding)
        except HarnessError:
            raise
        except Exception as error:  # raised by numpy, safetensors, pyarrow or json
            raise self._wrong(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        sizes = {len(columns.kind), len(columns.id), len(columns.lang), len(columns.embedding)}
        if columns.embedding.ndim != 2 or len(sizes) > 1:
            raise self._wrong(f"embedding is {columns.embedding.shape} for {len(columns.id)} ids")
        if strange := set(columns.kind) - set(KINDS):
            raise self._wrong(f"kind {min(strange)[:40]!r} is neither image nor text")
        rows: dict[FeatureKey, int] = {}
        for number, key in enumerate(zip(columns.kind, map(task_id, columns.id), columns.lang, strict=True)):
            if rows.setdefault(key, number) != number:
                raise self._wrong(f"{' '.join(key)[:100]} occurs twice, in rows {rows[key]} and {number}")
        return matrix, rows

    def image_features(self, ids: Sequence[str]) -> Floats:
        """Return the rows of images, (n, d). Raises HarnessError that names the first missing id."""
        return self._rows([("image", task_id(name), "") for name in ids])

    def caption_features(self, ids: Sequence[str], lang: str) -> Floats:
        """Return the rows of a language's captions, (n, d). Raises HarnessError that names the first missing id."""
        return self._rows([("text", task_id(name), lang) for name in ids])

    def _rows(self, keys: Sequence[FeatureKey]) -> Floats:
        matrix, rows = self._table
        missing = [key for key in keys if key not in rows]
        if missing:
            kind, name, lang = missing[0]
            like = next((key[1] for key in rows if key[0] == kind and key[2] == lang), None)
            has = f"its {kind} ids look like {like[:40]!r}" if like else f"it has no {kind} of language {lang!r}"
            raise HarnessError(f"{self.path} lacks {len(missing):,} of {len(keys):,} {kind}s, first {name!r}: {has}")
        out: Floats = matrix[[rows[key] for key in keys]]
        return out

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Raise HarnessError, because there is no model."""
        self._refuse(f"{len(images)} images")

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:  # noqa: ARG002
        """Raise HarnessError, because there is no model."""
        self._refuse(f"{len(texts)} texts")

    def _refuse(self, what: str) -> NoReturn:
        raise HarnessError(f"{self.name} holds embeddings by id and cannot encode {what}: distillation needs a model")

    def _wrong(self, problem: str) -> HarnessError:
        return HarnessError(f"{self.path}: {problem}; expected kind, id, lang and embedding for each row (docs/encoders.md)")


def to_float32(matrix: Floats) -> Floats:
    """Return a matrix in float32.

    numpy has no bfloat16 and writes it as raw values of two bytes. Such values are read as bfloat16.
    Raises ValueError for 16-bit integers, because they are more often half precision with a lost type than embeddings.

    >>> to_float32(np.array([[0x3F80, 0xC000]], dtype=np.uint16).view("V2"))
    array([[ 1., -2.]], dtype=float32)
    """
    if matrix.dtype == np.dtype("V2"):
        upper: Floats = (np.ascontiguousarray(matrix).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return upper
    if matrix.dtype in (np.uint16, np.int16):
        raise ValueError(f"embedding is {matrix.dtype}, which may be the bits of half precision: write it as float32")
    return np.asarray(matrix, dtype=np.float32)


def task_id(name: str) -> str:
    """Return an id in the task's form, without `.jpg`, which feature files often keep.

    >>> task_id("1000092795.jpg"), task_id("1000092795.jpg#2"), task_id("1000092795#2")
    ('1000092795', '1000092795#2', '1000092795#2')
    """
    return name.replace(".jpg", "", 1)


def read_parquet(path: Path) -> FeatureTable:
    """Read a Parquet file with the columns of a `FeatureTable`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_parquet(path)
    table = pq.read_table(path, columns=[*KEY_COLUMNS, "embedding"], read_dictionary=KEY_COLUMNS)
    vectors = table["embedding"].combine_chunks()
    vectors = vectors if not isinstance(vectors, pa.ChunkedArray) else pa.concat_arrays(vectors.chunks)
    widths = {len(vector) for vector in vectors}
    if len(widths) > 1:
        raise ValueError(f"embeddings of {min(widths)} and of {max(widths)} numbers")
    matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
    check_words(path, table)
    kind, name, lang = (["" if word is None else str(word) for word in table[key].to_pylist()] for key in KEY_COLUMNS)
    return FeatureTable(kind, name, lang, matrix)


def check_parquet(path: Path) -> None:
    """Raise HarnessError if a Parquet file declares an unpacked size of more than `max_unpacked_bytes` of its size.

    The check also counts values, because a file stores repeated values once, whatever their number.
    """
    import pyarrow.parquet as pq

    said = pq.ParquetFile(path).metadata
    chunks = [said.row_group(group).column(column) for group in range(said.num_row_groups) for column in range(said.num_columns)]
    wanted = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in (*KEY_COLUMNS, "embedding")]
    unpacked = sum(max(chunk.total_uncompressed_size, _VALUE_BYTES * chunk.num_values) for chunk in wanted)
    if unpacked > max_unpacked_bytes(path.stat().st_size):
        raise unpacking_error(path, f"{unpacked:,} bytes in {path.stat().st_size:,}")


def check_words(path: Path, table: Table) -> None:
    """Raise HarnessError if a table's dictionary-encoded strings unpack to more than `max_unpacked_bytes` of the file's size."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # Columns without a dictionary are skipped: ids may be numbers, and all languages may be null.
    chunks = [chunk for key in KEY_COLUMNS for chunk in table[key].chunks if isinstance(chunk, pa.DictionaryArray)]
    sizes = [pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0 for chunk in chunks]
    if sum(sizes) > max_unpacked_bytes(path.stat().st_size):
        raise unpacking_error(path, f"{sum(sizes):,} bytes of words in {path.stat().st_size:,}")


def read_npz(path: Path) -> FeatureTable:
    """Read an .npz file with the arrays of a `FeatureTable`."""
    check_zip(path)
    with np.load(path, allow_pickle=False) as arrays:
        kind, name, lang = ([str(word) for word in arrays[key]] for key in ("kind", "id", "lang"))
        return FeatureTable(kind, name, lang, arrays["embedding"])


def read_safetensors(path: Path) -> FeatureTable:
    """Read a safetensors file with one tensor, and three lists in its metadata."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        lists = file.metadata() or {}
        kind, name, lang = ([str(word) for word in json.loads(lists[key])] for key in ("kind", "id", "lang"))
    return FeatureTable(kind, name, lang, read_tensor(path))


def read_tensor(path: Path) -> Floats:
    """Read the tensor by torch, because numpy has no bfloat16."""
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensor = file.get_tensor("embedding")
    matrix: Floats = (tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return matrix


def read_npy(path: Path) -> FeatureTable:
    """Read an .npy file with one array, and the `.tsv` file next to it."""
    lines = path.with_suffix(".tsv").read_text(encoding="utf-8").splitlines()
    fields = [(*line.split("\t"), "")[:3] for line in lines]
    kind, name, lang = ([field[place] for field in fields] for place in range(3))
    return FeatureTable(kind, name, lang, np.load(path, allow_pickle=False))


READERS: dict[str, Callable[[Path], FeatureTable]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".parquet": read_parquet,
}
