"""Cells: the single measurements of a run. Each has a digest of everything that decides its scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness.core.arms import ENGLISH_FITTED
from harness.core.config import RunConfig
from harness.core.data import Retrieval
from harness.core.digests import digest_json
from harness.core.errors import HarnessError
from harness.core.protocols import Encoder, Task
from harness.distill.data.leakage import count_leaked
from harness.distill.distilled_tower import DistilledTower
from harness.distill.recipe import Recipe
from harness.distill.teachers import check_teacher
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.evaluation.translate_test import Translations, load_file_translations, load_machine_translations
from harness.records.schema import ENGLISH_TOWER, TRANSLATE_TEST, TowerCard
from harness.records.towers import find_tower_folder, load_card, load_seen
from harness.retrieval.phrases import mark_bitext_entities
from harness.retrieval.scorers import CosineScorer, Scorer
from harness.storage.store import Store

# Part of every cell's digest. Raise it when the same inputs no longer give the same scores.
PROTOCOL_VERSION = 1


@dataclass(frozen=True)
class Cell:
    """One measurement: a text tower on the captions of one language and split.

    key: digest of everything that decides the scores. recipe: how to distil the text tower. tower: the folder of an existing
    tower. Without either, the text tower is the encoder's own English one. translations: the texts that this tower reads instead
    of the captions.
    """

    label: str
    retrieval: Retrieval
    key: str
    recipe: Recipe | None = None
    tower: Path | None = None
    translations: Translations | None = None
    scorer: Scorer = field(default_factory=CosineScorer)

    def folder(self, store: Store) -> Path | None:
        """Return the folder of the distilled tower, which may not exist yet, or None for the encoder's own tower."""
        return store.tower(self.recipe.digest) if self.recipe else self.tower


def cell_key(task: Task, encoder: Encoder, retrieval: Retrieval, tower: str) -> str:
    """Return the digest of everything that decides a cell's scores. tower: fingerprint or digest of the text tower."""
    parts = [PROTOCOL_VERSION, task.card.name, task.card.version, encoder.fingerprint(), tower, retrieval.lang, retrieval.source]
    parts += [retrieval.split, retrieval.images.digest(), retrieval.texts_digest()]
    return digest_json([*parts, *retrieval.cache_key_parts()])


def english_cell(label: str, retrieval: Retrieval, task: Task, encoder: Encoder) -> Cell:
    """Return the cell of the encoder's own text tower."""
    return Cell(label, retrieval, cell_key(task, encoder, retrieval, ENGLISH_TOWER))


def distilled_cell(label: str, recipe: Recipe, retrieval: Retrieval, task: Task) -> Cell:
    """Return the cell of the tower that a recipe makes."""
    return Cell(label, retrieval, cell_key(task, recipe.teacher, retrieval, recipe.digest), recipe)


def distilled_cells(config: RunConfig, task: Task, data: Path, encoder: Encoder, retrieval: Retrieval) -> list[Cell]:
    """Return a cell for each arm.

    Raises MissingError if there is no bitext, and UnservedArmError for an arm that the encoder cannot teach.
    """
    configs = [config.distill.for_arm(arm) for arm in config.arms]
    language = task.language(retrieval.lang)
    kinds = {each.objective == ENGLISH_FITTED for each in configs}
    for each in configs:
        check_teacher(each, encoder)
    guarded = {alone: load_guarded_bitext(task, data, [language], config, alone) for alone in kinds}
    tag = partial(mark_bitext_entities, task=task, data=data, chunker=config.chunker)
    recipes = [Recipe(each, encoder, guarded[each.objective == ENGLISH_FITTED], tag) for each in configs]
    return [distilled_cell(recipe.config.arm, recipe, retrieval, task) for recipe in recipes]


def translated_cells(config: RunConfig, retrieval: Retrieval, task: Task, encoder: Encoder) -> list[Cell]:
    """Return a cell for the file of translations and one for the translator, if they are given.

    Raises HarnessError if the file cannot be read, or if there is no such translator.
    """
    sources: list[Translations] = []
    if config.translations:
        sources.append(load_file_translations(config.translations, retrieval))
    if config.translator:
        sources.append(load_machine_translations(config.translator, config.device))
    cells = []
    for translations in sources:
        key = cell_key(task, encoder, retrieval, digest_json(translations.cache_key_parts()))
        cells.append(Cell(f"{TRANSLATE_TEST} ({translations.source})", retrieval, key, translations=translations))
    return cells


def existing_tower_cell(text: str, retrieval: Retrieval, task: Task, data: Path, encoder: Encoder, store: Store) -> Cell:
    """Return the cell of an existing tower. text: its folder, or the beginning of its digest in the store.

    Raises HarnessError if it was distilled from another teacher, or has seen the evaluation data.
    """
    folder = find_tower_folder(text, store)
    card = load_card(folder)
    check_existing_tower(folder, card, task, data, encoder, retrieval.lang)
    # The card of a tower outside the store is not trusted, so the fingerprint identifies the tower.
    ours = folder.resolve().parent == store.tower(card.digest).parent
    name = card.digest if ours else DistilledTower(folder, "cpu").fingerprint()
    return Cell(f"{card.config.arm} {card.digest[:8]}", retrieval, cell_key(task, encoder, retrieval, name), tower=folder)


def check_existing_tower(folder: Path, card: TowerCard, task: Task, data: Path, encoder: Encoder, lang: str) -> None:
    """Raise HarnessError unless a tower fits the encoder and has not seen the evaluation data of a language."""
    if card.teacher_fingerprint != encoder.fingerprint():
        raise HarnessError(
            f"{folder} was distilled from {card.teacher}, so its embeddings cannot be compared with images of {encoder.name}: "
            "pass that teacher as --encoder"
        )
    overlap = count_leaked(load_seen(folder), task.held_out(data, lang))
    if overlap:
        raise HarnessError(
            f"{folder} was distilled from {overlap:,} of this folder's evaluation images or sentences, so its scores would be "
            "meaningless: distil it again with this --data, whose leakage guard drops them"
        )
