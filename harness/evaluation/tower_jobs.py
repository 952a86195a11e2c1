"""Towers that are made and not measured: what `distill` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.builtins import TASKS, load_encoder
from harness.core.config import ExecutorConfig, RunConfig
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH, select_languages
from harness.distill.pipeline import Recipe, distil
from harness.evaluation.executors.jobs import announce_jobs, execute_jobs
from harness.evaluation.executors.local import run_in_turn
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.evaluation.runner import find_planned, summarize_failures
from harness.retrieval.phrases import tagged
from harness.runtime.console import Console
from harness.storage.store import Store

if TYPE_CHECKING:
    from harness.distill.distributed import Processes


@contextmanager
def torchrun_processes(device: str) -> Iterator[tuple[Processes | None, str]]:
    """This process among those that torchrun started, and its device; None and the device that was asked for without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None, device
        return
    from harness.distill.distributed import ranks_of_torchrun

    with ranks_of_torchrun(device) as ranks_and_device:
        yield ranks_and_device


@dataclass(frozen=True)
class TowerOrder:
    """Towers to be distilled: one for each language that `config.lang` means, or one that they share, with so many seeds."""

    config: RunConfig
    seeds: int
    shared: bool
    store: Store

    def recipes(self) -> list[Recipe]:
        """A recipe for each tower. Raises HarnessError for every input that cannot be served."""
        config, task = self.config, TASKS.load(self.config.task)()
        languages = [language for language, _ in select_languages(task, config.lang)]
        if any(language.code == ENGLISH for language in languages):
            raise HarnessError("English is what is distilled from: name other languages with --lang")
        folder, encoder = Path(config.data or ""), load_encoder(config.encoder, config.device)
        guarded = load_guarded_bitext(task, folder, languages, config)
        distill = config.distill.for_objective(config.distill.objective)
        choices = [distill.model_copy(update={"seed": distill.seed + more}) for more in range(self.seeds)]
        groups = [guarded] if self.shared else [(each,) for each in guarded]
        tag = partial(tagged, task=task, data=folder, chunker=config.chunker)
        return [Recipe(choice, encoder, group, tag) for group in groups for choice in choices]


@dataclass(frozen=True, eq=False)
class TowerJob:
    """A tower to be distilled. ranks: this process among those that do it together."""

    recipe: Recipe
    order: TowerOrder
    ranks: Processes | None = None

    @property
    def folder(self) -> Path:
        """Where the tower is, or will be."""
        return self.order.store.tower(self.recipe.digest)

    @property
    def langs(self) -> str:
        """Its language, or those that share it."""
        return ",".join(each.bitext.lang for each in self.recipe.guarded)

    @property
    def label(self) -> str:
        """Objective and seed."""
        return f"{self.recipe.config.objective}, seed {self.recipe.config.seed}"

    @property
    def name(self) -> str:
        """Language, objective and seed."""
        return f"{self.langs}, {self.label}"

    def do(self, console: Console, wait: bool) -> None:
        """Distil it unless it is there. Raises BusyError if another run is at it and `wait` is False."""
        distil(self.recipe, self.order.config.device, self.order.store, console, wait, self.ranks)

    def elsewhere(self) -> Callable[[], TowerJob]:
        """What makes it in another process."""
        return partial(find_tower_job, self.order, self.recipe.digest)


@lru_cache(maxsize=1)
def recipes_by_digest(order: TowerOrder) -> Mapping[str, Recipe]:
    """An order's recipes, made once in each process that distils some of them."""
    return {recipe.digest: recipe for recipe in order.recipes()}


def find_tower_job(order: TowerOrder, digest: str) -> TowerJob:
    """The job of the tower of that digest. Raises HarnessError if the order does not lead to it here."""
    return TowerJob(find_planned(recipes_by_digest(order), digest), order)


def distil_all(
    order: TowerOrder, console: Console, choices: ExecutorConfig, ranks: Processes | None = None
) -> tuple[list[Path], Mapping[str, Mapping[str, str]]]:
    """Distil an order's towers: the folders of those that are made, and why others could not be, by language and label.

    One that fails does not stop the others; if all do for one reason that the user can put right, that HarnessError is raised.
    ranks: this process among those that make each tower together; there whatever fails is raised.
    """
    jobs = [TowerJob(recipe, order, ranks) for recipe in order.recipes()]
    if ranks:  # which have to do the same in the same order, or they would wait for each other for ever
        for job in jobs:
            job.do(console, wait=True)
        return [job.folder for job in jobs], {}
    there = [job for job in jobs if job.folder.is_dir()]
    missing = [job for job in jobs if job not in there]
    made = execute_jobs(announce_jobs(missing, choices, console, "tower"), choices, order.store, console) if missing else iter(())
    ended = dict(chain(run_in_turn(console, there, wait=True), made))
    if (told := summarize_failures({job.name: outcome for job, outcome in ended.items()})) and told.reason:
        raise HarnessError(told.reason)
    folders = [job.folder for job in jobs if ended[job].state == "done"]
    failed: dict[str, dict[str, str]] = {}
    for job in jobs:
        if ended[job].state == "failed":
            failed.setdefault(job.langs, {})[job.label] = ended[job].why
    return folders, failed
