"""What was measured, by what, on what: the schema of a record and of a tower's card, and where they lie."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import harness
from harness.api import HarnessError, Ints, Retrieval
from harness.config import DistillConfig
from harness.ranking import Ranks
from harness.store import new_folder

PACKAGES = ("numpy", "open_clip_torch", "pillow", "safetensors", "tokenizers", "torch", "torchvision", "transformers")
RECORD, QUERIES, CARD = "record.json", "queries.parquet", "card.json"


class Schema(BaseModel):
    """A typed piece of a record."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
    used: int = Field(description="pairs trained on")
    digest: str = Field(description="digest of the pairs used, in order")
    notes: tuple[str, ...] = ()


class TowerCard(Schema):
    """Everything that made a distilled tower."""

    digest: str = Field(description="of all that decides its weights; its name in the store")
    lang: str
    config: DistillConfig
    teacher: str
    teacher_fingerprint: str
    bitext: BitextCard
    steps: int
    losses: tuple[float, ...] = Field(description="mean loss over each twentieth of the steps")
    seconds: float = Field(description="training time")
    provenance: Provenance


class Record(Schema):
    """One cell, measured. Holds ids and digests, never a caption or a picture, so that it can be published."""

    schema_version: int = 1
    cell: str = Field(description="digest of all that decides the scores; its name in the store")
    task: str
    task_version: str
    lang: str
    split: str
    source: str = Field(description="caption source")
    kind: str = Field(description="how the captions came to be")
    sample: bool = Field(description="the embedded sample: says nothing about Flickr30k")
    images: int = Field(description="images in the gallery")
    captions: int = Field(description="captions ranked against it")
    images_digest: str
    texts_digest: str
    encoder: str
    encoder_fingerprint: str
    text_tower: str = Field(description="`english` for the encoder's own, else the objective it was distilled by")
    tower: TowerCard | None = Field(description="how the text tower was made, if it was distilled")
    scores: dict[str, float] = Field(description="hit rates in percent, median ranks, mean of the six hit rates")
    chance: dict[str, float] = Field(description="hit rates of a random ranking, in percent")
    notes: tuple[str, ...] = ()
    provenance: Provenance


def provenance(device: str) -> Provenance:
    """Where and by what this process runs."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    commit, dirty = checkout_state(Path(harness.__file__).resolve().parent)
    return Provenance(
        version=harness.__version__,
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages=installed,
        device=device,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=" ".join(["python -m harness", *sys.argv[1:]]),
    )


def checkout_state(folder: Path) -> tuple[str | None, bool | None]:
    """Commit and dirtiness of the checkout that tracks this package; (None, None) outside one."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

    try:
        # A copy in somebody else's repository (site-packages in a tracked folder) must not borrow its commit.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def save_record(folder: Path, record: Record, retrieval: Retrieval, ranks: Ranks) -> None:
    """Write `record.json` and `queries.parquet` (direction, query, image, rank): both or neither."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image_ids = np.array(retrieval.images.ids, dtype=object)
    owners = image_ids[retrieval.caption_images]
    table = pa.table(
        {
            "direction": ["t2i"] * len(ranks.t2i) + ["i2t"] * len(ranks.i2t),
            "query": [*retrieval.caption_ids, *image_ids],
            "image": [*owners, *image_ids],
            "rank": np.concatenate([ranks.t2i, ranks.i2t]).astype(np.int32),
        }
    )
    with new_folder(folder) as temporary:
        (temporary / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        pq.write_table(table, temporary / QUERIES)


def load_record(folder: Path) -> Record:
    """Read a record back. Raises HarnessError naming the file if it is not one."""
    path = folder / RECORD
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise HarnessError(
            f"{path} is not a record of this version: {first_line(error)}; delete its folder to measure it again"
        ) from error


def load_card(folder: Path) -> TowerCard:
    """Read a tower's card. Raises HarnessError naming the file if it is not one."""
    path = folder / CARD
    try:
        return TowerCard.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise HarnessError(f"{path} is not a tower's card: {first_line(error)}; delete its folder to distil it again") from error


def first_line(error: Exception) -> str:
    """The gist of an error, on one line."""
    if isinstance(error, ValidationError):
        detail = error.errors()[0]
        return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
    return str(error).splitlines()[0]


def load_ranks(folder: Path) -> tuple[Ranks, Ints]:
    """The ranks of a record's queries, and the image (as an index) that each caption belongs to.

    Images are numbered in gallery order.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(folder / QUERIES)
    direction = table["direction"].to_numpy(zero_copy_only=False)
    ranks = table["rank"].to_numpy().astype(np.int64)
    images = table["image"].to_pylist()
    gallery = {image: index for index, image in enumerate(table.filter(direction == "i2t")["image"].to_pylist())}
    text = direction == "t2i"
    owner = np.array([gallery[image] for image, is_text in zip(images, text, strict=True) if is_text], dtype=np.int64)
    return Ranks(t2i=ranks[text], i2t=ranks[~text]), owner
