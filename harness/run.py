"""From cells to records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import TextEncoder
from harness.plan import ENGLISH, Cell, Plan
from harness.record import Record, RegionCard, load_card, load_record, provenance, save_record
from harness.registry import TOWERS
from harness.scorers import Embedder
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

    retrieval, encoder = cell.retrieval, plan.encoder
    device = resolve_device(plan.config.device)
    embed = Embedder(encoder, text_tower(cell, plan, store, console), store, console, device)
    found = cell.scorer.find(retrieval, embed)
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
        scorer=cell.scorer.name,
        regions=region_card(cell),
        scores=found.scores,
        chance=found.chance,
        notes=retrieval.notes + (cell.scorer.views.regions.notes if cell.scorer.views else ()),
        provenance=provenance(device),
    )
    save_record(store.record(cell.key), record, retrieval, found.ranks, found.columns)


def region_card(cell: Cell) -> RegionCard | None:
    """What the record says of the regions."""
    views = cell.scorer.views
    if views is None:
        return None
    regions = views.regions
    return RegionCard(source=regions.source, view=views.view, count=len(regions.boxes), digest=regions.digest())


def text_tower(cell: Cell, plan: Plan, store: Store, console: Console) -> TextEncoder:
    """The cell's text tower, distilled now if it has to be."""
    folder = cell.folder(store)
    if folder is None:
        return plan.encoder
    if cell.recipe and not folder.is_dir():
        from harness.distill.distil import distil

        distil(cell.recipe, plan.config.device, store, console)
    return TOWERS.load("distilled")(folder, plan.config.device)
