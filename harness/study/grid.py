"""The cells of a study in the order of the run, and the cost of the missing ones."""

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
from harness.distill.recipe import Recipe, SearchImages
from harness.distill.teachers import check_teacher
from harness.distill.tuning import search_trials
from harness.evaluation.cells import Cell, distilled_cell
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.evaluation.planning import Plan, make_plans
from harness.records.files import check_stored_record
from harness.records.towers import load_card
from harness.retrieval.phrases import mark_bitext_entities
from harness.storage.seals import is_undamaged, load_readable
from harness.storage.store import Store
from harness.study.design import StudyConfig

DESIGNS = Path(__file__).with_name("designs")
_VAL = "val"


@dataclass(frozen=True)
class GridPosition:
    """A position in the grid. arm: its name. pairs: None for all."""

    arm: str
    lang: str
    pairs: int | None
    seed: int


@dataclass(frozen=True)
class StudyCell:
    """A cell of a study, its position, and the plan of its language."""

    place: GridPosition
    cell: Cell
    plan: Plan


@dataclass(frozen=True)
class StudyLanguage:
    """A language of a study: the plan of its English cells, and its bitext after the leakage guard.

    search: val captions that score the trials of the search; None if there is no search or no val captions.
    """

    plan: Plan
    guarded: tuple[GuardedBitext, ...]
    search: SearchImages | None

    @property
    def language(self) -> Language:
        """The language."""
        return self.plan.language

    @property
    def usable(self) -> int:
        """Number of usable sentence pairs."""
        return len(self.guarded[0].bitext)

    @property
    def english(self) -> tuple[Cell, ...]:
        """Cells without distillation: the English tower on the captions and on their English versions."""
        floor, *others = self.plan.cells
        return (floor, *(cell for cell in others if cell.retrieval.is_english_side))


@dataclass(frozen=True)
class UnavailableData:
    """A language, or one size of its bitext, that the data do not allow. pairs: None for all, 0 for every size."""

    lang: str
    pairs: int | None
    reason: str

    def said(self) -> str:
        """Return the language, the size and the reason as one line."""
        return f"{self.lang}{'' if self.pairs == 0 else f' with {self.pairs:,} pairs'}: {self.reason}"


@dataclass(frozen=True)
class Study:
    """A planned study.

    languages: its languages by code, those with the fewest resources first. steps: its cells in the order of the run.
    """

    config: StudyConfig
    languages: Mapping[str, StudyLanguage]
    steps: tuple[StudyCell, ...]
    impossible: tuple[UnavailableData, ...]

    def missing(self, store: Store) -> list[StudyCell]:
        """Return the cells without a record."""
        return [step for step in self.steps if not is_undamaged(store.record(step.cell.key), check_stored_record)]


def find_design(text: str) -> Path:
    """Return the TOML file of a built-in study by its name, or of the user's own.

    Raises HarnessError if it is neither.
    """
    known = {path.stem: path for path in sorted(DESIGNS.glob("*.toml"))}
    if text in known:
        return known[text]
    if not Path(text).is_file():
        raise HarnessError(f"{text} is neither a file nor a built-in study: {nearest(text, known)}")
    return Path(text)


def plan_study(config: StudyConfig, device: str, store: Store) -> Study:
    """Plan every cell of a study. Loads no model and trains nothing.

    Raises HarnessError as `make_plans` does, and if the task, the encoder or every language does not support distillation.
    """
    plans, absent = make_plans(run_config(config, device), store)
    first = plans[0].cells[0].retrieval
    if first.sought != "images":
        raise HarnessError(f"a study needs a task of image retrieval, and {config.task} is none: name another task")
    if isinstance(plans[0].encoder, KnownFeatures):
        raise HarnessError(f"{config.encoder} holds embeddings without a model and cannot be a teacher: name another encoder")
    if any(plan.language.code == ENGLISH for plan in plans):
        raise HarnessError("English is the source of distillation: name other languages in lang")
    impossible = [UnavailableData(language.code, 0, "no captions") for language in absent]
    languages: dict[str, StudyLanguage] = {}
    for plan in sorted(plans, key=lambda plan: (plan.language.tier is None, plan.language.tier)):
        try:
            pairs = load_guarded_bitext(plan.task, plan.data, [plan.language], config)
            languages[plan.language.code] = StudyLanguage(plan, pairs, search_images(config, plan))
        except MissingError as error:
            impossible.append(UnavailableData(plan.language.code, 0, str(error)))
    if not languages:
        raise HarnessError(f"no language of the study can be distilled: {impossible[-1].reason}")
    impossible += unavailable_sizes(config, languages.values())
    without = {(each.lang, each.pairs) for each in impossible}
    steps = tuple(
        study_cell(place, config, languages[place.lang])
        for place in grid_positions(config, languages)
        if (place.lang, place.pairs) not in without
    )
    if not steps:
        raise HarnessError(f"no language has enough sentence pairs for the study: {impossible[-1].reason}")
    return Study(config, languages, steps, tuple(impossible))


