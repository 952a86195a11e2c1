"""Tuning: short trainings that choose the learning rate, and the number of subwords and of steps where they are searched too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.config import DistillConfig
from harness.core.data import Retrieval
from harness.core.digests import digest_json
from harness.core.option_use import TUNING, initializer_reads
from harness.core.protocols import Encoder
from harness.distill.data.subwords import tokenize
from harness.distill.recipe import Recipe, SearchImages
from harness.distill.student_training import train_student
from harness.records.schema import Trial
from harness.storage.embeddings import embed_images
from harness.storage.seals import clear_damaged, load_json_entry, read_json_entry, write_json_entry
from harness.storage.store import BusyError, DamagedError, Store, remove_leftovers

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from harness.distill.distributed import Processes
    from harness.distill.model.tower import TextTower
    from harness.runtime.console import Console


@dataclass(frozen=True)
class SearchTrial:
    """A training that tries one combination of the searched options. images: those that score it; None for its held-out pairs."""

    recipe: Recipe
    images: SearchImages | None

    @property
    def digest(self) -> str:
        """The name of its score in the store."""
        return digest_json([self.recipe.digest, self.images.digest]) if self.images else self.recipe.digest

    def scored(self, score: float, seconds: float | None = None) -> Trial:
        """Return its entry on the tower's card. seconds: training time, None if unknown."""
        config = self.recipe.config
        return Trial(
            learning_rate=config.peak_learning_rate,
            vocabulary=config.vocabulary if "vocabulary" in initializer_reads(config.init) else None,
            steps=config.steps,
            score=score,
            seconds=seconds,
        )


