"""From a configuration to cells: what a run will measure, what of it is done, and what the rest takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from harness.core.builtins import SCORERS, TASKS, load_encoder
from harness.core.config import RunConfig
from harness.core.data import CaptionReader, Language, PicturesError, Retrieval, TextRetrieval
from harness.core.digests import digest_json
from harness.core.errors import HarnessError, MissingError
from harness.core.languages import select_languages
from harness.core.objective_terms import UNTRAINED, spell_objective
from harness.core.protocols import Encoder, KnownFeatures, Task
from harness.distill.data.cleaning import clean
from harness.distill.data.leakage import Guarded, guard, guarded_texts, leaked
from harness.distill.distilled_tower import DistilledTower
from harness.distill.pipeline import Recipe
from harness.evaluation.image_screening import without_broken
from harness.evaluation.translate_test import TRANSLATE_TEST, Translations, by_translator, read_file
from harness.readers.bitext import load_bitext_file, load_texts
from harness.records.schema import TowerCard
from harness.records.towers import find_tower, load_card, load_seen
from harness.retrieval.phrases import tagged
from harness.retrieval.scorers import PLAIN, Plain, Scorer, in_regions
from harness.storage.packs import is_pack, open_pack
from harness.storage.store import Store, existing_folder, new_folder

# Part of every cell's digest. Raise it when the same inputs no longer give the same scores.
PROTOCOL_VERSION = 1
ENGLISH_TOWER = "english"
UNSTATED = "unstated"
"""The kind of captions and bitext of which nobody says how they came to be: the user's own."""


@dataclass(frozen=True)
class Cell:
    """One measurement: a text tower on the captions of one language and split.

    recipe: how to distil the tower; tower: the folder of one that is there already; neither is the encoder's own English one.
    translations: what that one reads instead of the captions.
    """

    label: str
    retrieval: Retrieval
    key: str
    recipe: Recipe | None = None
    tower: Path | None = None
    translations: Translations | None = None
    scorer: Scorer = field(default_factory=Plain)

    def folder(self, store: Store) -> Path | None:
        """Where the distilled tower is, or will be; None for the encoder's own."""
        return store.tower(self.recipe.digest) if self.recipe else self.tower


@dataclass(frozen=True)
class Plan:
    """Cells of one language in the order of the table. remark: why nothing is distilled, where that was not asked for."""

    config: RunConfig
    task: Task
    data: Path
    encoder: Encoder
    language: Language
    cells: tuple[Cell, ...]
    remark: str = ""


def make_plans(config: RunConfig, store: Store) -> tuple[list[Plan], list[Language]]:
    """A plan for each language that `config.lang` means, and the languages that were passed over.

    Passed over are those of a group (`all`, `tier:0-2`, `script:Arab`) that the folder has nothing of. Loads no model and
    trains nothing. Raises HarnessError for every input that cannot be served, and if every language was passed over.
    """
    task = TASKS.load(config.task)()
    data = data_folder(task, config.task, config.data, store)
    encoder = load_encoder(config.encoder, config.device)
    plans, absent = [], []
    chosen = select_languages(task, config.lang)
    check_translations(config, [language for language, _ in chosen])
    for language, named in chosen:
        try:
            plans.append(make_plan(config, task, data, encoder, language, store))
        except MissingError:
            if named:
                raise
            absent.append(language)
    if not plans:
        raise HarnessError(f"{data} has captions in none of the {len(absent):,} languages of --lang {config.lang}")
    return plans, absent


def check_translations(config: RunConfig, languages: Sequence[Language]) -> None:
    """Raise HarnessError for translations that no language can have, or that several cannot share."""
    if (config.translations or config.translator) and all(language.code == "en" for language in languages):
        raise HarnessError(f"{TRANSLATE_TEST} is for captions in other languages than English: name one in --lang")
    if config.translations and len(languages) > 1 and "{lang}" not in config.translations:
        raise HarnessError(
            f"--translations {config.translations} is one file for {len(languages)} languages: put {{lang}} where their codes "
            "differ"
        )


