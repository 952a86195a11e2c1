"""From cells to records."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.api import Grounding, HarnessError, Images, TextEncoder, TextRetrieval, digest_strings
from harness.plan import ENGLISH, Cell, Plan
from harness.plugins import gist
from harness.record import Record, RegionCard, TranslationCard, load_card, load_record, provenance, save_record
from harness.regions import Views
from harness.registry import TOWERS
from harness.scorers import Embedder
from harness.store import BusyError, Store
from harness.translation import TRANSLATE_TEST, in_translation

if TYPE_CHECKING:
    from harness.console import Console


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

    retrieval, encoder, translations = cell.retrieval, plan.encoder, cell.translations
    asked, translated = retrieval, None
    if translations:
        english = translations.english(retrieval, store, console)
        asked = in_translation(retrieval, english)
        translated = TranslationCard(by=translations.by, source=translations.source, digest=digest_strings(english))
    device = resolve_device(plan.config.device)
    embed = Embedder(encoder, encoder, store, console, device)
    for what, pictures in shared_pictures(cell):
        embed.pictures(pictures, what)
    found = cell.scorer.find(asked, replace(embed, tower=text_tower(cell, plan, store, console)))
    folder = cell.folder(store)
    card = load_card(folder) if folder else None
    views = cell.scorer.views
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
        documents=len(retrieval.documents) if isinstance(retrieval, TextRetrieval) else None,
        headline=retrieval.headline if isinstance(retrieval, TextRetrieval) else "R@1",
        images_digest=retrieval.images.digest(),
        texts_digest=retrieval.texts_digest(),
        encoder=encoder.name,
        encoder_fingerprint=encoder.fingerprint(),
        text_tower=card.config.objective if card else TRANSLATE_TEST if translated else ENGLISH,
        tower=card,
        translations=translated,
        scorer=cell.scorer.name,
        regions=region_card(views) if views else None,
        scores=found.scores,
        chance=found.chance,
        notes=retrieval.notes + (translations.notes if translations else ()) + (views.regions.notes if views else ()),
        provenance=provenance(device),
    )
    save_record(store.record(cell.key), record, retrieval, found.ranks, found.columns)


def shared_pictures(cell: Cell) -> Iterator[tuple[str, Images]]:
    """What a cell shares with others and looks up, and what people call it.

    It is embedded before a tower is distilled, so that a picture that cannot be read is told before an hour is spent.
    """
    if not isinstance(cell.retrieval, Grounding | TextRetrieval):
        yield "images", cell.retrieval.images
    if cell.scorer.views:
        yield "regions", cell.scorer.views


def region_card(views: Views) -> RegionCard:
    """What the record says of the regions."""
    regions = views.regions
    return RegionCard(source=regions.source, view=views.view, count=len(regions.boxes), digest=regions.digest())


def text_tower(cell: Cell, plan: Plan, store: Store, console: Console) -> TextEncoder:
    """The cell's text tower, distilled now if it has to be."""
    folder = cell.folder(store)
    if folder is None:
        return plan.encoder
    if cell.recipe:
        from harness.distill.distil import distil

        distil(cell.recipe, plan.config.device, store, console)
    return TOWERS.load("distilled")(folder, plan.config.device)
