"""From cells to records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import TextEncoder
from harness.embeddings import embed_images, embed_texts
from harness.plan import Cell, Plan
from harness.record import Record, load_card, load_record, provenance, save_record
from harness.registry import TOWERS
from harness.store import Store

if TYPE_CHECKING:
    from harness.console import Console


def run(plan: Plan, store: Store, console: Console) -> list[Record]:
    """The record of each cell, in order: read back where it lies in the store, measured and kept where it does not."""
    return [load_or_measure(cell, plan, store, console) for cell in plan.cells]


def load_or_measure(cell: Cell, plan: Plan, store: Store, console: Console) -> Record:
    """One cell's record."""
    folder = store.record(cell.key)
    if not folder.is_dir():
        measure(cell, plan, store, console)
    return load_record(folder)


def measure(cell: Cell, plan: Plan, store: Store, console: Console) -> None:
    """Embed, rank, and keep the record. The text tower is distilled first if it is not there."""
    from harness.device import resolve_device
    from harness.ranking import chance, rank, scores

    retrieval, encoder = cell.retrieval, plan.encoder
    tower = text_tower(cell, plan, store, console)
    with console.stage("embeds images", len(retrieval.images.ids), "images") as advance:
        images = embed_images(encoder, retrieval.images, store, lambda count: advance(count, ""))
    texts = embed_texts(tower, retrieval.captions, retrieval.lang, store)
    ranks = rank(images, texts, retrieval.caption_images)
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
        text_tower=cell.text_tower,
        tower=load_card(store.tower(cell.recipe.digest)) if cell.recipe else None,
        scores=scores(ranks),
        chance=chance(retrieval.caption_images, len(retrieval.images.ids)),
        notes=retrieval.notes,
        provenance=provenance(resolve_device(plan.config.device)),
    )
    save_record(store.record(cell.key), record, retrieval, ranks)


def text_tower(cell: Cell, plan: Plan, store: Store, console: Console) -> TextEncoder:
    """The cell's text tower, distilled now if it has to be."""
    if cell.recipe is None:
        return plan.encoder
    folder = store.tower(cell.recipe.digest)
    if not folder.is_dir():
        from harness.distill.distil import distil

        distil(cell.recipe, plan.config.device, store, console)
    return TOWERS.load("distilled")(folder, plan.config.device)