def make_plan(config: RunConfig, task: Task, data: Path, encoder: Encoder, language: Language, store: Store) -> Plan:
    """Read one language's data and lay out its cells."""
    retrieval = measured_by(config.measures, load(task, data, language.code, config.split, config.source, encoder))
    if config.skip_broken:
        if not retrieval.opens_pictures:
            raise HarnessError(f"--skip-broken is for pictures, and {task.card.name} opens none")
        if retrieval.sought == "regions" or config.scorer != PLAIN:
            raise HarnessError("--skip-broken is for retrieval by whole images: regions are of all images of a split")
        retrieval = without_broken(retrieval)
    if config.encoder == "sample" and not retrieval.sample:
        raise HarnessError(
            "the sample encoder knows only the embedded sample's drawn world; for real photographs name a real one, "
            "as --encoder open_clip:ViT-B-32/laion2b_s34b_b79k or --encoder local-dir:FOLDER"
        )
    cells, remark = [english_cell(f"English tower on {language.name}", retrieval, task, encoder)], ""
    # Of features, this language's captions are all that is known: not the other captions, and nothing can be distilled.
    if isinstance(encoder, KnownFeatures):
        if config.translations or config.translator:
            raise HarnessError(
                f"{encoder.name} holds embeddings by id and cannot read translations: {TRANSLATE_TEST} needs a model"
            )
        cells = [replace(cells[0], label=f"features on {language.name}")]
    elif language.code != "en":
        unit = retrieval.unit
        cells += [given_cell(text, retrieval, task, data, encoder, store) for text in config.towers]
        try:
            cells += distilled_cells(config, task, data, encoder, retrieval)
        except MissingError as error:
            # Of a language without bitext, the English tower and towers that are there already can still be measured.
            remark = f"nothing is distilled into {language.name}: {error}"
        cells += translated_cells(config, retrieval, task, encoder)
        if retrieval.english is not None:
            cells.append(english_cell(f"English tower, same {unit}", retrieval.in_english(), task, encoder))
        if english := english_of(retrieval, config, task, data):
            cells.append(english_cell(f"English tower, all {unit}", english, task, encoder))
    return Plan(config, task, data, encoder, language, tuple(scored(cells, config, task, data)), remark)


def load(task: Task, data: Path, lang: str, split: str, source: str | None, encoder: Encoder) -> Retrieval:
    """What a task measures an encoder on; of embeddings by id, of which no picture is opened, a folder without pictures too."""
    try:
        return task.load(data, lang, split, source)
    except PicturesError:
        if not (isinstance(encoder, KnownFeatures) and isinstance(task, CaptionReader)):
            raise
        return task.load_captions(data, lang, split, source)


def measured_by(names: Sequence[str], retrieval: Retrieval) -> Retrieval:
    """The same, measured by other measures, the first of which is what towers are compared by; as it is where none is named.

    Raises HarnessError for an unknown measure, and where it is not texts that are looked for.
    """
    if isinstance(retrieval, TextRetrieval):
        from harness.retrieval.metrics import spell_measure

        measures = tuple(dict.fromkeys(map(spell_measure, names or retrieval.measures)))
        return replace(retrieval, measures=measures, headline=measures[0] if names else retrieval.headline)
    if names:
        raise HarnessError(f"--measures is for tasks whose queries look for texts: {retrieval.task} has measures of its own")
    return retrieval


def english_of(retrieval: Retrieval, config: RunConfig, task: Task, data: Path) -> Retrieval | None:
    """All English captions of a retrieval's images; None where there are none, or no others than those that were translated."""
    try:
        english = measured_by(config.measures, task.load(data, "en", retrieval.split))
    except MissingError:
        return None
    # A region is sought in its own image, so the other images of a grounding make nothing harder.
    english = english if english.sought == "regions" else english.among(retrieval.images)
    same = retrieval.english is not None and retrieval.in_english().texts_digest() == english.texts_digest()
    return None if same else english


