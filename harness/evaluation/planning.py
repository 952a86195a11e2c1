"""Plan a run: turn its configuration into the cells of each language. Planning loads no model and trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.builtins import TASKS, load_encoder
from harness.core.config import RunConfig
from harness.core.data import Language, Retrieval
from harness.core.errors import HarnessError, MissingError
from harness.core.languages import select_languages
from harness.core.option_use import check_options
from harness.core.protocols import Encoder, KnownFeatures, Task
from harness.core.registry import split_spec
from harness.distill.teachers import UnservedArmError
from harness.evaluation.cell_scorers import with_scorers
from harness.evaluation.cells import Cell, distilled_cells, english_cell, existing_tower_cell, translated_cells
from harness.evaluation.data_folders import data_folder
from harness.evaluation.image_screening import without_undecodable_images
from harness.evaluation.retrievals import all_english_captions, load_retrieval, with_measures
from harness.records.schema import TRANSLATE_TEST
from harness.storage.store import Store


@dataclass(frozen=True)
class Plan:
    """The cells of one language, in the order of the table. remark: the reason if the data do not allow distillation."""

    config: RunConfig
    task: Task
    data: Path
    encoder: Encoder
    language: Language
    cells: tuple[Cell, ...]
    remark: str = ""


def make_plans(config: RunConfig, store: Store) -> tuple[list[Plan], list[Language]]:
    """Return the plan for each language that `config.lang` selects, and the selected languages that the folder does not have.

    Only languages of a group (`all`, `tier:0-2`, `script:Arab`) may be missing. Raises HarnessError if the data do not have a
    language that is named, if they have none at all, or if an option does not fit.
    """
    check_options(config.distill, config.arms)
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
    """Raise HarnessError for translations of English alone, and for one file of translations of several languages."""
    if (config.translations or config.translator) and all(language.code == "en" for language in languages):
        raise HarnessError(f"{TRANSLATE_TEST} is for captions in other languages than English: name one in --lang")
    if config.translations and len(languages) > 1 and "{lang}" not in config.translations:
        raise HarnessError(
            f"--translations {config.translations} is one file for {len(languages)} languages: put {{lang}} where their codes "
            "differ"
        )


def make_plan(config: RunConfig, task: Task, data: Path, encoder: Encoder, language: Language, store: Store) -> Plan:
    """Read one language's data and plan its cells. Raises HarnessError as `make_plans`."""
    retrieval = with_measures(config.measures, load_retrieval(task, data, language.code, config.split, config.source, encoder))
    if config.skip_broken:
        retrieval = without_broken_images(config, retrieval, task)
    check_encoder_fits(config, retrieval, encoder)
    remark = ""
    # The features cover this language's captions alone, so nothing can be distilled from them.
    if isinstance(encoder, KnownFeatures):
        cells = [english_cell(f"features on {language.name}", retrieval, task, encoder)]
    else:
        cells = [english_cell(f"English tower on {language.name}", retrieval, task, encoder)]
        if language.code != "en":
            cells += [existing_tower_cell(text, retrieval, task, data, encoder, store) for text in config.towers]
            try:
                cells += distilled_cells(config, task, data, encoder, retrieval)
            except (MissingError, UnservedArmError) as error:
                if isinstance(error, UnservedArmError) and config.names_arms:
                    raise
                # The English tower and existing towers can still be measured.
                remark = f"nothing is distilled into {language.name}: {error}"
            cells += translated_cells(config, retrieval, task, encoder)
            cells += english_ceiling_cells(config, retrieval, task, data, encoder)
    return Plan(config, task, data, encoder, language, tuple(with_scorers(cells, config, task, data)), remark)


def english_ceiling_cells(config: RunConfig, retrieval: Retrieval, task: Task, data: Path, encoder: Encoder) -> list[Cell]:
    """Return the cells of the English tower on the captions behind the translations, and on all English captions."""
    cells = []
    if retrieval.english is not None:
        cells.append(english_cell(f"English tower, same {retrieval.unit}", retrieval.in_english(), task, encoder))
    if english := all_english_captions(retrieval, config.measures, task, data):
        cells.append(english_cell(f"English tower, all {retrieval.unit}", english, task, encoder))
    return cells


def without_broken_images(config: RunConfig, retrieval: Retrieval, task: Task) -> Retrieval:
    """Return a copy without images that cannot be decoded. Raises HarnessError if the task or the scorer reads regions."""
    if not retrieval.opens_pictures:
        raise HarnessError(f"--skip-broken is for images, and {task.card.name} opens none")
    if retrieval.sought == "regions" or split_spec(config.scorer)[0] == "entities":
        raise HarnessError("--skip-broken is for retrieval of whole images: regions belong to all images of a split")
    return without_undecodable_images(retrieval)


def check_encoder_fits(config: RunConfig, retrieval: Retrieval, encoder: Encoder) -> None:
    """Raise HarnessError for the sample encoder on real photographs, and for features on translations."""
    if config.encoder == "sample" and not retrieval.sample:
        raise HarnessError(
            "the sample encoder knows only the embedded sample's drawn world; for real photographs name a real one, "
            "as --encoder open_clip:ViT-B-32/laion2b_s34b_b79k or --encoder local-dir:FOLDER"
        )
    if isinstance(encoder, KnownFeatures) and (config.translations or config.translator):
        raise HarnessError(f"{encoder.name} holds embeddings by id and cannot read translations: {TRANSLATE_TEST} needs a model")
