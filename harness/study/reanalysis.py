"""The records of a measured study, read from its folder: nothing is planned, trained or embedded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.core.config import DistillConfig
from harness.core.errors import HarnessError
from harness.records.schema import Record
from harness.runtime.console import Console
from harness.statistics.matching import StoredRecord, load_records
from harness.study.collect import make_findings
from harness.study.contrasts import StudyRecords
from harness.study.design import Arm, StudyConfig, read_study
from harness.study.findings import Findings, load_findings
from harness.study.grid import GridPosition, grid_positions

DESIGN_FILE, FINDINGS_FILE, RECORDS_FOLDER = "study.toml", "findings.json", "records"


def reanalyse(folder: Path, console: Console) -> Findings:
    """Return the findings of a study's folder, computed from its records by the current rules.

    Raises HarnessError as `load_evidence` does.
    """
    evidence, former = load_evidence(folder)
    found = make_findings(evidence, {}, former.impossible, console)
    return found.model_copy(update={"encoder": former.encoder})


def load_evidence(folder: Path) -> tuple[StudyRecords, Findings]:
    """Return the records of a study's folder by their positions, and its former findings.

    The folder holds the design (`study.toml`), the records, and the former findings, which describe the languages. Raises
    HarnessError if one of them is missing or cannot be read, or if a record is of no arm of the design.
    """
    if not (folder / DESIGN_FILE).is_file():
        raise HarnessError(
            f"{folder} holds no measured study: expected {DESIGN_FILE}, {FINDINGS_FILE} and {RECORDS_FOLDER}/ of its cells"
        )
    config, former = read_study(folder / DESIGN_FILE), load_findings(folder / FINDINGS_FILE)
    languages = {each.code: each for each in former.languages}
    without = {(lang, pairs) for lang, pairs, _ in former.impossible}
    grid = frozenset(
        place
        for place in grid_positions(config, languages)
        if (place.lang, place.pairs) not in without and (place.lang, 0) not in without
    )
    done: dict[GridPosition, StoredRecord] = {}
    for entry in load_records(folder / RECORDS_FOLDER):
        if entry.record.tower and (place := position_of(entry.record, config)) in grid:
            done[place] = entry
    return StudyRecords(config, languages, grid, done), former


def position_of(record: Record, config: StudyConfig) -> GridPosition:
    """Return a record's position in the grid. Raises HarnessError if no arm, or more than one, has its options."""
    assert record.tower is not None
    asked = record.tower.requested
    names = [arm.name for arm in config.arms if is_of_arm(asked, arm, config)]
    if len(names) != 1:
        arms = " and ".join(names) or "no arm of the design"
        raise HarnessError(f"the record {record.cell[:16]} ({record.text_tower}, {record.lang}) is of {arms}")
    return GridPosition(names[0], record.lang, asked.pairs, asked.seed)


def is_of_arm(asked: DistillConfig, arm: Arm, config: StudyConfig) -> bool:
    """Return whether a tower has an arm's objective, initializer, and values of the options in which the arms differ."""
    if (asked.objective, asked.init) != (arm.objective, arm.init):
        return False
    return all(getattr(asked, option) == value for option, value in arm_options(arm, config))


def arm_options(arm: Arm, config: StudyConfig) -> Iterator[tuple[str, Any]]:
    """Yield the value that an arm has of each option that any arm sets for itself."""
    recipe = arm.recipe(config.distill, None, 0)
    for option in dict.fromkeys(option for each in config.arms for option in each.options):
        yield option, getattr(recipe, option)
