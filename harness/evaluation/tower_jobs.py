"""Distil towers without measuring them, as the command `distill` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.arms import ENGLISH_FITTED
from harness.core.builtins import TASKS, load_encoder
from harness.core.config import ExecutorConfig, RunConfig
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH, select_languages
from harness.core.option_use import check_options
from harness.distill.pipeline import distill
from harness.distill.recipe import Recipe
from harness.distill.teachers import check_teacher
from harness.evaluation.executors.jobs import announce_jobs, execute_jobs
from harness.evaluation.executors.local import run_in_turn
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.evaluation.runner import find_planned, summarize_failures
from harness.evaluation.served_arms import refuse_unserved
from harness.retrieval.phrases import mark_bitext_entities
from harness.runtime.console import Console
from harness.storage.store import Store

if TYPE_CHECKING:
    from harness.distill.distributed import Processes


@contextmanager
def torchrun_rank(device: str) -> Iterator[tuple[Processes | None, str]]:
    """Yield this process's rank under torchrun and its device. Without torchrun, yield None and the requested device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None, device
        return
    from harness.distill.distributed import join_torchrun

    with join_torchrun(device) as ranks_and_device:
        yield ranks_and_device


@dataclass(frozen=True)
class TowerOrder:
    """The towers to distil: one for each language that `config.lang` selects, or one shared tower, each with several seeds."""

    config: RunConfig
    seeds: int
    shared: bool
    store: Store

    def recipes(self) -> list[Recipe]:
        """Return a recipe for each tower. Raises HarnessError if the data or an option do not fit."""
        config, task = self.config, TASKS.load(self.config.task)()
        check_options(config.distill, [config.distill.objective])
        languages = [language for language, _ in select_languages(task, config.lang)]
        if any(language.code == ENGLISH for language in languages):
            raise HarnessError("English is the source of distillation: name other languages with --lang")
        folder, encoder = Path(config.data or ""), load_encoder(config.encoder, config.device)
        guarded = load_guarded_bitext(task, folder, languages, config, config.distill.objective == ENGLISH_FITTED)
        distill = config.distill.for_arm(config.distill.objective)
        check_teacher(distill, encoder)
        choices = [distill.model_copy(update={"seed": distill.seed + more}) for more in range(self.seeds)]
        groups = [guarded] if self.shared else [(each,) for each in guarded]
        tag = partial(mark_bitext_entities, task=task, data=folder, chunker=config.chunker)
        return [Recipe(choice, encoder, group, tag) for group in groups for choice in choices]


@dataclass(frozen=True, eq=False)
class TowerJob:
    """The job of distilling a tower. ranks: this process among those that distil it together."""

    recipe: Recipe
    order: TowerOrder
    ranks: Processes | None = None

    @property
    def folder(self) -> Path:
        """The tower's folder, which may not exist yet."""
        return self.order.store.tower(self.recipe.digest)

    @property
    def langs(self) -> str:
        """The tower's language, or the languages that share it."""
        return ",".join(each.bitext.lang for each in self.recipe.guarded)

    @property
    def label(self) -> str:
        """Arm and seed."""
        return f"{self.recipe.config.arm}, seed {self.recipe.config.seed}"

    @property
    def name(self) -> str:
        """Language, arm and seed."""
        return f"{self.langs}, {self.label}"

    def do(self, console: Console, wait: bool) -> None:
        """Distil the tower unless it exists. Raises BusyError if another run distils it and `wait` is False."""
        distill(self.recipe, self.order.config.device, self.order.store, console, wait, self.ranks)

    def elsewhere(self) -> Callable[[], TowerJob]:
        """Return the function that makes the job in another process."""
        return partial(find_tower_job, self.order, self.recipe.digest)


@lru_cache(maxsize=1)
def recipes_by_digest(order: TowerOrder) -> Mapping[str, Recipe]:
    """Return an order's recipes by digest, made once in each worker process."""
    return {recipe.digest: recipe for recipe in order.recipes()}


def find_tower_job(order: TowerOrder, digest: str) -> TowerJob:
    """Return the job of the tower with a digest. Raises HarnessError if the order has no such tower on this machine."""
    return TowerJob(find_planned(recipes_by_digest(order), digest), order)


def distil_all(
    order: TowerOrder, console: Console, choices: ExecutorConfig, ranks: Processes | None = None
) -> tuple[list[Path], Mapping[str, Mapping[str, str]]]:
    """Distil an order's towers. Return the folders of finished towers, and the errors of failed ones by language and label.

    A failed tower does not stop the others. Raises HarnessError if all fail with one error that the user can fix. ranks: this
    process among those that distil each tower together. With it, every error is raised.
    """
    recipes = order.recipes()
    refuse_unserved(recipes, order.store)
    jobs = [TowerJob(recipe, order, ranks) for recipe in recipes]
    if ranks:  # all ranks do the same jobs in the same order, or they would wait for each other forever
        for job in jobs:
            job.do(console, wait=True)
        return [job.folder for job in jobs], {}
    there = [job for job in jobs if job.folder.is_dir()]
    missing = [job for job in jobs if job not in there]
    made = execute_jobs(announce_jobs(missing, choices, console, "tower"), choices, order.store, console) if missing else iter(())
    ended = dict(chain(run_in_turn(console, there, wait=True), made))
    if (error := summarize_failures({job.name: outcome for job, outcome in ended.items()})) and error.reason:
        raise HarnessError(error.reason)
    folders = [job.folder for job in jobs if ended[job].state == "done"]
    failed: dict[str, dict[str, str]] = {}
    for job in jobs:
        if ended[job].state == "failed":
            failed.setdefault(job.langs, {})[job.label] = ended[job].why
    return folders, failed
