"""From a study's configuration to its cells, in the order in which they are run, and what the rest of them will cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from harness.core.config import DataConfig, RunConfig, validated
from harness.core.data import Language
from harness.core.errors import HarnessError, MissingError
from harness.core.languages import ENGLISH
from harness.core.protocols import KnownFeatures
from harness.core.suggestions import nearest
from harness.distill.data.leakage import GuardedBitext
from harness.distill.pipeline import LearningRateSearch, Recipe, learning_rate_trials
from harness.evaluation.cells import Cell, distilled_cell
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.evaluation.planning import Plan, make_plans
from harness.records.files import check_stored_record
from harness.records.towers import load_card
from harness.retrieval.phrases import tagged
from harness.storage.seals import is_undamaged, load_readable
from harness.storage.store import Store
from harness.study.design import StudyConfig

DESIGNS = Path(__file__).with_name("designs")
_VAL = "val"


@dataclass(frozen=True)
class GridPosition:
    """Where a cell stands in the grid. arm: its name. pairs: None for all."""

    arm: str
    lang: str
    pairs: int | None
    seed: int


@dataclass(frozen=True)
class StudyCell:
    """A cell to be measured, its place, and the plan of its language."""

    place: GridPosition
    cell: Cell
    plan: Plan


@dataclass(frozen=True)
class StudyLanguage:
    """A language of a study: the plan of its English cells, and its bitext without the pairs of evaluation images.

    search: its val captions, by which learning rates are searched for; None where nothing is searched or there are none.
    """

    plan: Plan
    guarded: tuple[GuardedBitext, ...]
    search: LearningRateSearch | None

    @property
    def language(self) -> Language:
        """Which it is."""
        return self.plan.language

    @property
    def usable(self) -> int:
        """Sentence pairs there are."""
        return len(self.guarded[0].bitext)

    @property
    def english(self) -> tuple[Cell, ...]:
        """What is measured without distillation: the English tower on the captions, and on their English twins."""
        floor, *others = self.plan.cells
        return (floor, *(cell for cell in others if cell.retrieval.is_english_side))


@dataclass(frozen=True)
class UnavailableData:
    """A language, or one size of its bitext, that the data do not allow, and why. pairs: None for all, 0 for every size."""

    lang: str
    pairs: int | None
    reason: str

    def said(self) -> str:
        """It in a line."""
        return f"{self.lang}{'' if self.pairs == 0 else f' with {self.pairs:,} pairs'}: {self.reason}"


@dataclass(frozen=True)
class Study:
    """A study laid out. tongues: its languages by code, those with the fewest resources first. steps: in the order of running."""

    config: StudyConfig
    tongues: Mapping[str, StudyLanguage]
    steps: tuple[StudyCell, ...]
    impossible: tuple[UnavailableData, ...]

    def missing(self, store: Store) -> list[StudyCell]:
        """What is not measured yet."""
        return [step for step in self.steps if not is_undamaged(store.record(step.cell.key), check_stored_record)]


def find_design(text: str) -> Path:
    """The TOML file of a study: one that comes along, by its name, or the user's own. Raises HarnessError if it is neither."""
    known = {path.stem: path for path in sorted(DESIGNS.glob("*.toml"))}
    if text in known:
        return known[text]
    if not Path(text).is_file():
        raise HarnessError(f"{text} is no file, and no study that comes along is called so: {nearest(text, known)}")
    return Path(text)


def plan_study(config: StudyConfig, device: str, store: Store) -> Study:
    """Every cell of a study. Loads no model and trains nothing.

    Raises HarnessError as `make_plans` does, and if the task, the encoder or every language is none that can be distilled.
    """
    plans, absent = make_plans(run_config(config, device), store)
    first = plans[0].cells[0].retrieval
    if first.sought != "images":
        raise HarnessError(f"a study compares retrieval of images, and {config.task} looks for other things: name another task")
    if isinstance(plans[0].encoder, KnownFeatures):
        raise HarnessError(f"{config.encoder} is embeddings without a model, which cannot teach: name another encoder")
    if any(plan.language.code == ENGLISH for plan in plans):
        raise HarnessError("English is what is distilled from: name other languages in lang")
    impossible = [UnavailableData(language.code, 0, "no captions") for language in absent]
    tongues: dict[str, StudyLanguage] = {}
    for plan in sorted(plans, key=lambda plan: (plan.language.tier is None, plan.language.tier)):
        try:
            pairs = load_guarded_bitext(plan.task, plan.data, [plan.language], config)
            tongues[plan.language.code] = StudyLanguage(plan, pairs, learning_rate_search(config, plan))
        except MissingError as error:
            impossible.append(UnavailableData(plan.language.code, 0, str(error)))
    if not tongues:
        raise HarnessError(f"nothing can be distilled into any language of the study: {impossible[-1].reason}")
    impossible += unavailable_sizes(config, tongues.values())
    without = {(each.lang, each.pairs) for each in impossible}
    steps = tuple(
        study_cell(place, config, tongues[place.lang])
        for place in grid_positions(config, tongues)
        if (place.lang, place.pairs) not in without
    )
    if not steps:
        raise HarnessError(f"no language has as many sentence pairs as the study asks for: {impossible[-1].reason}")
    return Study(config, tongues, steps, tuple(impossible))


