"""The error browser: every query of some records, with what each tower found first, as a page for one's own disk.

Captions and pictures of others are in it, so it is a folder of its own, apart from anything that is published.
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
from harness.leaderboards.board.builder import BoardTower, sanitize_line
from harness.leaderboards.board.page import render_page
from harness.leaderboards.browser.boxes import picture_sizes, place_payload, query_places, relative_boxes, rounded_values
from harness.leaderboards.records.board_records import BoardRecord, TestSet
from harness.records.files import QUERIES_FILE, load_found_boxes, load_ranks, load_record, read_queries
from harness.records.schema import Record
from harness.retrieval.dense_search import first_documents
from harness.retrieval.ranking import MISSED
from harness.retrieval.scorers import PLAIN, Embedder, MaxSim, Plain
from harness.runtime.device import resolve_device
from harness.runtime.vectors import unit_rows
from harness.storage.embeddings import embed_captions, embed_images
from harness.storage.store import Store, new_folder

if TYPE_CHECKING:
    from harness.runtime.console import Console

SHOWN_RESULTS = 5
THUMBNAIL_SIDE, LARGE_THUMBNAIL_SIDE, QUALITY = 200, 320, 78
CAPTION_LENGTH = 2000
ENTITY_TYPE_COLUMN = "facet:entity-type"


@dataclass(frozen=True)
class TowerResults:
    """What one tower found. ranks: (m,) of each caption's image, or of the right region of each phrase.

    first: (m, 5) images, best first, with their scores; (m, 0) where other things are looked for. boxes: (m, 4), in grounding the
    region found first, as shares of the picture's width and height. texts: of each query the first five texts, and whether they
    are right, where texts are looked for.
    """

    ranks: Ints
    first: Ints
    scores: Floats
    boxes: Floats | None = None
    texts: Sequence[Sequence[tuple[str, bool]]] | None = None


def write_error_browser(
    cells: Sequence[str], data: str | None, out: Path, embed: bool, device: str, store: Store, console: Console
) -> str:
    """Write the page of some cells of the store into the new folder `out`; say where it is.

    embed: put thumbnails into the page instead of a folder beside it. Embeddings are read from the store; what is missing there
    is computed. Raises HarnessError for an unknown cell, and if data, encoder or tower are not those that were measured.
    """
    if out.exists():
        raise HarnessError(f"{out} is there already: name a folder that is not, since the browser's page is to stand by itself")
    found = [find_record(cell, store) for cell in dict.fromkeys(cells)]
    labels = name_towers(found)
    sets: defaultdict[TestSet, list[BoardRecord]] = defaultdict(list)
    for each in found:
        sets[TestSet.of(each.record)].append(each)
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
                side = LARGE_THUMBNAIL_SIDE if any(places) else THUMBNAIL_SIDE
                thumbnails = make_thumbnails(retrieval.images, None if embed else folder / "thumbnails", place, side, console)
            parts.append(part_payload(members, retrieval, finds, places, thumbnails, sorted(set(labels.values()))))
        towers = {labels[each.record.cell]: tower_digests(found, labels, labels[each.record.cell]) for each in found}
        payload = {"towers": [[name, towers[name]] for name in sorted(towers)], "parts": parts}
        page = render_page(
            "browse.html.j2", ("elements.js", "browse.js"), "data:" if embed else "data: 'self' file:", data=payload
        )
        (folder / "index.html").write_text(page, encoding="utf-8", newline="")
    return f"Open {(out / 'index.html').resolve()} (holds captions and pictures: keep it to yourself)"


def find_record(text: str, store: Store) -> BoardRecord:
    """A record of the store by the beginning of its cell. Raises HarnessError if there is none, or more than one."""
    folders = [folder for folder in store.records() if folder.name.startswith(text)]
    if len(folders) != 1:
        what = f"{len(folders)} records begin with {text!r}: give more of it" if folders else f"no record begins with {text!r}"
        raise HarnessError(f"{what}; `python -m harness list runs` shows those of {store.root}")
    return BoardRecord(folders[0], load_record(folders[0]))


def name_towers(found: Sequence[BoardRecord]) -> dict[str, str]:
    """A short name for the tower of each cell, by cell: what tells it from the others and no more."""
    configs = {each.record.cell: each.record.tower.config for each in found if each.record.tower}
    options = [name for name in DistillConfig.model_fields if name != "objective"]
    several = [name for name in options if len({getattr(config, name) for config in configs.values()}) > 1]
    encoders = {each.record.encoder for each in found}
    names = {}
    for each in found:
        config = configs.get(each.record.cell)
        parts = [BoardTower.of(each.record).method]
        parts += [f"{name} {getattr(config, name)}".replace("pairs None", "all pairs") for name in several] if config else []
        parts += [each.record.encoder] if len(encoders) > 1 else []
        names[each.record.cell] = sanitize_line(" · ".join(parts), 80)
    return names


def tower_digests(found: Sequence[BoardRecord], labels: dict[str, str], label: str) -> dict[str, str]:
    """The digest of the tower of that name in each language, for the transport viewer."""
    own = [each.record for each in found if labels[each.record.cell] == label]
    return {record.lang: record.tower.digest[:12] for record in own if record.tower}


def load_queries(record: Record, task: Task, folder: Path) -> Retrieval:
    """The captions and pictures that were measured. Raises HarnessError if the data folder holds others."""
    if record.translations:
        raise HarnessError(f"{record.cell[:12]} read translations of its captions, which the browser does not have")
    retrieval = task.load(folder, record.lang, record.split, None if record.sample else record.source)
    if record.is_english_side:
        raise HarnessError(
            f"{record.cell[:12]} is of the English side of another language's captions: browse that language's records"
        )
    if (retrieval.images.digest(), retrieval.texts_digest()) != (record.images_digest, record.texts_digest):
        raise HarnessError(f"{folder} has not the {record.lang} captions and pictures that {record.cell[:12]} was measured on")
    return retrieval


def tower_results(
    found: BoardRecord, retrieval: Retrieval, sizes: Ints | None, device: str, store: Store, console: Console
) -> TowerResults:
    """What a tower finds for each query: the first pictures or texts by what the store holds, the first region by the record.

    Raises HarnessError for pictures by another scorer than the plain one, and if encoder or tower are not those measured.
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
            f"{record.cell[:12]} was ranked by the scorer {record.scorer}, whose order the browser cannot show: browse the plain "
            "scorer's record"
        )
    encoder: Encoder = load_encoder(without_code(record.encoder, found.folder), device)
    if encoder.fingerprint() != record.encoder_fingerprint:
        raise HarnessError(f"{record.encoder} is not the encoder that {record.cell[:12]} was measured with: its weights differ")
    tower = encoder if record.tower is None else DistilledTower(tower_folder(found, store), device)
    if isinstance(retrieval, TextRetrieval):
        embed = Embedder(encoder, tower, store, console, resolve_device(device))
        return TowerResults(ranks, *no_pictures, texts=first_texts(record.scorer, retrieval, embed))
    with console.stage("embeds images", len(retrieval.images.ids), "images") as advance:
        images = embed_images(encoder, retrieval.images, store, lambda count: advance(count, ""))
    texts = embed_captions(tower, retrieval, store)
    scores = unit_rows(texts).astype(np.float32) @ unit_rows(images).astype(np.float32).T
    first = np.argsort(-scores, axis=1, kind="stable")[:, :SHOWN_RESULTS]
    return TowerResults(ranks, first, np.take_along_axis(scores, first, axis=1))