def search_images(config: StudyConfig, plan: Plan) -> SearchImages | None:
    """Return the val images that score the search, and the first seed; None without search or val captions.

    Without val captions the sentence pairs are used for the search, and the report says so.
    """
    if not config.distill.get("tune"):
        return None
    try:
        return SearchImages(plan.task.load(plan.data, plan.language.code, _VAL, config.source), config.seeds[0])
    except HarnessError:
        return None


def run_config(config: StudyConfig, device: str) -> RunConfig:
    """Return the configuration of an equivalent `run` without distillation."""
    shared = {name: getattr(config, name) for name in DataConfig.model_fields if name not in ("text", "chunker")}
    return validated(RunConfig, arms=(), device=device, **shared)


def unavailable_sizes(config: StudyConfig, languages: Iterable[StudyLanguage]) -> list[UnavailableData]:
    """Return the sizes for which languages have too few pairs."""
    return [
        UnavailableData(language.language.code, pairs, f"{language.language.name} has {language.usable:,} usable pairs")
        for language in languages
        for pairs in config.sizes
        if pairs is not None and pairs > language.usable
    ]


def grid_positions(config: StudyConfig, langs: Iterable[str]) -> Iterator[GridPosition]:
    """Yield the grid: seeds and arms vary fastest, then languages, then sizes. Replication comes last.

    An interrupted study thus has complete comparisons in some languages.
    """
    for seeds in (config.seeds, config.replicate):
        for pairs in config.sizes:
            for lang in langs:
                yield from (GridPosition(arm.name, lang, pairs, seed) for seed in seeds for arm in config.arms)


def study_cell(place: GridPosition, config: StudyConfig, language: StudyLanguage) -> StudyCell:
    """Return the cell of a grid position."""
    (arm,) = (arm for arm in config.arms if arm.name == place.arm)
    plan = language.plan
    tag = partial(mark_bitext_entities, task=plan.task, data=plan.data, chunker=config.chunker)
    options = arm.recipe(config.distill, place.pairs, place.seed)
    check_teacher(options, plan.encoder)
    recipe = Recipe(options, plan.encoder, language.guarded, tag, language.search)
    return StudyCell(place, distilled_cell(place.arm, recipe, language.english[0].retrieval, plan.task), plan)


@dataclass(frozen=True)
class TrainingCost:
    """Training cost of some cells: optimizer steps, including the search, and seconds, NaN if unknown."""

    cells: int
    steps: int
    seconds: float


class StepTimes:
    """Seconds for each optimizer step, measured in the store's trainings with one teacher."""

    def __init__(self, store: Store, teacher: str) -> None:
        cards = [card for _, card in load_readable(store.towers(), load_card)]
        self.measured: dict[str, list[float]] = {}
        for card in cards:
            if card.teacher_fingerprint == teacher and card.steps:
                self.measured.setdefault(card.config.objective, []).append(card.seconds / card.steps)

    def of(self, objective: str) -> float:
        """Return the median over towers of an objective, or over all towers if it has none, or NaN without towers."""
        found = self.measured.get(objective) or [each for prices in self.measured.values() for each in prices]
        return median(found) if found else math.nan

    def cost(self, steps: Sequence[StudyCell], store: Store) -> TrainingCost:
        """Return the cost of the missing towers of some cells, including the search."""
        recipes = {each.cell.recipe.digest: each.cell.recipe for each in steps if each.cell.recipe}
        wanted = [recipe for recipe in recipes.values() if not store.tower(recipe.digest).is_dir()]
        tried = {each.digest: each.recipe for recipe in wanted for each in search_trials(recipe)}
        towers = [*wanted, *(recipe for digest, recipe in tried.items() if not store.trial(digest).is_file())]
        seconds = sum(tower.steps * self.of(tower.config.objective) for tower in towers if tower.steps)
        return TrainingCost(len(steps), sum(tower.steps for tower in towers), seconds)
