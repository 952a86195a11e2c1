"""Records as a board reads them: which test set each is over, and how often each image was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.api import HarnessError, Ints
from harness.leaderboards.declared import Declaration
from harness.record import MEASURE, QUERIES, RECORD, Record, load_record, read_queries, reading


@dataclass(frozen=True)
class Found:
    """A record and the folder it lies in."""

    folder: Path
    record: Record


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
class Gallery:
    """The images of a test set, by id, in gallery order, and the image of each caption, as an index. From one of its records."""

    image_ids: tuple[str, ...]
    owner: Ints

    @classmethod
    def read(cls, folder: Path) -> Gallery:
        """Read it from a record's folder."""
        table = read_queries(folder, "direction", "image")
        with reading(folder / QUERIES):
            images = np.array(table["image"].to_pylist(), dtype=object)
            of_text = table["direction"].to_numpy(zero_copy_only=False) == "t2i"
            # Where texts are looked for, no image is a query.
            places = {image: place for place, image in enumerate(dict.fromkeys(images if of_text.all() else images[~of_text]))}
            return cls(tuple(places), np.array([places[image] for image in images[of_text]], dtype=np.int64))

    @cached_property
    def ids(self) -> frozenset[str]:
        """The image ids as a set."""
        return frozenset(self.image_ids)


def find_records(folders: Iterable[Path]) -> list[Found]:
    """Every record anywhere below the folders, each cell once, in order of path.

    Raises HarnessError for a folder that is not there and for a file that is no record.
    """
    found: dict[str, Found] = {}
    for folder in folders:
        if not folder.is_dir():
            raise HarnessError(f"{folder} is not a folder of records: give one that holds record.json files, at any depth")
        for path in sorted(folder.rglob(RECORD)):
            # A name with a dot in front is an entry that is still being written.
            if not any(part.startswith(".") for part in path.relative_to(folder).parts):
                record = load_record(path.parent)
                found.setdefault(record.cell, Found(path.parent, record))
    return list(found.values())


def hits_by_image(found: Found, gallery: Gallery, declaration: Declaration) -> npt.NDArray[np.float32]:
    """(images,): how many of each image's queries found what they looked for among the first, or the sum of their measure.

    Raises HarnessError as `read_rank_column` does, and for a record that has not the measure.
    """
    images, captions = len(gallery.image_ids), found.record.captions
    if declaration.cutoff is None:
        column = f"{MEASURE}{declaration.measure}"
        shares = read_queries(found.folder, column)[column].to_numpy() / 100
        return np.bincount(gallery.owner, weights=shares, minlength=images).astype(np.float32)
    ranks = read_rank_column(found)
    if declaration.side == "i2t":
        return (ranks[captions:] <= declaration.cutoff).astype(np.float32)
    counts = np.bincount(gallery.owner[ranks[:captions] <= declaration.cutoff], minlength=images)
    return counts.astype(np.float32)


def hits_by_value(
    found: Found, gallery: Gallery, cutoff: int, facet: Sequence[Sequence[str]], value: str
) -> npt.NDArray[np.float32]:
    """(images,): `hits_by_image` from text to image, of the captions that have a value of a facet."""
    has = np.array([value in values for values in facet])
    right = (read_rank_column(found)[: found.record.captions] <= cutoff) & has
    return np.bincount(gallery.owner[right], minlength=len(gallery.image_ids)).astype(np.float32)


def read_rank_column(found: Found) -> Ints:
    """The ranks of a record alone, captions first: a board reads thousands of files and needs no other column.

    Raises HarnessError if the file has another number of ranks than its record says.
    """
    record = found.record
    ranks = read_queries(found.folder, "rank")["rank"].to_numpy()
    images = record.images if record.sought == "images" else 0
    if len(ranks) != record.captions + images:
        path = found.folder / QUERIES
        raise HarnessError(f"{path} has {len(ranks):,} ranks, but its record says {record.captions:,} + {images:,}")
    numbers: Ints = ranks.astype(np.int64)
    return numbers


def queries_of_images(gallery: Gallery, direction: str) -> npt.NDArray[np.float32]:
    """(images,): how many queries each image has in a direction."""
    images = len(gallery.image_ids)
    counts = np.bincount(gallery.owner, minlength=images) if direction == "t2i" else np.ones(images)
    return counts.astype(np.float32)


def families(galleries: Sequence[tuple[str, Gallery]]) -> list[list[str]]:
    """Which galleries belong on one board, given (digest, gallery) of each: the same images, or nearly all of a larger one.

    A source that lacks a line leaves its language one image short; that language still belongs beside the others (its own
    column says so, and nothing is ranked across columns). Another subset of the images does not.

    >>> full, short, other = (Gallery(tuple(ids), np.arange(0)) for ids in ("abcdefghijklmnopqrst", "abcdefghijklmnopqrs", "tu"))
    >>> families([("short", short), ("full", full), ("other", other)])
    [['full', 'short'], ['other']]
    """
    largest: list[tuple[Gallery, list[str]]] = []
    for digest, gallery in sorted(galleries, key=lambda item: (-len(item[1].image_ids), item[0])):
        for head, members in largest:
            if gallery.ids < head.ids and len(gallery.ids) >= 0.95 * len(head.ids):
                members.append(digest)
                break
        else:
            largest.append((gallery, [digest]))
    return [members for _, members in largest]