def search_trials(recipe: Recipe) -> list[SearchTrial]:
    """Return a trial of each combination of the recipe's searched options, or none if the recipe is not tuned.

    A trial has a third of the steps and as many warm-up steps as the full training. If steps are searched, it has all of them,
    since a third says nothing about too many. With images, trials have the seed of the search, so that towers of all seeds share
    them. Without, a tenth of the pairs are held out and score the trials.
    """
    config, images = recipe.config, recipe.search
    if not (config.tune and recipe.steps):
        return []
    shared: dict[str, object] = dict.fromkeys(TUNING, ()) | {"tune": False, "patience": None}
    shared |= {"seed": images.seed} if images else {"held_out": max(2, len(recipe.bitext) // 10)}
    schedules: list[dict[str, object]] = [{"steps": steps} for steps in config.tune_steps] or [third_of_steps(recipe)]
    vocabularies = config.tune_vocabulary or (config.vocabulary,)
    configs = [
        config.model_copy(update={**shared, **schedule, "vocabulary": vocabulary, "learning_rate": rate})
        for schedule, vocabulary, rate in product(schedules, vocabularies, recipe.searched_rates)
    ]
    return [SearchTrial(replace(recipe, config=each, search=None), images) for each in configs]


def third_of_steps(recipe: Recipe) -> dict[str, object]:
    """Return the schedule of a trial with a third of a recipe's steps."""
    steps = max(1, recipe.steps // 3)
    # A rate that suits the full training can diverge if the warm-up is three times as fast.
    return {"steps": steps, "warmup": min(0.9, recipe.config.warmup * recipe.steps / steps)}


def tune(recipe: Recipe, device: str, store: Store, console: Console, ranks: Processes) -> tuple[Trial, ...]:
    """Return the scored trials of a recipe, in the order of `search_trials`. Scores are stored.

    Trials that other processes are running come last, so that towers of several seeds share the work of the search.
    """
    scored: dict[str, Trial] = {}
    left = trials = search_trials(recipe)
    # All ranks of a training run the trials in the same order.
    for wait in (True,) if ranks.count > 1 else (False, True):
        for trial in left:
            with suppress(BusyError):
                scored[trial.digest] = score_trial(trial, device, store, console, ranks, wait)
        left = [trial for trial in left if trial.digest not in scored]
    return tuple(scored[trial.digest] for trial in trials)


def tuned(config: DistillConfig, trials: Sequence[Trial]) -> DistillConfig:
    """Return a configuration with the searched options of the trial with the highest score; the first of equal ones."""
    if not trials:
        return config
    best = max(trials, key=lambda trial: trial.score)
    chosen: dict[str, object] = {"learning_rate": best.learning_rate}
    chosen |= {"vocabulary": best.vocabulary} if config.tune_vocabulary else {}
    chosen |= {"steps": best.steps} if config.tune_steps else {}
    return config.model_copy(update=chosen)


def edge_note(config: DistillConfig, trials: Sequence[Trial]) -> str:
    """Return a note if a chosen value is the largest or smallest of three or more that were tried, else an empty text.

    The best value may then lie outside the grid.

    >>> trials = [Trial(learning_rate=rate, score=rate) for rate in (0.1, 0.2, 0.3)]
    >>> edge_note(tuned(DistillConfig(), trials), trials)
    'the chosen learning rate 0.3 is the largest of 3 tried: a better one may lie beyond'
    """
    for field in ("learning_rate", "vocabulary", "steps"):
        tried = sorted({value for trial in trials if (value := getattr(trial, field)) is not None})
        if len(tried) >= 3 and (value := getattr(config, field)) in (tried[0], tried[-1]):
            end = "largest" if value == tried[-1] else "smallest"
            return (
                f"the chosen {field.replace('_', ' ')} {value:,} is the {end} of {len(tried)} tried: a better one may lie beyond"
            )
    return ""


def score_trial(trial: SearchTrial, device: str, store: Store, console: Console, ranks: Processes, wait: bool) -> Trial:
    """Return a trial with its score, stored or new. Raises BusyError if another process runs it and `wait` is False."""

    def load(path: Path) -> Trial | None:
        stored = stored_trial(path) if ranks.leads else None
        score = ranks.from_leader(stored.score if stored else math.nan)
        return None if math.isnan(score) else trial.scored(score, stored.seconds if stored else None)

    def make(path: Path) -> Trial:
        if ranks.leads:
            clear_damaged(path, read_json_entry)
        return run_trial(trial, path, device, store, console, ranks)

    return store.get_or_create(store.trial(trial.digest), load, make, wait, claim=ranks.leads)


def stored_trial(path: Path) -> Trial | None:
    """Return the trial in a file, or None if the file is missing, damaged or of another recipe."""
    try:
        content = load_json_entry(path)
    except DamagedError:
        return None
    return None if content is None else Trial.model_validate(content)


def run_trial(trial: SearchTrial, path: Path, device: str, store: Store, console: Console, ranks: Processes) -> Trial:
    """Train for a trial, store its score and return it."""
    recipe = trial.recipe
    if ranks.leads:
        remove_leftovers(store.training(trial.digest))
    student, tokenizer, state = train_student(recipe, trial.digest, device, store, console, ranks)
    if trial.images:
        score = ranks.from_leader(
            image_retrieval_score(student, tokenizer, recipe.teacher, trial.images.retrieval, store, console)
        )
    else:
        score = max(score for _, score in state.validations)
    scored = trial.scored(score, round(state.seconds, 1))
    if ranks.leads:
        write_json_entry(path, scored.model_dump())
        store.training(trial.digest).unlink(missing_ok=True)
    return scored


def image_retrieval_score(
    student: TextTower, tokenizer: Tokenizer, teacher: Encoder, retrieval: Retrieval, store: Store, console: Console
) -> float:
    """Return the mean reciprocal rank of image-text retrieval, averaged over both directions, in percent."""
    from harness.retrieval.ranking import mean_reciprocal_rank, rank

    with console.stage("embeds val images", len(retrieval.images.ids), "images") as advance:
        images = embed_images(teacher, retrieval.images, store, lambda count: advance(count, ""))
    texts = tokenize(tokenizer, retrieval.captions, student.config.max_length)
    ranks = rank(images, student.embed(texts).cpu().numpy(), retrieval.caption_images)
    return mean_reciprocal_rank(ranks)