def first_texts(scorer: str, retrieval: TextRetrieval, embed: Embedder) -> list[list[tuple[str, bool]]]:
    """The first texts of each query by a scorer, and whether they are relevant."""
    sides = {each.name: each for each in (Plain(), MaxSim())}[scorer].sides(retrieval, embed)
    lists = first_documents(retrieval, sides.queries, sides.documents(), embed.device)[:, :SHOWN_RESULTS]
    wanted, texts, number = set(lists.ravel().tolist()), dict[int, str](), 0
    for _, part in retrieval.documents.parts():
        texts |= {number + place: text for place, text in enumerate(part) if number + place in wanted}
        number += len(part)
    pairs = zip(lists.tolist(), retrieval.relevant, strict=True)
    return [[(texts[place][:CAPTION_LENGTH], place in right) for place in places if place >= 0] for places, right in pairs]


def tower_folder(found: BoardRecord, store: Store) -> Path:
    """Where a record's tower is. Raises HarnessError if the store no longer has it."""
    card = found.record.tower
    assert card is not None
    folder = store.tower(card.digest)
    if not folder.is_dir():
        raise HarnessError(f"the tower of {found.record.cell[:12]} is not in {store.root}: measure it here again")
    return folder


def make_thumbnails(images: Images, folder: Path | None, part: int, side: int, console: Console) -> list[str]:
    """A small JPEG of each picture, at most `side` pixels wide and high, as addresses: of files in `folder`, relative to the
    page, or of the data itself.
    """
    if folder is not None:
        folder.mkdir(exist_ok=True)
    addresses = []
    with console.stage("makes thumbnails", len(images.ids), "pictures") as advance:
        for place in range(len(images.ids)):
            picture = images.open(place)
            picture.thumbnail((side, side))
            with BytesIO() as buffer:
                picture.save(buffer, "JPEG", quality=QUALITY)
                small = buffer.getvalue()
            if folder is None:
                addresses.append("data:image/jpeg;base64," + base64.b64encode(small).decode())
            else:
                # Numbered, since an id is whatever a file was called.
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
    """What the script needs of one language's captions."""
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
                "text": caption[:CAPTION_LENGTH],
                "english": retrieval.english[number][:CAPTION_LENGTH] if retrieval.english else "",
                "types": types[number] if types else [],
                "places": [place_payload(place) for place in places[number]],
                "finds": [result_payload(finds[name], number) if name in finds else 0 for name in names],
            }
            for number, (caption, owner) in enumerate(zip(retrieval.captions, retrieval.caption_images, strict=True))
        ],
    }


def result_payload(finds: TowerResults, number: int) -> list[Any]:
    """A query's rank (0 if nothing right could be found), and the first pictures and their scores, or the region found first.

    Where texts are looked for, the first texts stand in the place of the pictures, and whether they are right in that of scores.
    """
    rank = int(finds.ranks[number])
    if finds.boxes is not None:
        return [0 if rank == MISSED else rank, [], [], rounded_values(finds.boxes[number].tolist())]
    if finds.texts is not None:
        return [0 if rank == MISSED else rank, *([list(of) for of in zip(*finds.texts[number], strict=True)] or [[], []])]
    return [rank, finds.first[number].tolist(), rounded_values(finds.scores[number].tolist())]


def entity_types(found: BoardRecord) -> list[list[str]] | None:
    """The entity types of each caption, where the record has them."""
    import pyarrow.parquet as pq

    if ENTITY_TYPE_COLUMN not in pq.read_schema(found.folder / QUERIES_FILE).names:
        return None
    values = read_queries(found.folder, ENTITY_TYPE_COLUMN)[ENTITY_TYPE_COLUMN].to_pylist()[: found.record.captions]
    return [[sanitize_line(name, 40) for name in value or []] for value in values]
