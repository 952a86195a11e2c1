"""What was measured, by what, on what: the schema of a record and of a tower's card, and where they lie."""

from __future__ import annotations

import io
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import harness
from harness.api import HarnessError, Ints, Retrieval
from harness.config import DistillConfig, first_line
from harness.ranking import Ranks, scores
from harness.seals import DamagedError, check_key, check_seal, read_seal, say_left_out, seal, sealed_bytes
from harness.store import NEW, Store, may_read, new_folder

if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

Doubles: TypeAlias = "npt.NDArray[np.float64]"

PACKAGES = ("numba", "numpy", "open_clip_torch", "pillow", "safetensors", "tokenizers", "torch", "torchvision", "transformers")
RECORD, QUERIES, CARD, SEEN = "record.json", "queries.parquet", "card.json", "seen.npy"
SCHEMA_VERSION = 1
FACET = "facet:"  # begins the name of a column of facets
MEASURE = "measure:"  # and of a measure of each query, in percent
POINTED = "pointed"

Sought = Literal["images", "regions", "texts"]


class Schema(BaseModel):
    """A typed piece of a record."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(BaseModel):
    """What of a record can be read whatever else has changed in it."""

    schema_version: int = 1


class Provenance(Schema):
    """Which code made a number, where and when."""

    version: str = Field(description="version of this harness")
    commit: str | None = Field(description="its commit, where it ran from a checkout")
    dirty: bool | None = Field(description="whether that checkout had uncommitted changes")
    python: str
    platform: str
    packages: dict[str, str] = Field(description="versions of the libraries that touch a number")
    device: str
    created: str = Field(description="UTC, ISO 8601")
    command: str = Field(description="the command line that asked for it")


class BitextCard(Schema):
    """The sentence pairs a tower was distilled from."""

    lang: str
    source: str
    kind: str = Field(description="how the translations came to be")
    offered: int = Field(description="pairs in the source")
    dropped: int = Field(description="pairs that the leakage guard left out")
    used: int = Field(description="pairs distilled from, those held out for validation among them")
    digest: str = Field(description="digest of the pairs used, in order")
    notes: tuple[str, ...] = ()


class Trial(Schema):
    """One learning rate that was tried."""

    learning_rate: float
    score: float = Field(
        description="of translations among pairs held out, or of val images: mean reciprocal rank, both directions, in percent"
    )


class TowerCard(Schema):
    """Everything that made a distilled tower."""

    digest: str = Field(description="of all that decides its weights; its name in the store")
    lang: str
    config: DistillConfig
    teacher: str
    teacher_fingerprint: str
    bitext: BitextCard
    steps: int
    losses: tuple[float, ...] = Field(description="mean losses over equal stretches of the steps, 100 at most")
    validations: tuple[tuple[int, float], ...] = Field((), description="step and score of each validation on the pairs held out")
    unconverged: int = Field(0, description="transport problems, of all steps, that had not converged")
    tuning: tuple[Trial, ...] = Field((), description="how the learning rate was chosen, if it was")
    seconds: float = Field(description="training time")
    provenance: Provenance

    @property
    def asked(self) -> DistillConfig:
        """The options as they were chosen: a rate that was tuned is found, and may differ between seeds of one recipe."""
        default = DistillConfig.model_fields["learning_rate"].default
        return self.config.model_copy(update={"learning_rate": default}) if self.tuning else self.config


class TranslationCard(Schema):
    """The English that was read instead of the captions."""

    by: Literal["file", "translator"]
    source: str = Field(description="name of that file or translator")
    digest: str = Field(description="of the translations, in the order of the captions")


class RegionCard(Schema):
    """The regions of the images, where a score hangs on them."""

    source: str = Field(description="`boxes` that people drew or `proposals` of a detector")
    view: str = Field(description="how a region is shown to the encoder")
    count: int = Field(description="regions of all images of the split")
    digest: str


class Record(Schema):
    """One cell, measured. Holds ids and digests, never a caption or a picture, so that it can be published."""

    schema_version: int = SCHEMA_VERSION
    cell: str = Field(description="digest of all that decides the scores; its name in the store")
    task: str
    task_version: str
    lang: str
    split: str
    source: str = Field(description="caption source")
    kind: str = Field(description="how the captions came to be")
    sample: bool = Field(description="the embedded sample: says nothing about Flickr30k")
    images: int = Field(description="images in the gallery; where texts are looked for, what the queries belong to")
    captions: int = Field(description="captions ranked against it")
    documents: int | None = Field(None, description="texts in the gallery, where texts are looked for")
    headline: str = Field("R@1", description="the measure that towers are compared by")
    images_digest: str
    texts_digest: str
    encoder: str
    encoder_fingerprint: str
    text_tower: str = Field(
        description="`english` for the encoder's own, `translate-test` for the same on translations, else the objective"
    )
    tower: TowerCard | None = Field(description="how the text tower was made, if it was distilled")
    translations: TranslationCard | None = Field(None, description="what the English tower read instead of the captions")
    scorer: str = Field("plain", description="how the gallery is ranked: the cosine of embeddings, or another of `list scorers`")
    regions: RegionCard | None = None
    scores: dict[str, float] = Field(description="hit rates and measures in percent, median ranks, mean of the six hit rates")
    chance: dict[str, float] = Field(description="what a random ranking is expected to have, in percent")
    notes: tuple[str, ...] = ()
    provenance: Provenance

    @property
    def sought(self) -> Sought:
        """What its queries look for."""
        return "texts" if self.documents is not None else "regions" if "pointing" in self.scores else "images"


def provenance(device: str) -> Provenance:
    """Where and by what this process runs."""
    commit, dirty = checkout_state(Path(harness.__file__).resolve().parent)
    return Provenance(
        version=harness.__version__,
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages=installed_packages(),
        device=device,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
    )


@cache
def installed_packages() -> dict[str, str]:
    """Versions of the libraries that a result may hang on."""
    installed = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def command_line() -> str:
    """The command that this process was started by."""
    return shlex.join(["python", "-m", "harness", *sys.argv[1:]])


@cache
def checkout_state(folder: Path) -> tuple[str | None, bool | None]:
    """Commit and dirtiness of the checkout that tracks this package; (None, None) outside one.

    Asked once a process: what runs is the code that was there when it started.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

    try:
        # A copy in somebody else's repository (site-packages in a tracked folder) must not borrow its commit.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def save_record(
    folder: Path,
    record: Record,
    retrieval: Retrieval,
    ranks: Ranks,
    columns: Mapping[str, npt.NDArray[np.generic]] | None = None,
) -> None:
    """Write `record.json` and `queries.parquet` (direction, query, image, rank, facets of the captions): both or neither.

    columns: more of each query, (queries,), where images are no queries.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    image_ids = np.array(retrieval.images.ids, dtype=object)
    owners = image_ids[retrieval.caption_images]
    image_ids = image_ids[: len(ranks.i2t)]  # none where images do not look for captions
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
    with new_folder(folder) as temporary:
        (temporary / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        pq.write_table(table, temporary / QUERIES)
        seal(temporary, record.cell)


AGAIN = "measure it again, or take it anew from where it came from"


def load_record(folder: Path) -> Record:
    """Read a record back, wherever its folder lies.

    Of a sealed one it is certain that it is what was written. One of an earlier version has no seal: its scores must follow from
    its ranks. Raises DamagedError if that is not so, and HarnessError if it cannot be read or is of a newer version.
    """
    path = folder / RECORD
    found = read_seal(folder)
    try:
        data = sealed_bytes(folder, RECORD, found)
        version = Version.model_validate_json(data).schema_version
        if version > SCHEMA_VERSION:
            raise HarnessError(
                f"{path} was written by a newer version of this project (schema {version}; this one reads {SCHEMA_VERSION}): "
                "install that version to read it"
            )
        record = Record.model_validate_json(data)
    except ValidationError as error:
        what = f"{path} is not a record of this version: {first_line(error)}"
        # What is sealed is as it was written, by a version that has other fields: it is not thrown away.
        raise (HarnessError(what) if found else DamagedError(what, AGAIN)) from error
    if found:
        check_key(folder, found.key, record.cell)
    else:
        ranks, _, measures = read_ranks(folder)
        check_scores(folder, record, ranks, measures)
    return record


def check_scores(folder: Path, record: Record, ranks: Ranks, measures: Mapping[str, Doubles]) -> None:
    """Raise DamagedError unless a record's scores follow from its ranks and measures."""
    from harness.grounding import grounding_scores
    from harness.search import Searched

    sizes = record.captions, record.images if record.sought == "images" else 0
    if sizes != (len(ranks.t2i), len(ranks.i2t)):
        raise DamagedError(
            f"{folder} has {len(ranks.t2i):,} + {len(ranks.i2t):,} ranks, its record {sizes[0]:,} + {sizes[1]:,}", AGAIN
        )
    with reading(folder / QUERIES):
        if record.sought == "texts":
            true = Searched(ranks.t2i, measures, {}).scores()
        elif record.sought == "regions":
            true = grounding_scores(ranks.t2i, measures["pointing"] > 0)
        else:
            true = scores(ranks)
    for name in sorted({*true, *record.scores}):
        said, value = record.scores.get(name, math.nan), true.get(name, math.nan)
        if not math.isclose(said, value, rel_tol=1e-9, abs_tol=1e-9):
            raise DamagedError(
                f"{folder}: its scores do not follow from its ranks: {name} is {said}, by its ranks {value}", AGAIN
            )


