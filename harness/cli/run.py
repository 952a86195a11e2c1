"""`run`: distill text towers for languages and measure them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import DryRunOption, StoreOption, configured
from harness.core.config import ExecutorConfig, RunConfig
from harness.core.data import Grounding
from harness.core.errors import HarnessError

if TYPE_CHECKING:
    from harness.evaluation.planning import Plan
    from harness.runtime.console import Console
    from harness.storage.store import Store

EXAMPLES = """Examples:

python -m harness run --task flickr30k --lang de

python -m harness run --task flickr30k --lang qu --arms "kd-mse, kd-mse@ot-sentences" --pairs 1000

python -m harness run --task flickr30k --lang de --data ~/flickr30k --encoder open_clip:ViT-B-32/laion2b_s34b_b79k --pairs 1000"""


@configured(ExecutorConfig, "execution")
@configured(RunConfig, "config", without={"objective"})
def run(
    config: RunConfig,
    execution: ExecutorConfig,
    by: Annotated[
        str | None, typer.Option(help="Facet for a breakdown of the scores: entity-type, entities, length, source.")
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="Grounding: folder for images of some phrases, with the boxes drawn.")
    ] = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
) -> None:
    """Distill text towers for languages and measure them with the English one."""
    from harness.evaluation.planning import make_plans
    from harness.runtime.console import Console
    from harness.statistics.breakdown import break_down, facet_of
    from harness.storage.store import Store

    if config.towers and not config.names_arms:
        config = config.model_copy(update={"arms": ()})
    console, kept = Console(), Store.at(store)
    plans, absent = make_plans(config, kept)
    if absent:
        console.print(f"languages skipped, since {plans[0].data} has no captions in them: {len(absent):,}")
    facets = {plan.language.code: [facet_of(cell.retrieval, by) for cell in plan.cells] for plan in plans if by}
    if examples and plans[0].cells[0].retrieval.sought != "regions":
        raise HarnessError(
            f"--examples draws the regions that phrases found, and {config.task} has no phrases: pass --task flickr30k-entities"
        )
    if dry_run:
        from harness.reporting.tables import plan_table

        console.print(plan_table(plans, kept))
        return
    from harness.evaluation.runner import CellsFailedError, measure_plans
    from harness.reporting.multilingual import LanguageReport, print_multilingual
    from harness.reporting.run_report import breakdown_table, print_report
    from harness.statistics.measurement import Measurement

    reports: list[LanguageReport] = []
    failures: dict[str, CellsFailedError] = {}
    for plan, failed in measure_plans(plans, kept, console, execution):
        cells = plan.cells
        if failed:
            failures[plan.language.name] = failed
            cells = tuple(cell for cell in cells if cell.label not in failed.failures)
            if plan.cells[0] not in cells:  # the table needs the English tower as a baseline
                continue
        towers = [Measurement.read(cell.label, kept.record(cell.key)) for cell in cells]
        summaries = print_report(towers, console, str(kept.root / "records"), config.resamples, plan.remark)
        reports.append(LanguageReport(plan.language.name, towers, summaries))
        if by:
            known = {cell.label: facet for cell, facet in zip(plan.cells, facets[plan.language.code], strict=True)}
            broken = [(tower, known[tower.label]) for tower in towers]
            groups = {tower.label: break_down(tower, facet, config.resamples) for tower, facet in broken}
            console.print(breakdown_table(by, groups, towers[0].record.unit))
        if examples:
            save_example_pictures(plan, kept, examples, console)
    if len(reports) > 1:
        print_multilingual(reports, console)
    if failures:
        from harness.reporting.tables import failures_table

        console.print(failures_table({language: error.failures for language, error in failures.items()}))
        raise typer.Exit(1)


def save_example_pictures(plan: Plan, store: Store, folder: Path, console: Console) -> None:
    """Save images of the regions that the first distilled tower found, or the English tower if there is none."""
    from harness.records.files import load_found_boxes
    from harness.reporting.box_drawing import save_examples
    from harness.statistics.measurement import Measurement

    cell = next((cell for cell in plan.cells if cell.folder(store)), plan.cells[0])
    record = store.record(cell.key)
    if isinstance(cell.retrieval, Grounding) and cell.scorer.views:
        tower = Measurement.read(cell.label, record)
        saved = save_examples(folder, tower, cell.retrieval, cell.scorer.views.regions, load_found_boxes(record))
        console.print(f"Images: {len(saved)} in {folder}")
