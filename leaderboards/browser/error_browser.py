"""The error browser: a private page of every query of selected records, with the first results of each tower.

The page contains captions and pictures of the data sets. It is a folder of its own, separate from everything that is published.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.builtins import TASKS, load_encoder
from harness.core.config import DistillConfig
from harness.core.data import Floats, Images, Ints, Place, Retrieval, TextRetrieval
from harness.core.errors import HarnessError
from harness.core.plugins import without_code
from harness.core.protocols import Encoder, Task
from harness.distill.distilled_tower import DistilledTower
from harness.evaluation.data_folders import data_folder
from harness.leaderboards.board.model import BoardTower
from harness.leaderboards.browser.boxes import picture_sizes, place_payload, query_places, relative_boxes, rounded_values
from harness.leaderboards.records.board_records import BoardRecord, TestSet
from harness.leaderboards.rendering import render_page, sanitize_line
from harness.records.files import QUERIES_FILE, load_found_boxes, load_ranks, load_record, read_queries
from harness.records.schema import Record
from harness.retrieval.dense_search import first_documents
from harness.retrieval.ranking import MISSED
from harness.retrieval.scorers import PLAIN, CosineScorer, Embedder, MaxSimScorer
from harness.runtime.device import resolve_device
from harness.runtime.vectors import unit_rows
from harness.storage.embeddings import embed_captions, embed_images
from harness.storage.store import Store, new_folder

if TYPE_CHECKING:
    from harness.runtime.console import Console

_SHOWN_RESULTS = 5
_THUMBNAIL_SIDE, _LARGE_THUMBNAIL_SIDE, _JPEG_QUALITY = 200, 320, 78  # pixels, pixels, percent
_CAPTION_LENGTH = 2000
_ENTITY_TYPE_COLUMN = "facet:entity-type"


@dataclass(frozen=True)
class TowerResults:
    """The results of one tower.

    ranks: (m,) of each caption's image, or of the correct region of each phrase. first: (m, 5), the best images, best first;
    (m, 0) in tasks that do not retrieve images. scores: of these images. boxes: (m, 4), in phrase grounding the best region, as
    fractions of the picture's width and height. texts: in text-to-text retrieval, the five best texts of each query and whether
    each is relevant.
    """

    ranks: Ints
    first: Ints
    scores: Floats
    boxes: Floats | None = None
    texts: Sequence[Sequence[tuple[str, bool]]] | None = None


def write_error_browser(
    cells: Sequence[str], data: str | None, out: Path, embed: bool, device: str, store: Store, console: Console
) -> str:
    """Write the page of cells of the store into the new folder `out`, and return a line that says where it is.

    embed: whether thumbnails are embedded in the page instead of stored in a folder next to it. Embeddings come from the store;
    missing ones are computed. Raises HarnessError for an unknown cell, and if the data, the encoder or the tower are not those
    that were measured.
    """
    if out.exists():
        raise HarnessError(f"{out} exists already: name a new folder for the error browser")
    found = [find_record(cell, store) for cell in dict.fromkeys(cells)]
    labels = name_towers(found)
    sets: defaultdict[TestSet, list[BoardRecord]] = defaultdict(list)
    for each in found:
        sets[TestSet.from_record(each.record)].append(each)
    with new_folder(out) as folder:
        parts = []
        for place, members in enumerate(sets.values()):
            task = TASKS.load(without_code(members[0].record.task, members[0].folder))()
            source = data_folder(task, members[0].record.task, data, store)
            retrieval = load_queries(members[0].record, task, source)
            sizes = picture_sizes(members[0].record, task, source, retrieval)
            finds = {labels[each.record.cell]: tower_results(each, retrieval, sizes, device, store, console) for each in members}
            places, thumbnails = query_places(task, source, retrieval, sizes), list[str]()
            if retrieval.opens_pictures:
                side = _LARGE_THUMBNAIL_SIDE if any(places) else _THUMBNAIL_SIDE
                thumbnails = make_thumbnails(retrieval.images, None if embed else folder / "thumbnails", place, side, console)
            parts.append(part_payload(members, retrieval, finds, places, thumbnails, sorted(set(labels.values()))))
        towers = {labels[each.record.cell]: tower_digests(found, labels, labels[each.record.cell]) for each in found}
        payload = {"towers": [[name, towers[name]] for name in sorted(towers)], "parts": parts}
        page = render_page(
            "browse.html.j2", ("elements.js", "browse.js"), "data:" if embed else "data: 'self' file:", data=payload
        )
        (folder / "index.html").write_text(page, encoding="utf-8", newline="")
    return f"Open {(out / 'index.html').resolve()} (contains captions and pictures: do not publish it)"


def find_record(text: str, store: Store) -> BoardRecord:
    """Return the record of the store whose cell begins with a text. Raises HarnessError if there is none, or more than one."""
    folders = [folder for folder in store.records() if folder.name.startswith(text)]
    if len(folders) != 1:
        what = (
            f"{len(folders)} records begin with {text!r}: give more characters" if folders else f"no record begins with {text!r}"
        )
        raise HarnessError(f"{what}; `python -m harness list runs` shows those of {store.root}")
    return BoardRecord(folders[0], load_record(folders[0]))


def name_towers(found: Sequence[BoardRecord]) -> dict[str, str]:
    """Return a short name of each cell's tower, by cell. It has only the options in which the towers differ."""
    configs = {each.record.cell: each.record.tower.config for each in found if each.record.tower}
    options = [name for name in DistillConfig.model_fields if name != "objective"]
    several = [name for name in options if len({getattr(config, name) for config in configs.values()}) > 1]
    encoders = {each.record.encoder for each in found}
    names = {}
    for each in found:
        config = configs.get(each.record.cell)
        parts = [BoardTower.from_record(each.record).method]
        parts += [f"{name} {getattr(config, name)}".replace("pairs None", "all pairs") for name in several] if config else []
        parts += [each.record.encoder] if len(encoders) > 1 else []
        names[each.record.cell] = sanitize_line(" · ".join(parts), 80)
    return names


