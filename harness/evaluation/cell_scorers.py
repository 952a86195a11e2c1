"""Choose the scorer of each cell: the plain cosine, and with it the scorer that a run requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.builtins import SCORERS
from harness.core.config import RunConfig
from harness.core.digests import digest_json
from harness.core.errors import HarnessError
from harness.core.protocols import Task
from harness.evaluation.cells import Cell
from harness.records.schema import TRANSLATE_TEST
from harness.retrieval.scorers import PLAIN, make_region_scorer


def with_scorers(cells: Sequence[Cell], config: RunConfig, task: Task, data: Path) -> Iterator[Cell]:
    """Yield each cell, followed by a copy with the requested scorer if that is not the plain one.

    Cells of grounding have one scorer, which ranks regions. Raises HarnessError if the scorer is unknown, cannot score the task,
    or has the name of a built-in one.
    """
    grounding = cells[0].retrieval.sought == "regions"
    make = (make_region_scorer if grounding else SCORERS.load(config.scorer))(config, task, data)
    identity = SCORERS.identity(config.scorer)
    for cell in cells:
        if cell.translations and config.scorer == "entities":
            raise HarnessError(
                f"--scorer entities takes phrases from the captions, which {TRANSLATE_TEST} does not read: run them separately"
            )
        scorer = make(cell.retrieval)
        if identity and scorer.name in SCORERS.names():
            raise HarnessError(f"--scorer {config.scorer} has the name {scorer.name} of a built-in scorer: give it another name")
        rescored = replace(cell, scorer=scorer, key=digest_json([cell.key, *identity, *scorer.cache_key_parts()]))
        if grounding:
            yield rescored
            continue
        yield cell
        if config.scorer != PLAIN:
            yield replace(rescored, label=f"{cell.label} + {config.scorer}")