def distilled_cells(config: RunConfig, task: Task, data: Path, encoder: Encoder, retrieval: Retrieval) -> list[Cell]:
    """A cell for each objective. Raises MissingError if there is no bitext."""
    if not config.objectives:
        return []
    guarded = guarded_bitext(task, data, [task.language(retrieval.lang)], config)
    cells = []
    for objective in dict.fromkeys(map(spell_objective, config.objectives)):
        tag = partial(tagged, task=task, data=data, chunker=config.chunker)
        label = f"{config.distill.init}, untrained" if objective == UNTRAINED else objective
        recipe = Recipe(config.distill.for_objective(objective), encoder, guarded, tag)
        cells.append(recipe_cell(label, recipe, retrieval, task))
    return cells


def recipe_cell(label: str, recipe: Recipe, retrieval: Retrieval, task: Task) -> Cell:
    """A cell of the tower that a recipe makes."""
    return Cell(label, retrieval, cell_key(task, recipe.teacher, retrieval, recipe.digest), recipe)


def translated_cells(config: RunConfig, retrieval: Retrieval, task: Task, encoder: Encoder) -> list[Cell]:
    """A cell for each way in which the captions are to be translated. Raises HarnessError as the reader and the registry do."""
    ways: list[Translations] = []
    if config.translations:
        ways.append(read_file(config.translations, retrieval))
    if config.translator:
        ways.append(by_translator(config.translator, config.device))
    cells = []
    for way in ways:
        key = cell_key(task, encoder, retrieval, digest_json(way.told()))
        cells.append(Cell(f"{TRANSLATE_TEST} ({way.source})", retrieval, key, translations=way))
    return cells


class BitextChoices(Protocol):
    """What a run or a study says of the text that towers are distilled from: see `RunConfig`."""

    @property
    def bitext(self) -> Path | None:
        """File of sentence pairs, instead of the folder's own."""
        ...

    @property
    def text(self) -> Path | None:
        """Folder of monolingual text."""
        ...

    @property
    def clean(self) -> bool | None:
        """Whether the bitext is cleaned; None: only where nobody states how it came to be."""
        ...

    @property
    def leakage(self) -> str:
        """What to do with pairs of evaluation images: drop or refuse."""
        ...


def guarded_bitext(task: Task, data: Path, languages: Sequence[Language], config: BitextChoices) -> tuple[Guarded, ...]:
    """The bitext of each language, of the file given or the folder's, without evaluation images, and clean where that is due.

    The guard comes first, so that what it counts does not depend on cleaning. Unless told, only that is cleaned of which nobody
    states how it was made. Raises MissingError if the folder has no bitext, HarnessError as the guard does, or if the text given
    cannot be read.
    """
    ready = []
    for language in languages:
        given, held_out = config.bitext, task.held_out(data, language.code)
        bitext = load_bitext_file(given, language, held_out) if given else task.load_bitext(data, language.code)
        guarded = guard(bitext, held_out, refuse=config.leakage == "refuse")
        if config.clean or (config.clean is None and bitext.kind == UNSTATED):
            guarded = replace(guarded, bitext=clean(guarded.bitext, language.script))
        if config.text:
            guarded = replace(guarded, texts=guarded_texts(*load_texts(config.text, language), held_out))
        ready.append(guarded)
    return tuple(ready)


