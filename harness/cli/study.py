"""`study`: a grid of towers over languages, bitext sizes and seeds, and its report."""

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
    design: Annotated[
        str,
        typer.Argument(
            help="A study's TOML file, or a built-in one: sample, low-resource; or findings.json, to write its report again."
        ),
    ] = "sample",
    data: Annotated[str | None, typer.Option(help="Folder of the data set, instead of the file's.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Image encoder and teacher, instead of the file's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; by default the study's folder in the store.")] = None,
    hours: Annotated[
        float | None, typer.Option(min=0, help="Start no cell after this number of hours, and report on the finished ones.")
    ] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Measure nothing: report on the finished cells.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print finished cells, missing cells and their cost, and stop.")
    ] = False,
    device: DeviceOption = DEFAULT_DEVICE,
    store: StoreOption = None,
) -> None:
    """Compare transport with standard distillation over languages, bitext sizes and seeds, and write the report.

    After an interruption the same command resumes. An unfinished study reports on the finished cells and lists the missing ones.
    Exit status 1 if cells failed.
    """
    from harness.core.errors import HarnessError
    from harness.runtime.console import Console

    if design.endswith(".json"):
        chosen = any(option is not None for option in (data, encoder, hours, store))
        if chosen or report_only or dry_run or device != DEFAULT_DEVICE or execution != ExecutorConfig():
            raise HarnessError(
                f"{design} holds the findings of a measured study, whose report is written again: pass --out alone"
            )
        write_report_again(Path(design), out)
        return
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


def write_report_again(findings: Path, out: Path | None) -> None:
    """Write the report of stored findings into `out`, by default their folder. Raises HarnessError as `load_findings` does."""
    from harness.leaderboards.study.page import publish_study
    from harness.runtime.console import Console
    from harness.study.findings import load_findings

    for line in publish_study(load_findings(findings), out or findings.parent):
        Console().print(line)
