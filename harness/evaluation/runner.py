"""Measure the cells of plans and write their records."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness.core.builtins import TASKS, load_encoder
from harness.core.config import ExecutorConfig, RunConfig
from harness.core.data import Images
from harness.core.digests import digest_strings
from harness.core.errors import HarnessError
from harness.core.languages import select_languages
from harness.core.plugins import PluginFingerprint
from harness.core.protocols import Encoder, TextEncoder
from harness.distill.distilled_tower import DistilledTower
from harness.evaluation.cells import Cell
from harness.evaluation.executors.jobs import Outcome, announce_jobs, execute_jobs
from harness.evaluation.executors.local import run_in_turn
from harness.evaluation.planning import Plan, make_plan
from harness.evaluation.served_arms import without_unserved
from harness.evaluation.translate_test import with_translations
from harness.records.files import check_stored_record, load_stored_record, save_record
from harness.records.provenance import current_provenance
from harness.records.schema import ENGLISH_TOWER, TRANSLATE_TEST, Record, RegionCard, TranslationCard
from harness.records.towers import load_card
from harness.retrieval.regions import RegionViews
from harness.retrieval.scorers import Embedder
from harness.storage.seals import is_undamaged
from harness.storage.store import Store

if TYPE_CHECKING:
    from harness.runtime.console import Console

T = TypeVar("T")


class CellsFailedError(HarnessError):
    """Some cells of a plan failed, and the others were measured. failures: the error of each failed cell, by label.

    reason: the error, if all cells failed with the same one and the user can fix it, else "".
    """

    def __init__(self, failures: Mapping[str, str], cells: int, reason: str = "") -> None:
        super().__init__(f"{len(failures)} of {cells} cells failed: {'; '.join(map(': '.join, failures.items()))}")
        self.failures, self.reason = failures, reason


@dataclass(frozen=True, eq=False)
class CellJob:
    """The job of measuring a cell. find: makes the same job from the configuration in another process."""

    cell: Cell
    plan: Plan
    store: Store
    find: Callable[[], CellJob]

    @property
    def name(self) -> str:
        """Language and label of the cell."""
        return f"{self.plan.language.name}, {self.cell.label}"

    @property
    def is_there(self) -> bool:
        """Return whether the store has an undamaged record of the cell."""
        return is_undamaged(self.store.record(self.cell.key), check_stored_record)

    def do(self, console: Console, wait: bool) -> None:
        """Measure the cell unless it has a record. Raises BusyError if another run makes it or its tower and `wait` is False."""
        load_or_measure(self.cell, self.plan, self.store, console, wait)

    def elsewhere(self) -> Callable[[], CellJob]:
        """Return the function that makes the job in another process."""
        return self.find


def measure_plan(plan: Plan, store: Store, console: Console) -> list[Record]:
    """Return the record of each cell, in order, read from the store or measured.

    Raises CellsFailedError if a cell fails.
    """
    for _, failed in measure_plans([plan], store, console, ExecutorConfig()):
        if failed:
            raise failed
    return [check_stored_record(store.record(cell.key)) for cell in plan.cells]


def measure_plans(
    plans: Sequence[Plan], store: Store, console: Console, choices: ExecutorConfig
) -> Iterator[tuple[Plan, CellsFailedError | None]]:
    """Measure the cells of plans and yield each plan, in order, when all of its cells have ended.

    A cell of several plans is measured once. A cell that another run is measuring comes last. A failed cell does not stop the
    others: its error is yielded with its plan. Default arms that the teacher's model does not serve are left out of the plans,
    with a remark.
    Raises UnservedArmError before anything is measured if the user named such an arm. Raises HarnessError if all cells of the
    first two plans (or of the only one) fail with one error that the user can fix.
    """
    plans = without_unserved(plans, store)
    jobs: dict[str, CellJob] = {}
    for plan in plans:
        for cell in plan.cells:
            jobs.setdefault(cell.key, cell_job(cell, plan, store))
    there = [job for job in jobs.values() if job.is_there]
    missing = [job for job in jobs.values() if not job.is_there]
    outcomes: dict[str, Outcome] = {}
    waiting, reasons = deque(plans), list[str]()
    measured = execute_jobs(announce_jobs(missing, choices, console, "cell"), choices, store, console) if missing else iter(())
    for job, outcome in chain(run_in_turn(console, there, wait=True), measured):
        outcomes[job.cell.key] = outcome
        while waiting and all(cell.key in outcomes for cell in waiting[0].cells):
            plan = waiting.popleft()
            failed = summarize_failures({cell.label: outcomes[cell.key] for cell in plan.cells})
            reasons.append(failed.reason if failed else "")
            # One language may lack data that the others have. If the first two fail alike, all others probably fail too.
            if reasons[0] and len(set(reasons)) == 1 and len(reasons) == min(2, len(plans)):
                raise HarnessError(reasons[0])
            yield plan, failed


def summarize_failures(outcomes: Mapping[str, Outcome]) -> CellsFailedError | None:
    """Return the error that names the failed cells, None if no cell failed. outcomes: by the cell's label."""
    failed = {label: outcome for label, outcome in outcomes.items() if outcome.state == "failed"}
    if not failed:
        return None
    alike = len(failed) == len(outcomes) and len(set(failed.values())) == 1
    first = next(iter(failed.values()))
    why = {label: outcome.why for label, outcome in failed.items()}
    return CellsFailedError(why, len(outcomes), first.why if alike and first.expected else "")