def scored(cells: Sequence[Cell], config: RunConfig, task: Task, data: Path) -> Iterator[Cell]:
    """Each cell, and behind it the same with the scorer that was asked for, if that is another one.

    Raises HarnessError if the scorer is unknown, cannot score what the task asks for, or takes a built-in one's name.
    """
    grounding = cells[0].retrieval.sought == "regions"
    make = (in_regions if grounding else SCORERS.load(config.scorer))(config, task, data)
    others = SCORERS.identity(config.scorer)
    for cell in cells:
        if cell.translations and config.scorer == "entities":
            raise HarnessError(
                f"--scorer entities takes phrases from the captions, which {TRANSLATE_TEST} does not read: run them apart"
            )
        scorer = make(cell.retrieval)
        if others and scorer.name in SCORERS.names():
            raise HarnessError(f"--scorer {config.scorer} calls itself {scorer.name}, which is built in: give it another name")
        with_it = replace(cell, scorer=scorer, key=digest_json([cell.key, *others, *scorer.told()]))
        if grounding:
            yield with_it
            continue
        yield cell
        if config.scorer != PLAIN:
            yield replace(with_it, label=f"{cell.label} + {config.scorer}")


def data_folder(task: Task, name: str, given: str | None, store: Store) -> Path:
    """The data set's folder: the one given, else $FLICKR30K_ROOT's, else the embedded sample, made at first use.

    Of a pack, local or at an address, it is the store's folder in which it lies open.
    """
    name = task.card.data or name
    named = given or os.environ.get(f"{name.upper()}_ROOT")
    if named:
        return open_pack(named, store) if is_pack(named) else Path(named)
    return sample_folder(task, name, store)


def sample_folder(task: Task, name: str, store: Store) -> Path:
    """The folder of a task's embedded sample, made at first use."""

    def make(path: Path) -> Path:
        with new_folder(path) as temporary:
            task.write_sample(temporary)
        return path

    return store.get_or_create(store.sample(name, task.sample_version()), existing_folder, make)


def english_cell(label: str, retrieval: Retrieval, task: Task, encoder: Encoder) -> Cell:
    """A cell of the encoder's own text tower."""
    return Cell(label, retrieval, cell_key(task, encoder, retrieval, ENGLISH_TOWER))


def given_cell(text: str, retrieval: Retrieval, task: Task, data: Path, encoder: Encoder, store: Store) -> Cell:
    """A cell of a tower that is there already.

    Raises HarnessError if it was distilled from another teacher, or saw what it would be measured on.
    """
    folder = find_tower(text, store)
    card = load_card(folder)
    check_tower(folder, card, task, data, encoder, retrieval.lang)
    # A tower from elsewhere is known by what it is: its card could say anything.
    ours = folder.resolve().parent == store.tower(card.digest).parent
    name = card.digest if ours else DistilledTower(folder, "cpu").fingerprint()
    return Cell(f"{card.config.objective} {card.digest[:8]}", retrieval, cell_key(task, encoder, retrieval, name), tower=folder)


def check_tower(folder: Path, card: TowerCard, task: Task, data: Path, encoder: Encoder, lang: str) -> None:
    """Raise HarnessError for a tower that cannot be measured here, in a language."""
    if card.teacher_fingerprint != encoder.fingerprint():
        raise HarnessError(
            f"{folder} was distilled from {card.teacher}, and its embeddings mean nothing beside the images of {encoder.name}: "
            "pass that teacher as --encoder"
        )
    overlap = leaked(load_seen(folder), task.held_out(data, lang))
    if overlap:
        raise HarnessError(
            f"{folder} was distilled from {overlap:,} of this folder's evaluation images or sentences: its scores would be worth "
            "nothing; distil it again with this --data, whose guard leaves them out"
        )


def cell_key(task: Task, encoder: Encoder, retrieval: Retrieval, tower: str) -> str:
    """A digest of all that decides a cell's scores."""
    parts = [PROTOCOL_VERSION, task.card.name, task.card.version, encoder.fingerprint(), tower, retrieval.lang, retrieval.source]
    parts += [retrieval.split, retrieval.images.digest(), retrieval.texts_digest()]
    return digest_json([*parts, *retrieval.cache_key_parts()])