def record_folders(folder: Path) -> list[Path]:
    """Every folder below one that holds a record, in order of path, but for those that are being written.

    What may not be looked into is named in a note: `Path.rglob` would pass over it in silence.
    """

    def refused(error: OSError) -> None:
        try:
            with suppress(FileNotFoundError), may_read(Path(error.filename)):
                raise error
        except HarnessError as said:
            say_left_out(said)

    found = []
    for place, folders, files in os.walk(folder, onerror=refused):
        folders[:] = [name for name in folders if not name.startswith(NEW)]
        if RECORD in files:
            found.append(Path(place))
    return sorted(found)


def check_stored_record(folder: Path) -> Record:
    """The record in a folder of the store. Raises DamagedError if it is damaged, or of another cell than the folder's name."""
    record = load_record(folder)
    check_key(folder, record.cell, folder.name)
    return record


def load_card(folder: Path) -> TowerCard:
    """Read a tower's card. Raises DamagedError if it is not one, or not what was written."""
    path = folder / CARD
    found = read_seal(folder)
    try:
        card = TowerCard.model_validate_json(sealed_bytes(folder, CARD, found))
    except ValidationError as error:
        what = f"{path} is not a tower's card: {first_line(error)}"
        raise (HarnessError(what) if found else DamagedError(what, "delete its folder to distil it again")) from error
    if found and found.key is not None:
        check_key(folder, found.key, card.digest)
    return card


