"""`study`: the project's question, asked of a whole grid of towers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DEFAULT_DEVICE, DeviceOption, StoreOption, configured
from harness.core.config import ExecutorConfig

EXAMPLES = """Examples:

python -m harness study

python -m harness study low-resource --data ~/flickr30k --encoder open_clip:ViT-B-32/laion2b_s34b_b79k --hours 8"""


@configured(ExecutorConfig, "execution")
def study(
    execution: ExecutorConfig,
    design: Annotated[str, typer.Argument(help="A study's TOML file, or one that comes along: sample, low-resource.")] = "sample",
    data: Annotated[str | None, typer.Option(help="Folder of the data set, in place of what the file says.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Image encoder and teacher, in place of what the file says.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; else the study's in the store.")] = None,
    hours: Annotated[
        float | None, typer.Option(min=0, help="Begin no cell after so many hours, and report on what is there.")
    ] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Measure nothing: report on what is there.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is done, what is missing and what it costs, and stop.")
    ] = False,
    device: DeviceOption = DEFAULT_DEVICE,
    store: StoreOption = None,
) -> None:
    """Compare transport with standard distillation over languages, bitext sizes and seeds, and write the report.

    Interrupted, the same command goes on. An unfinished study reports on what is there and names the rest. Exit status 1 if cells
    failed.
    """
    from harness.core.errors import HarnessError
    from harness.runtime.console import Console
    from harness.storage.store import Store
    from harness.study.design import read_study
    from harness.study.grid import find_design, plan_study
    from harness.study.runner import progress_table, run_study

    path, console, kept = find_design(design), Console(), Store.at(store)
    config = read_study(path, data=data, encoder=encoder)
    try:
        laid_out = plan_study(config, device, kept)
    except HarnessError as error:
        raise HarnessError(f"{path}: {error}") from None
    for each in laid_out.impossible:
        console.say(f"left out: {each.said()}")
    if dry_run:
        console.print(progress_table(laid_out, kept))
        return
    from harness.leaderboards.study.page import publish_study
    from harness.study.collect import collect_findings

    failed = {} if report_only else run_study(laid_out, kept, console, math.inf if hours is None else 3600 * hours, execution)
    findings = collect_findings(laid_out, kept, failed, console)
    for line in publish_study(findings, out or kept.root / "studies" / path.stem):
        console.print(line)
    if failed:
        raise typer.Exit(1)