def tower_digests(found: Sequence[BoardRecord], labels: dict[str, str], label: str) -> dict[str, str]:
    """Return the digest of the named tower in each language, for the transport viewer."""
    own = [each.record for each in found if labels[each.record.cell] == label]
    return {record.lang: record.tower.digest[:12] for record in own if record.tower}


def load_queries(record: Record, task: Task, folder: Path) -> Retrieval:
    """Load the captions and pictures that a record was measured on. Raises HarnessError if the data folder holds others."""
    if record.translations:
        raise HarnessError(
            f"{record.cell[:12]} was measured on machine translations of its captions, which the browser cannot show"
        )
    retrieval = task.load(folder, record.lang, record.split, None if record.sample else record.source)
    if record.is_english_side:
        raise HarnessError(
            f"{record.cell[:12]} is a record of the English captions behind translations: browse one of their language"
        )
    if (retrieval.images.digest(), retrieval.texts_digest()) != (record.images_digest, record.texts_digest):
        raise HarnessError(
            f"{folder} does not hold the {record.lang} captions and pictures that {record.cell[:12]} was measured on"
        )
    return retrieval


def tower_results(
    found: BoardRecord, retrieval: Retrieval, sizes: Ints | None, device: str, store: Store, console: Console
) -> TowerResults:
    """Return the results of a record's tower for each query.

    The best pictures or texts are computed from the embeddings of the store; the best region is read from the record.
    Raises HarnessError for pictures that another scorer than the plain one ranked, and if the encoder or the tower are not those
    that were measured.
    """
    record = found.record
    ranks = load_ranks(found.folder)[0].t2i
    no_pictures = np.zeros((len(ranks), 0), np.int64), np.zeros((len(ranks), 0), np.float32)
    if sizes is not None:
        return TowerResults(
            ranks, *no_pictures, boxes=relative_boxes(load_found_boxes(found.folder), sizes[retrieval.caption_images])
        )
    if record.scorer != PLAIN and retrieval.opens_pictures:
        raise HarnessError(
            f"{record.cell[:12]} was ranked by the scorer {record.scorer}, whose order the browser cannot show: browse the "
            f"record of the scorer {PLAIN}"
        )
    encoder: Encoder = load_encoder(without_code(record.encoder, found.folder), device)
    if encoder.fingerprint() != record.encoder_fingerprint:
        raise HarnessError(
            f"{record.encoder} is not the encoder that {record.cell[:12]} was measured with: its fingerprint differs"
        )
    tower = encoder if record.tower is None else DistilledTower(tower_folder(found, store), device)
    if isinstance(retrieval, TextRetrieval):
        embed = Embedder(encoder, tower, store, console, resolve_device(device))
        return TowerResults(ranks, *no_pictures, texts=first_texts(record.scorer, retrieval, embed))
    with console.stage("embeds images", len(retrieval.images.ids), "images") as advance:
        images = embed_images(encoder, retrieval.images, store, lambda count: advance(count, ""))
    texts = embed_captions(tower, retrieval, store)
    scores = unit_rows(texts).astype(np.float32) @ unit_rows(images).astype(np.float32).T
    first = np.argsort(-scores, axis=1, kind="stable")[:, :_SHOWN_RESULTS]
    return TowerResults(ranks, first, np.take_along_axis(scores, first, axis=1))


