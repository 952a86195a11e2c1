"""From cells to records."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.api import Encoder, Floats, Grounding, HarnessError, Images, TextEncoder
from harness.embeddings import embed_captions, embed_images, embed_texts
from harness.plan import ENGLISH, Cell, Plan
from harness.plugins import gist
from harness.record import Record, RegionCard, load_card, load_record, provenance, save_record
from harness.regions import regions_by_image
from harness.registry import TOWERS
from harness.store import BusyError, Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.console import Console
    from harness.ranking import Ranks


class CellsFailedError(HarnessError):
    """Some cells of a plan could not be measured; the others were. failures: why, by the cell's label."""

    def __init__(self, failures: Mapping[str, str], cells: int) -> None:
        super().__init__(f"{len(failures)} of {cells} cells failed: {'; '.join(map(': '.join, failures.items()))}")
        self.failures = failures


def run(plan: Plan, store: Store, console: Console) -> list[Record]:
    """The record of each cell, in order: read back where it lies in the store, measured and kept where it does not.

    A cell that another run is at is left for later. One that fails does not stop the others: CellsFailedError is raised when all
    are done, or, if all failed for one reason that the user can put right, that reason.
    """
    records: dict[str, Record] = {}
    failures: dict[str, Exception] = {}
    left = list(plan.cells)
    for wait in (False, True):
        busy = []
        for cell in left:
            try:
                records[cell.key] = load_or_measure(cell, plan, store, console, wait)
            except BusyError:
                busy.append(cell)
            except Exception as error:  # of encoders, tasks and objectives of others, and of every library
                failures[cell.label] = error
        left = busy
    if failures:
        raise failed(failures, len(plan.cells))
    return [records[cell.key] for cell in plan.cells]


def failed(failures: Mapping[str, Exception], cells: int) -> HarnessError:
    """What to raise for cells that failed. What nobody expected is shown with its trace, for whoever wrote that code."""
    first, *rest = failures.values()
    if isinstance(first, HarnessError) and len(rest) == cells - 1 and all(str(error) == str(first) for error in rest):
        return first
    for error in failures.values():
        if not isinstance(error, HarnessError):
            traceback.print_exception(error)
    return CellsFailedError({label: gist(error) for label, error in failures.items()}, cells)


def load_or_measure(cell: Cell, plan: Plan, store: Store, console: Console, wait: bool = True) -> Record:
    """One cell's record. Raises BusyError if another run is measuring it and `wait` is False."""
    folder = store.record(cell.key)
    if not folder.is_dir():
        with store.claim(folder, wait):
            if not folder.is_dir():  # another run may have measured it meanwhile
                measure(cell, plan, store, console)
    return load_record(folder)


def measure(cell: Cell, plan: Plan, store: Store, console: Console) -> None:
    """Embed, rank, and keep the record. The text tower is distilled first if it is not there."""
    from harness.device import resolve_device

    retrieval, encoder = cell.retrieval, plan.encoder
    for title, unit, pictures in shared_pictures(cell):
        embed_pictures(title, unit, pictures, encoder, store, console)
    found = look_up(cell, text_tower(cell, plan, store, console), encoder, store, console)
    folder = cell.folder(store)
    card = load_card(folder) if folder else None
    record = Record(
        cell=cell.key,
        task=plan.task.card.name,
        task_version=plan.task.card.version,
        lang=retrieval.lang,
        split=retrieval.split,
        source=retrieval.source,
        kind=retrieval.kind,
        sample=retrieval.sample,
        images=len(retrieval.images.ids),
        captions=len(retrieval.captions),
        images_digest=retrieval.images.digest(),
        texts_digest=retrieval.texts_digest(),
        encoder=encoder.name,
        encoder_fingerprint=encoder.fingerprint(),
        text_tower=card.config.objective if card else ENGLISH,
        tower=card,
        scorer=cell.scorer,
        regions=region_card(cell),
        scores=found.scores,
        chance=found.chance,
        notes=retrieval.notes + (cell.views.regions.notes if cell.views else ()),
        provenance=provenance(resolve_device(plan.config.device)),
    )
    save_record(store.record(cell.key), record, retrieval, found.ranks, found.columns)


@dataclass(frozen=True)
class Found:
    """What a cell's texts found. columns: what grounding says of each phrase beside its rank."""

    ranks: Ranks
    scores: dict[str, float]
    chance: dict[str, float]
    columns: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)


def look_up(cell: Cell, tower: TextEncoder, encoder: Encoder, store: Store, console: Console) -> Found:
    """Embed what the cell asks for, and rank: images for captions, or, in grounding, regions for phrases."""
    from harness.ranking import chance, rank, scores

    retrieval = cell.retrieval
    texts = embed_captions(tower, retrieval, store)
    views = embed_pictures("embeds regions", "regions", cell.views, encoder, store, console) if cell.views else None
    if isinstance(retrieval, Grounding) and cell.views is not None and views is not None:
        from harness.grounding import ground

        grounded = ground(texts, views, retrieval, cell.views.regions)
        columns = {"pointed": grounded.pointed, "found": grounded.found}
        return Found(grounded.as_ranks, grounded.scores(), grounded.chance, columns)
    images = embed_pictures("embeds images", "images", retrieval.images, encoder, store, console)
    if cell.views is None or views is None:
        ranks = rank(images, texts, retrieval.caption_images)
    else:
        from harness.composition import Captions, Gallery, rerank, split_rows

        words = embed_texts(tower, [phrase for phrases in cell.phrases for phrase in phrases], retrieval.lang, store)
        captions = Captions(texts, split_rows(words, [len(phrases) for phrases in cell.phrases]))
        gallery = Gallery(images, regions_by_image(views, cell.views.regions, retrieval.images))
        ranks = rerank(captions, gallery, retrieval.caption_images, cell.rerank)
    return Found(ranks, scores(ranks), chance(retrieval.caption_images, len(retrieval.images.ids)))


def shared_pictures(cell: Cell) -> Iterator[tuple[str, str, Images]]:
    """What a cell shares with others and looks up, with its title and unit for people.

    It is embedded before a tower is distilled, so that a picture that cannot be read is told before an hour is spent.
    """
    if not isinstance(cell.retrieval, Grounding):
        yield "embeds images", "images", cell.retrieval.images
    if cell.views:
        yield "embeds regions", "regions", cell.views


def embed_pictures(title: str, unit: str, images: Images, encoder: Encoder, store: Store, console: Console) -> Floats:
    """Embeddings of pictures, from the store where they lie, and how far it is."""
    with console.stage(title, len(images.ids), unit) as advance:
        return embed_images(encoder, images, store, lambda count: advance(count, ""))


def region_card(cell: Cell) -> RegionCard | None:
    """What the record says of the regions."""
    if cell.views is None:
        return None
    regions = cell.views.regions
    return RegionCard(source=regions.source, view=cell.views.view, count=len(regions.boxes), digest=regions.digest())


def text_tower(cell: Cell, plan: Plan, store: Store, console: Console) -> TextEncoder:
    """The cell's text tower, distilled now if it has to be."""
    folder = cell.folder(store)
    if folder is None:
        return plan.encoder
    if cell.recipe:
        from harness.distill.distil import distil

        distil(cell.recipe, plan.config.device, store, console)
    return TOWERS.load("distilled")(folder, plan.config.device)
