"""Records as a board reads them: which test set each is over, and how often each image was found."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.core.data import MEASURE_PREFIX, Ints
from harness.leaderboards.board.config import BoardConfig
from harness.leaderboards.records.query_files import Queries, caption_mask, read_columns, read_record_queries
from harness.records.files import QUERIES_FILE, explain_broken_queries
from harness.records.schema import Record


@dataclass(frozen=True, eq=False)
class BoardRecord:
    """A record and the folder it lies in.

    sender: the folder that it was sent in; nothing for our own. received: when it was merged, by this machine's clock.
    """

    folder: Path
    record: Record
    sender: str = ""
    received: str = ""

    @cached_property
    def queries(self) -> Queries:
        """What its ranks are, read once. Raises HarnessError naming the file and what is wrong with it."""
        return read_record_queries(self.folder, self.record)


@dataclass(frozen=True)
class TestSet:
    """The same captions of the same images: what two records must share to be ranked against each other."""

    lang: str
    source: str
    kind: str
    images_digest: str
    texts_digest: str

    @classmethod
    def of(cls, record: Record) -> TestSet:
        """The test set of a record."""
        return cls(record.lang, record.source, record.kind, record.images_digest, record.texts_digest)


@dataclass(frozen=True)
class BoardGallery:
    """The images of a test set, by id, in gallery order, and the image of each caption, as an index. From one of its records."""

    image_ids: tuple[str, ...]
    owner: Ints

    @classmethod
    def read(cls, folder: Path, record: Record | None = None) -> BoardGallery:
        """Read it from a record's folder."""
        table = read_columns(folder, record, "direction", "image")
        with explain_broken_queries(folder / QUERIES_FILE):
            images = np.array(table["image"].to_pylist(), dtype=object)
            of_text = caption_mask(table)
            # Where texts are looked for, no image is a query.
            places = {image: place for place, image in enumerate(dict.fromkeys(images if of_text.all() else images[~of_text]))}
            return cls(tuple(places), np.array([places[image] for image in images[of_text]], dtype=np.int64))

    @cached_property
    def ids(self) -> frozenset[str]:
        """The image ids as a set."""
        return frozenset(self.image_ids)


def hits_by_image(found: BoardRecord, gallery: BoardGallery, declaration: BoardConfig) -> npt.NDArray[np.float32]:
    """(images,): how many of each image's queries found what they looked for among the first, or the sum of their measure.

    Raises HarnessError for a record whose queries cannot be read, or that has not the measure.
    """
    images, captions = len(gallery.image_ids), found.record.captions
    if declaration.cutoff is None:
        column = f"{MEASURE_PREFIX}{declaration.measure}"
        shares = read_columns(found.folder, found.record, column)[column].to_numpy() / 100
        return np.bincount(gallery.owner, weights=shares, minlength=images).astype(np.float32)
    ranks = found.queries.ranks
    if declaration.side == "i2t":
        return (ranks[captions:] <= declaration.cutoff).astype(np.float32)
    return hits_of_captions(found, gallery, declaration.cutoff, np.arange(captions))


def hits_of_captions(found: BoardRecord, gallery: BoardGallery, cutoff: int, captions: Ints) -> npt.NDArray[np.float32]:
    """(images,): how many of some captions, given by index, found their image among the first."""
    right = captions[found.queries.ranks[captions] <= cutoff]
    return np.bincount(gallery.owner[right], minlength=len(gallery.image_ids)).astype(np.float32)


def queries_by_image(gallery: BoardGallery, direction: str) -> npt.NDArray[np.float32]:
    """(images,): how many queries each image has in a direction."""
    images = len(gallery.image_ids)
    counts = np.bincount(gallery.owner, minlength=images) if direction == "t2i" else np.ones(images)
    return counts.astype(np.float32)


def group_galleries(galleries: Sequence[tuple[str, BoardGallery]], own: Collection[str] | None = None) -> list[list[str]]:
    """Which galleries belong on one board, given (digest, gallery) of each: the same images, or nearly all of a larger one.

    A source that lacks a line leaves its language one image short; that language still belongs beside the others (its own
    column says so, and nothing is ranked across columns). Another subset of the images does not. own: digests of galleries that
    our own records are over, all by default; none of them belongs to the board of one that only others have.

    >>> ids = ("abcdefghijklmnopqrst", "abcdefghijklmnopqrs", "tu")
    >>> full, short, other = (BoardGallery(tuple(each), np.arange(0)) for each in ids)
    >>> group_galleries([("short", short), ("full", full), ("other", other)])
    [['full', 'short'], ['other']]
    >>> group_galleries([("short", short), ("full", full)], own={"short"})
    [['short'], ['full']]
    """
    largest: list[tuple[BoardGallery, list[str]]] = []
    ours = {digest for digest, _ in galleries} if own is None else own
    for digest, gallery in sorted(galleries, key=lambda item: (item[0] not in ours, -len(item[1].image_ids), item[0])):
        for head, members in largest:
            if gallery.ids < head.ids and len(gallery.ids) >= 0.95 * len(head.ids):
                members.append(digest)
                break
        else:
            largest.append((gallery, [digest]))
    return [members for _, members in largest]