def learning_rate_search(config: StudyConfig, plan: Plan) -> LearningRateSearch | None:
    """Where a language's learning rates are searched for, if they are and it has val captions: by towers of the first seed.

    Without val captions, or if they cannot be read, it is searched by its pairs, and the report says so of each such language.
    """
    if not config.distill.get("tune"):
        return None
    try:
        return LearningRateSearch(plan.task.load(plan.data, plan.language.code, _VAL, config.source), config.seeds[0])
    except HarnessError:
        return None


def run_config(config: StudyConfig, device: str) -> RunConfig:
    """What `run` would be told of the study's languages, nothing distilled."""
    shared = {name: getattr(config, name) for name in DataConfig.model_fields if name not in ("text", "chunker")}
    return validated(RunConfig, objectives=(), device=device, **shared)


def unavailable_sizes(config: StudyConfig, tongues: Iterable[StudyLanguage]) -> list[UnavailableData]:
    """The sizes of which languages have fewer pairs."""
    return [
        UnavailableData(tongue.language.code, pairs, f"{tongue.language.name} has {tongue.usable:,} usable pairs")
        for tongue in tongues
        for pairs in config.sizes
        if pairs is not None and pairs > tongue.usable
    ]


def grid_positions(config: StudyConfig, langs: Iterable[str]) -> Iterator[GridPosition]:
    """The grid, what decides first: the first size, the first language, all seeds and arms of these, and so on.

    A study that is broken off then says something of some languages rather than nothing of each. Its repetition comes last.
    """
    for seeds in (config.seeds, config.replicate):
        for pairs in config.sizes:
            for lang in langs:
                yield from (GridPosition(arm.name, lang, pairs, seed) for seed in seeds for arm in config.arms)


def study_cell(place: GridPosition, config: StudyConfig, tongue: StudyLanguage) -> StudyCell:
    """The cell of a place."""
    (arm,) = (arm for arm in config.arms if arm.name == place.arm)
    plan = tongue.plan
    tag = partial(tagged, task=plan.task, data=plan.data, chunker=config.chunker)
    recipe = Recipe(arm.recipe(config.distill, place.pairs, place.seed), plan.encoder, tongue.guarded, tag, tongue.search)
    return StudyCell(place, distilled_cell(place.arm, recipe, tongue.english[0].retrieval, plan.task), plan)


@dataclass(frozen=True)
class TrainingCost:
    """Trainings of some cells: optimiser steps, with those of the search for a rate, and seconds, NaN if unknown."""

    cells: int
    steps: int
    seconds: float


class StepTimes:
    """Seconds that an optimiser step takes, as measured when the towers of a store were trained from one teacher."""

    def __init__(self, store: Store, teacher: str) -> None:
        cards = [card for _, card in load_readable(store.towers(), load_card)]
        self.measured: dict[str, list[float]] = {}
        for card in cards:
            if card.teacher_fingerprint == teacher and card.steps:
                self.measured.setdefault(card.config.objective, []).append(card.seconds / card.steps)

    def of(self, objective: str) -> float:
        """The median of the towers of this objective; where there is none, of all; NaN where no tower was trained at all."""
        found = self.measured.get(objective) or [each for prices in self.measured.values() for each in prices]
        return median(found) if found else math.nan

    def cost(self, steps: Sequence[StudyCell], store: Store) -> TrainingCost:
        """What it takes to make the towers of some cells that are not there yet, and to search for their learning rates."""
        recipes = {each.cell.recipe.digest: each.cell.recipe for each in steps if each.cell.recipe}
        wanted = [recipe for recipe in recipes.values() if not store.tower(recipe.digest).is_dir()]
        tried = {each.digest: each.recipe for recipe in wanted for each in learning_rate_trials(recipe)}
        towers = [*wanted, *(recipe for digest, recipe in tried.items() if not store.trial(digest).is_file())]
        seconds = sum(tower.steps * self.of(tower.config.objective) for tower in towers if tower.steps)
        return TrainingCost(len(steps), sum(tower.steps for tower in towers), seconds)
