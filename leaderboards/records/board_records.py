"""Records as boards take them: with their folder and sender, the test set that each is measured on, and its gallery."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from harness.core.data import Ints
from harness.leaderboards.records.query_files import Queries, caption_mask, read_columns, read_record_queries
from harness.records.files import QUERIES_FILE, explain_broken_queries
from harness.records.schema import Record


@dataclass(frozen=True, eq=False)
class BoardRecord:
    """A record and its folder.

    sender: the submission that the record came in, or empty for the project's own. received: when the submission was merged, by
    the clock of the machine that merged it.
    """

    folder: Path
    record: Record
    sender: str = ""
    received: str = ""

    @cached_property
    def queries(self) -> Queries:
        """The record's queries, read once. Raises HarnessError naming the file and the fault."""
        return read_record_queries(self.folder, self.record)


@dataclass(frozen=True)
class TestSet:
    """Captions and images. Only towers measured on the same test set are ranked against each other."""

    lang: str
    source: str
    kind: str
    images_digest: str
    texts_digest: str

    @classmethod
    def from_record(cls, record: Record) -> TestSet:
        """Return the test set of a record."""
        return cls(record.lang, record.source, record.kind, record.images_digest, record.texts_digest)


@dataclass(frozen=True)
class BoardGallery:
    """The images of a test set.

    image_ids: in gallery order. owner: the image of each caption, as an index.
    """

    image_ids: tuple[str, ...]
    owner: Ints

    @classmethod
    def read(cls, folder: Path, record: Record | None = None) -> BoardGallery:
        """Read the gallery from a record's folder. Raises HarnessError if the queries cannot be read."""
        table = read_columns(folder, record, "direction", "image")
        with explain_broken_queries(folder / QUERIES_FILE):
            images = np.array(table["image"].to_pylist(), dtype=object)
            of_text = caption_mask(table)
            # In text-to-text retrieval no image is a query.
            places = {image: place for place, image in enumerate(dict.fromkeys(images if of_text.all() else images[~of_text]))}
            return cls(tuple(places), np.array([places[image] for image in images[of_text]], dtype=np.int64))

    @cached_property
    def ids(self) -> frozenset[str]:
        """The image ids as a set."""
        return frozenset(self.image_ids)