def check_stored_tower(folder: Path) -> None:
    """Raise DamagedError unless a folder of the store holds the tower of its name, whole as far as its seal says.

    A tower of an earlier version names itself in its card alone.
    """
    check_seal(folder)
    check_key(folder, load_card(folder).digest, folder.name)


def load_seen(folder: Path) -> npt.NDArray[np.uint64]:
    """Hashes of what a tower was distilled from (`harness.distill.bitext.seen`). Raises HarnessError without it."""
    path = folder / SEEN
    with may_read(path):
        if not path.is_file():
            raise HarnessError(f"{folder} has no {SEEN}, which says what it was distilled from: distil it again")
    data = sealed_bytes(folder, SEEN, read_seal(folder))
    try:
        seen: npt.NDArray[np.uint64] = np.load(io.BytesIO(data), allow_pickle=False)
        if seen.dtype != np.uint64 or seen.ndim != 1:
            raise ValueError(f"it holds {seen.dtype} {seen.shape}")
    except Exception as error:  # numpy's reader of headers raises many kinds, those of Python's own tokenizer among them
        raise HarnessError(f"{path} does not say what the tower has seen: {first_line(error)}; distil it again") from None
    return seen


def find_tower(text: str, store: Store) -> Path:
    """A tower's folder, given as such or by the beginning of its digest in the store. Raises HarnessError if it is not one."""
    if (Path(text) / CARD).is_file():
        return Path(text)
    found = [folder for folder in store.towers() if folder.name.startswith(text)]
    if len(found) == 1:
        check_key(found[0], load_card(found[0]).digest, found[0].name)
        return found[0]
    if found:
        raise HarnessError(f"{len(found)} towers begin with {text!r}: {', '.join(folder.name[:12] for folder in found)}")
    raise HarnessError(
        f"{text!r} is neither a folder with a {CARD} nor the beginning of a digest in {store.root}: see `towers list`"
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a broken file of queries makes its readers raise into one line that names it."""
    import pyarrow as pa

    try:
        yield
    except MemoryError as error:
        raise HarnessError(f"{path} cannot be read: {first_line(error)}") from None
    except (OSError, KeyError, ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        raise DamagedError(f"{path} cannot be read: {first_line(error)}", AGAIN) from None


@contextmanager
def open_queries(folder: Path) -> Iterator[ParquetFile]:
    """A record's queries. Raises DamagedError naming the file if it is not what was written, or no such file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Files this small are read fastest as a whole and by one thread.
    data = sealed_bytes(folder, QUERIES, read_seal(folder))
    with reading(folder / QUERIES), pq.ParquetFile(pa.BufferReader(data)) as file:
        yield file


def read_queries(folder: Path, *names: str) -> Table:
    """Columns of a record's queries, all if none is named. Raises as `open_queries`, and if it has not got them."""
    with open_queries(folder) as file:
        return file.read(columns=list(names) or None, use_threads=False).select(names or file.schema_arrow.names)


def load_ranks(folder: Path) -> tuple[Ranks, Ints]:
    """The ranks of a record's queries, from which its scores follow, and the image (as an index) that each caption belongs to.

    Images are numbered in gallery order; where they are no queries themselves, in the order of those there are.
    Raises HarnessError naming the file if it holds no such ranks.
    """
    record = load_record(folder)
    ranks, owner, measures = read_ranks(folder)
    check_scores(folder, record, ranks, measures)
    return ranks, owner


def read_ranks(folder: Path) -> tuple[Ranks, Ints, dict[str, Doubles]]:
    """Ranks, owners and measures of a record's queries, as `load_ranks` and `load_measures` have them."""
    with open_queries(folder) as file:
        kept = [name for name in file.schema_arrow.names if is_measure(name)]
        table = file.read(columns=["direction", "image", "rank", *kept], use_threads=False)
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
        return Ranks(t2i=ranks[text], i2t=ranks[~text]), owner, measures_of(table.select(kept))


def load_facets(folder: Path) -> dict[str, list[tuple[str, ...]]]:
    """What a record says of its captions: for each facet (`entity-type`, ...) the values of each caption.

    Captions are in the order of `load_ranks`; one may have several values or none. Empty where the record has no facets.
    """
    table = read_queries(folder)
    with reading(folder / QUERIES):
        captions = table.filter(table["direction"].to_numpy(zero_copy_only=False) == "t2i")
        names = [name for name in captions.column_names if name.startswith(FACET)]
        return {name.removeprefix(FACET): [tuple(values or ()) for values in captions[name].to_pylist()] for name in names}


def load_found(folder: Path) -> Ints:
    """The box (left, top, right, bottom) that each phrase of a record of grounding found first, (phrases, 4)."""
    table = read_queries(folder, "found")
    with reading(folder / QUERIES):
        return np.array(table["found"].to_pylist(), dtype=np.int64).reshape(-1, 4)


def load_measures(folder: Path) -> dict[str, Doubles]:
    """What a record has of each query beside its rank, in percent, by name, (queries,); empty for a record of images.

    Measures of texts found (`nDCG@10`), or, in grounding, whether a phrase pointed into a true box.
    """
    with open_queries(folder) as file:
        return measures_of(file.read(columns=[name for name in file.schema_arrow.names if is_measure(name)], use_threads=False))


def is_measure(column: str) -> bool:
    """Whether a column of queries is a measure of each."""
    return column == POINTED or column.startswith(MEASURE)


def measures_of(table: Table) -> dict[str, Doubles]:
    """Columns of measures as `load_measures` has them."""
    measures = {}
    for name in table.column_names:
        values = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
        measures["pointing" if name == POINTED else name.removeprefix(MEASURE)] = 100 * values if name == POINTED else values
    return measures
