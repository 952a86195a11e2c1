"""From a configuration to cells: what a run will measure, what of it is done, and what the rest takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harness.api import Encoder, HarnessError, Retrieval, Task
from harness.config import RunConfig, digest_json
from harness.distill.bitext import guard
from harness.distill.distil import Recipe
from harness.registry import TASKS, UNTRAINED, load_encoder, spell_objective
from harness.store import Store, new_folder

# Part of every cell's digest. Raise it when the same inputs no longer give the same scores.
PROTOCOL_VERSION = 1
ENGLISH = "english"


@dataclass(frozen=True)
class Cell:
    """One measurement: a text tower on the captions of one language and split. recipe: how to distil the tower, or None."""

    label: str
    retrieval: Retrieval
    recipe: Recipe | None
    key: str

    @property
    def text_tower(self) -> str:
        """`english`, or the objective that the tower is distilled by."""
        return self.recipe.config.objective if self.recipe else ENGLISH


@dataclass(frozen=True)
class Plan:
    """Cells in the order of the table."""

    config: RunConfig
    task: Task
    data: Path
    encoder: Encoder
    cells: tuple[Cell, ...]


def make_plan(config: RunConfig, store: Store) -> Plan:
    """Read the data and lay out the cells. Loads no model and trains nothing.

    Raises HarnessError for every input that cannot be served.
    """
    task = TASKS.load(config.task)()
    language = task.language(config.lang)
    data = data_folder(task, config.task, config.data, store)
    encoder = load_encoder(config.encoder, config.device)
    retrieval = task.load(data, language.code, config.split)
    if config.encoder == "sample" and not retrieval.sample:
        raise HarnessError(
            "the sample encoder knows only the embedded sample's drawn world; for real photographs name a real one, "
            "as --encoder open_clip:ViT-B-32/laion2b_s34b_b79k or --encoder local-dir:FOLDER"
        )
    if language.code == "en":
        return Plan(config, task, data, encoder, (english_cell("English tower on English", retrieval, task, encoder),))
    guarded = guard(task.load_bitext(data, language.code), task.held_out(data), refuse=config.leakage == "refuse")
    cells = [english_cell(f"English tower on {language.name}", retrieval, task, encoder)]
    for objective in dict.fromkeys(map(spell_objective, config.objectives)):
        recipe = Recipe(config.distill.model_copy(update={"objective": objective}), encoder, guarded)
        label = f"{config.distill.init}, untrained" if objective == UNTRAINED else objective
        cells.append(Cell(label, retrieval, recipe, cell_key(task, encoder, retrieval, recipe.digest)))
    if retrieval.english is not None:
        cells.append(english_cell("English tower, same captions", retrieval.in_english(), task, encoder))
    cells.append(english_cell("English tower, all captions", task.load(data, "en", config.split), task, encoder))
    return Plan(config, task, data, encoder, tuple(cells))


def data_folder(task: Task, name: str, given: Path | None, store: Store) -> Path:
    """The data set's folder: the one given, else $FLICKR30K_ROOT's, else the embedded sample, made at first use."""
    named = given or os.environ.get(f"{name.upper()}_ROOT")
    if named:
        return Path(named)
    folder = store.sample(name, task.sample_version())
    if not folder.is_dir():
        with new_folder(folder) as temporary:
            task.write_sample(temporary)
    return folder


def english_cell(label: str, retrieval: Retrieval, task: Task, encoder: Encoder) -> Cell:
    """A cell of the encoder's own text tower."""
    return Cell(label, retrieval, None, cell_key(task, encoder, retrieval, ENGLISH))


def cell_key(task: Task, encoder: Encoder, retrieval: Retrieval, tower: str) -> str:
    """A digest of all that decides a cell's scores."""
    parts = [PROTOCOL_VERSION, task.card.name, task.card.version, encoder.fingerprint(), tower, retrieval.lang, retrieval.source]
    return digest_json([*parts, retrieval.split, retrieval.images.digest(), retrieval.texts_digest()])
