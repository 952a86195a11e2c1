"""The run of a study, and the progress table of a dry run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from harness.core.config import ExecutorConfig
from harness.core.errors import HarnessError
from harness.evaluation.executors.jobs import execute_jobs
from harness.evaluation.runner import CellJob, cell_job, find_planned
from harness.evaluation.served_arms import refuse_unserved
from harness.storage.store import Store
from harness.study.design import StudyConfig
from harness.study.grid import GridPosition, StepTimes, Study, StudyCell, TrainingCost, plan_study

if TYPE_CHECKING:
    from rich.table import Table

    from harness.runtime.console import Console

_FAILURES_IN_A_ROW = 3


def run_study(
    study: Study, store: Store, console: Console, seconds: float = math.inf, choices: ExecutorConfig | None = None
) -> Mapping[GridPosition, str]:
    """Measure the missing cells in the order of the study. Return the failed cells with the reasons.

    seconds: no cell starts after this time, and running cells are finished. A failed cell (its training diverges, say) is
    skipped. Raises HarnessError at the third failure in a row, and at once if an English tower fails. Raises UnservedArmError
    before any training if the teacher does not serve an arm.
    """
    missing, failed, in_a_row = study.missing(store), dict[GridPosition, str](), 0
    if not missing:
        return {}
    refuse_unserved((step.cell.recipe for step in missing if step.cell.recipe), store)
    places = {step.cell.key: step.place for step in missing}
    jobs = missing_cell_jobs(missing, study, store, console, time.monotonic() + seconds)
    with closing(execute_jobs(jobs, choices or ExecutorConfig(), store, console)) as outcomes:
        for job, outcome in outcomes:
            place = places.get(job.cell.key)
            if outcome.state == "done":
                in_a_row = 0 if place else in_a_row
                continue
            if place is None:
                raise HarnessError(outcome.why)
            failed[place], in_a_row = outcome.why, in_a_row + 1
            if in_a_row == _FAILURES_IN_A_ROW:
                raise HarnessError(outcome.why)
            console.say(f"skipped: {position_text(place)}: {outcome.why}")
    return failed


def missing_cell_jobs(
    missing: Sequence[StudyCell], study: Study, store: Store, console: Console, ends: float
) -> Iterator[CellJob]:
    """Yield the jobs of the missing cells. English towers come first in each language."""
    english = set[str]()
    for number, step in enumerate(missing):
        if time.monotonic() >= ends:
            console.say(
                f"time limit reached: {len(missing) - number:,} of {len(study.steps):,} cells remain; rerun the command to resume"
            )
            return
        console.say(f"cell {number + 1:,} of {len(missing):,}: {position_text(step.place)}")
        for cell in study.languages[step.place.lang].english:
            if cell.key not in english:
                english.add(cell.key)
                yield cell_job(cell, step.plan, store)
        yield study_cell_job(step, study, store)


def study_cell_job(step: StudyCell, study: Study, store: Store) -> CellJob:
    """Return the job of a study's cell."""
    config = study.config.model_copy(update={"data": str(step.plan.data)}).model_dump_json()
    return CellJob(step.cell, step.plan, store, partial(find_study_cell, config, step.plan.config.device, store, step.cell.key))


def find_study_cell(config: str, device: str, store: Store, key: str) -> CellJob:
    """Return the job of a cell in another process. Raises HarnessError if the study does not contain the cell's digest."""
    study = cached_plan(config, device, store)
    return study_cell_job(find_planned({step.cell.key: step for step in study.steps}, key), study, store)


@lru_cache(maxsize=1)
def cached_plan(config: str, device: str, store: Store) -> Study:
    """Plan a study once in each process that measures its cells."""
    return plan_study(StudyConfig.model_validate_json(config), device, store)


def position_text(place: GridPosition) -> str:
    """Return a grid position in words."""
    return f"{place.lang}, {size_text(place.pairs)}, {place.arm}, seed {place.seed}"


def size_text(pairs: int | None) -> str:
    """Return a bitext size in words.

    >>> size_text(1000), size_text(None)
    ('1,000 pairs', 'all pairs')
    """
    return "all pairs" if pairs is None else f"{pairs:,} pairs"


def progress_table(study: Study, store: Store) -> Table:
    """Return the done and the missing cells of a study, with the cost of the rest, in the order of the run."""
    from harness.runtime.console import plain_table

    prices = StepTimes(store, study.steps[0].plan.encoder.fingerprint())
    missing = {step.place for step in study.missing(store)}
    rows = []
    for key, steps in group_cells(study).items():
        cost = prices.cost([step for step in steps if step.place in missing], store)
        rows.append((*key, f"{len(steps) - cost.cells:,} of {len(steps):,}", f"{cost.steps:,}", duration_text(cost)))
    whole = prices.cost([step for step in study.steps if step.place in missing], store)
    done = f"{len(study.steps) - whole.cells:,} of {len(study.steps):,}"
    rows.append(("", "", "all", done, f"{whole.steps:,}", duration_text(whole)))
    return plain_table(study.config.title, ("bitext", "language", "seeds", "cells done", "steps to train", "takes"), rows)


def group_cells(study: Study) -> dict[tuple[str, str, str], list[StudyCell]]:
    """Group cells by size, language and block of seeds."""
    found: dict[tuple[str, str, str], list[StudyCell]] = {}
    for step in study.steps:
        place = step.place
        seeds = study.config.seeds if place.seed in study.config.seeds else study.config.replicate
        name = study.languages[place.lang].language.name
        found.setdefault((size_text(place.pairs), name, " ".join(map(str, seeds))), []).append(step)
    return found


def duration_text(cost: TrainingCost) -> str:
    """Return the training time in words, if it is known.

    >>> times = ((100, 90.0), (100, 25200.0), (100, math.nan), (0, 0.0))
    >>> [duration_text(TrainingCost(1, steps, seconds)) for steps, seconds in times]
    ['2 min', '7.0 h', 'not known yet', '']
    """
    if math.isnan(cost.seconds):
        return "not known yet"
    if not cost.steps:
        return ""
    return f"{cost.seconds / 3600:.1f} h" if cost.seconds >= 5400 else f"{max(1, round(cost.seconds / 60))} min"
