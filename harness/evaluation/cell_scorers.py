"""Choose the scorer of each cell: the plain cosine, and with it the scorer that a run requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.builtins import SCORERS, load_scorer
from harness.core.config import RunConfig, ScoringConfig
from harness.core.data import Retrieval
from harness.core.digests import digest_json
from harness.core.errors import HarnessError
from harness.core.plugins import one_line_errors
from harness.core.protocols import Task
from harness.core.registry import check_members, split_spec
from harness.evaluation.cells import Cell
from harness.records.schema import TRANSLATE_TEST
from harness.retrieval.scorers import BANKED, PLAIN, TRANSDUCTIVE, ScoredRun, Scorer, ScorerFactory, make_region_scorer


def with_scorers(cells: Sequence[Cell], config: RunConfig, task: Task, data: Path) -> Iterator[Cell]:
    """Yield each cell, followed by a copy with the requested scorer if that is not the plain one.

    cells: of one language, the first one with its own captions. Cells of grounding have one scorer, which ranks regions. Raises
    HarnessError if the scorer is unknown, cannot score the task, or has the name of a built-in one.
    """
    check_scoring_options(config)
    first = cells[0].retrieval
    run = ScoredRun(config.model_copy(update={"lang": first.lang}), task, data)
    if first.sought == "regions":
        make = make_region_scorer(run)
        yield from (with_scorer(cell, make(cell.retrieval)) for cell in cells)
        return
    make = load_scorer(config.scorer, run)
    for cell in cells:
        yield cell
        if config.scorer != PLAIN:
            if cell.translations:
                check_reads_translations(config.scorer)
            rescored = with_scorer(cell, make_scorer(make, config.scorer, cell.retrieval), scorer_identity(config.scorer))
            yield replace(rescored, label=f"{cell.label} + {config.scorer}")


def check_reads_translations(spec: str) -> None:
    """Raise HarnessError for a scorer that reads captions besides those that are translated."""
    name, argument = split_spec(spec)
    if name == "entities":
        raise HarnessError(
            f"--scorer {spec} takes phrases from the captions, which {TRANSLATE_TEST} does not read: run them separately"
        )
    if SCORERS.find(name).builtin and argument == BANKED:
        raise HarnessError(
            f"--scorer {spec} needs translations of the val captions, which {TRANSLATE_TEST} does not have: use "
            f"{name}:{TRANSDUCTIVE}, or run them separately"
        )


def check_scoring_options(config: RunConfig) -> None:
    """Raise HarnessError for a non-default option of scorers that the requested scorer does not read.

    A plug-in without the attribute `reads` counts as reading every option.
    """
    name = split_spec(config.scorer)[0]
    reads = SCORERS.declared_reads(name)
    for option, default in ScoringConfig():
        value = getattr(config.scoring, option)
        if value != default and reads is not None and option not in reads:
            readers = [each for each in SCORERS.builtin_names() if option in SCORERS.find(each).reads]
            raise HarnessError(
                f"--{option.replace('_', '-')} {value} has no use with --scorer {name}: it is read by {', '.join(readers)}"
            )


def with_scorer(cell: Cell, scorer: Scorer, identity: Sequence[str] = ()) -> Cell:
    """Return a copy of a cell with another scorer. identity: what distinguishes a plug-in from every other scorer."""
    return replace(cell, scorer=scorer, key=digest_json([cell.key, *identity, *scorer.cache_key_parts()]))


def scorer_identity(spec: str) -> tuple[str, ...]:
    """Return what distinguishes the scorer of a spec: of a plug-in, its code and its argument. Raises as `Registry.identity`."""
    name, argument = split_spec(spec)
    made = SCORERS.identity(name)
    return (*made, argument) if made and argument else made


def make_scorer(make: ScorerFactory, spec: str, retrieval: Retrieval) -> Scorer:
    """Return a retrieval's scorer.

    Raises HarnessError if a plug-in fails, if the scorer does not support the retrieval or lacks a member, or if its name is that
    of a built-in one.
    """
    if SCORERS.find(split_spec(spec)[0]).builtin:
        return make(retrieval)
    with one_line_errors(f"the scorer {spec} cannot be made", getattr(make, "__module__", None)):
        scorer = check_members(SCORERS, spec, make(retrieval), ("name", "views", "cache_key_parts", "rank"))
    if scorer.name.partition(",")[0] in SCORERS.builtin_names():
        raise HarnessError(f"--scorer {spec} has the name {scorer.name} of a built-in scorer: give it another name")
    return scorer