def first_texts(scorer: str, retrieval: TextRetrieval, embed: Embedder) -> list[list[tuple[str, bool]]]:
    """Return the best texts of each query by a scorer, and whether each is relevant."""
    sides = {each.name: each for each in (CosineScorer(), MaxSimScorer())}[scorer].search_states(retrieval, embed)
    lists = first_documents(retrieval, sides.queries, sides.documents(), embed.device)[:, :_SHOWN_RESULTS]
    wanted, texts, number = set(lists.ravel().tolist()), dict[int, str](), 0
    for _, part in retrieval.documents.parts():
        texts |= {number + place: text for place, text in enumerate(part) if number + place in wanted}
        number += len(part)
    pairs = zip(lists.tolist(), retrieval.relevant, strict=True)
    return [[(texts[place][:_CAPTION_LENGTH], place in right) for place in places if place >= 0] for places, right in pairs]


def tower_folder(found: BoardRecord, store: Store) -> Path:
    """Return the folder of a record's tower. Raises HarnessError if the store does not have it."""
    card = found.record.tower
    assert card is not None
    folder = store.tower(card.digest)
    if not folder.is_dir():
        raise HarnessError(
            f"the tower of {found.record.cell[:12]} is not in {store.root}: measure the record again with this store"
        )
    return folder


def make_thumbnails(images: Images, folder: Path | None, part: int, side: int, console: Console) -> list[str]:
    """Make a JPEG thumbnail of each picture, and return their addresses.

    folder: of the thumbnails, whose addresses are relative to the page; without it, addresses contain the data. side: the maximum
    width and height in pixels.
    """
    if folder is not None:
        folder.mkdir(exist_ok=True)
    addresses = []
    with console.stage("makes thumbnails", len(images.ids), "pictures") as advance:
        for place in range(len(images.ids)):
            picture = images.open(place)
            picture.thumbnail((side, side))
            with BytesIO() as buffer:
                picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
                small = buffer.getvalue()
            if folder is None:
                addresses.append("data:image/jpeg;base64," + base64.b64encode(small).decode())
            else:
                # An id may be any file name, so thumbnails are numbered instead.
                (folder / f"{part}-{place}.jpg").write_bytes(small)
                addresses.append(f"thumbnails/{part}-{place}.jpg")
            advance(1, "")
    return addresses


def part_payload(
    members: Sequence[BoardRecord],
    retrieval: Retrieval,
    finds: dict[str, TowerResults],
    places: Sequence[Sequence[Place]],
    thumbnails: Sequence[str],
    names: Sequence[str],
) -> dict[str, Any]:
    """Return the data of one language's captions for the script."""
    language = TASKS.load(retrieval.task)().language(retrieval.lang)
    types = entity_types(members[0])
    return {
        "lang": retrieval.lang,
        "name": language.name,
        "source": sanitize_line(f"{retrieval.source} ({retrieval.kind})"),
        "sample": retrieval.sample,
        "texts": retrieval.sought == "texts",
        "images": [sanitize_line(name) for name in retrieval.images.ids],
        "thumbnails": list(thumbnails),
        "queries": [
            {
                "image": int(owner),
                "text": caption[:_CAPTION_LENGTH],
                "english": retrieval.english[number][:_CAPTION_LENGTH] if retrieval.english else "",
                "types": types[number] if types else [],
                "places": [place_payload(place) for place in places[number]],
                "finds": [result_payload(finds[name], number) if name in finds else 0 for name in names],
            }
            for number, (caption, owner) in enumerate(zip(retrieval.captions, retrieval.caption_images, strict=True))
        ],
    }


def result_payload(finds: TowerResults, number: int) -> list[Any]:
    """Return a query's rank, its best pictures and their scores, and in phrase grounding the best region.

    The rank is 0 if no correct result was among the candidates. In text-to-text retrieval, the best texts take the place of the
    pictures, and their relevance takes the place of the scores.
    """
    rank = int(finds.ranks[number])
    if finds.boxes is not None:
        return [0 if rank == MISSED else rank, [], [], rounded_values(finds.boxes[number].tolist())]
    if finds.texts is not None:
        return [0 if rank == MISSED else rank, *([list(of) for of in zip(*finds.texts[number], strict=True)] or [[], []])]
    return [rank, finds.first[number].tolist(), rounded_values(finds.scores[number].tolist())]


def entity_types(found: BoardRecord) -> list[list[str]] | None:
    """Return the entity types of each caption, or None if the record lacks them."""
    import pyarrow.parquet as pq

    if _ENTITY_TYPE_COLUMN not in pq.read_schema(found.folder / QUERIES_FILE).names:
        return None
    values = read_queries(found.folder, _ENTITY_TYPE_COLUMN)[_ENTITY_TYPE_COLUMN].to_pylist()[: found.record.captions]
    return [[sanitize_line(name, 40) for name in value or []] for value in values]