def cell_job(cell: Cell, plan: Plan, store: Store) -> CellJob:
    """Return the job of a plan's cell."""
    config = plan.config.model_copy(update={"lang": plan.language.code, "data": str(plan.data)})
    return CellJob(cell, plan, store, partial(find_cell_job, config, cell.key, store))


def find_cell_job(config: RunConfig, key: str, store: Store) -> CellJob:
    """Return the job of the cell with a digest. Raises HarnessError if the configuration gives no such cell on this machine."""
    plan = plan_of_worker(config, store)
    cell = find_planned({cell.key: cell for cell in plan.cells}, key)
    return CellJob(cell, plan, store, partial(find_cell_job, config, key, store))


def find_planned(found: Mapping[str, T], digest: str) -> T:
    """Return the entry planned on this machine under a digest. Raises HarnessError if there is none."""
    if digest not in found:
        raise HarnessError(
            f"{socket.gethostname()} has other data, weights or code than the run was planned with (it finds no {digest[:12]}): "
            "give all workers the same"
        )
    return found[digest]


@lru_cache(maxsize=1)
def plan_of_worker(config: RunConfig, store: Store) -> Plan:
    """Return the plan of one language, made once in each worker process."""
    task = TASKS.load(config.task)()
    ((language, _),) = select_languages(task, config.lang)
    return make_plan(config, task, Path(config.data or ""), cached_encoder(config.encoder, config.device), language, store)


@lru_cache(maxsize=1)
def cached_encoder(spec: str, device: str) -> Encoder:
    """Return an encoder. Its model is loaded once for all languages."""
    return load_encoder(spec, device)


def load_or_measure(cell: Cell, plan: Plan, store: Store, console: Console, wait: bool = True) -> Record:
    """Return a cell's record. Raises BusyError if another run works on it or its tower and `wait` is False."""
    folder = store.record(cell.key)

    def make(path: Path) -> Record:
        measure_cell(cell, plan, store, console, wait)
        return check_stored_record(path)

    return check_record_encoder(store.get_or_create(folder, load_stored_record, make, wait), plan.encoder, folder)


def check_record_encoder(record: Record, encoder: Encoder, folder: Path) -> Record:
    """Return the record if it is of the encoder. Raises HarnessError if it is of another encoder.

    Built-in encoders with one fingerprint are one model under two names (a folder under two paths). Plug-ins with
    different names may differ although their fingerprints agree.
    """
    another = isinstance(encoder.fingerprint, PluginFingerprint) and record.encoder != encoder.name
    if another or record.encoder_fingerprint != encoder.fingerprint():
        raise HarnessError(
            f"{folder} is a record of the encoder {record.encoder}, not of {encoder.name}: delete that folder to measure it again"
        )
    return record


def measure_cell(cell: Cell, plan: Plan, store: Store, console: Console, wait: bool = True) -> None:
    """Embed, rank and write the record. The text tower is distilled first if it does not exist."""
    from harness.runtime.device import resolve_device

    retrieval, encoder, translations = cell.retrieval, plan.encoder, cell.translations
    queries, translation_card = retrieval, None
    if translations:
        english = translations.english(retrieval, store, console)
        queries = with_translations(retrieval, english)
        translation_card = TranslationCard(by=translations.by, source=translations.source, digest=digest_strings(english))
    device = resolve_device(plan.config.device)
    embed = Embedder(encoder, encoder, store, console, device)
    for name, images in shared_images(cell):
        embed.pictures(images, name)
    found = cell.scorer.rank(queries, replace(embed, tower=load_text_tower(cell, plan, store, console, wait)))
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
        documents=retrieval.document_count,
        headline=retrieval.headline,
        images_digest=retrieval.images.digest(),
        texts_digest=retrieval.texts_digest(),
        encoder=encoder.name,
        encoder_fingerprint=encoder.fingerprint(),
        text_tower=card.config.arm if card else TRANSLATE_TEST if translation_card else ENGLISH_TOWER,
        tower=card,
        translations=translation_card,
        scorer=cell.scorer.name,
        regions=region_card(views) if views else None,
        scores=found.scores,
        chance=found.chance,
        hubness=dict(found.hubness),
        notes=retrieval.notes + (translations.notes if translations else ()) + (views.regions.notes if views else ()),
        provenance=current_provenance(device),
    )
    save_record(store.record(cell.key), record, retrieval, found.ranks, found.columns)


def shared_images(cell: Cell) -> Iterator[tuple[str, Images]]:
    """Yield the images that a cell shares with other cells, each with its name for the progress display.

    They are embedded before a tower is distilled, so that an unreadable image is reported before an hour is spent.
    """
    if cell.retrieval.sought == "images":
        yield "images", cell.retrieval.images
    if cell.scorer.views:
        yield "regions", cell.scorer.views


def region_card(views: RegionViews) -> RegionCard:
    """Return the regions' entry in the record."""
    regions = views.regions
    return RegionCard(source=regions.source, view=views.view, count=len(regions.boxes), digest=regions.digest())


def load_text_tower(cell: Cell, plan: Plan, store: Store, console: Console, wait: bool) -> TextEncoder:
    """Return the cell's text tower, distilled if necessary. Raises BusyError if another run distils it and `wait` is False."""
    folder = cell.folder(store)
    if folder is None:
        return plan.encoder
    if cell.recipe:
        from harness.distill.pipeline import distill

        distill(cell.recipe, plan.config.device, store, console, wait)
    return DistilledTower(folder, plan.config.device)
