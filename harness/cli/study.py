"""`study`: a grid of towers over languages, bitext sizes and seeds, and its report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DEFAULT_DEVICE, DeviceOption, StoreOption, comma_separated, configured
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
            help="A study's TOML file, or a built-in one: sample, low-resource, initializers. The folder of a measured study: "
            "analyse its records again. Its findings.json: write the report again."
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
    power: Annotated[
        str,
        typer.Option(help="Print the power for these true differences in points, comma-separated, and stop; needs --pilot."),
    ] = "",
    pilot: Annotated[
        Path | None, typer.Option(help="Folder of a measured study, whose records give the variance components of --power.")
    ] = None,
    device: DeviceOption = DEFAULT_DEVICE,
    store: StoreOption = None,
) -> None:
    """Compare transport with standard distillation over languages, bitext sizes and seeds, and write the report.

    After an interruption the same command resumes. An unfinished study reports on the finished cells and lists the missing ones.
    Exit status 1 if cells failed.
    """
    from harness.core.errors import HarnessError
    from harness.runtime.console import Console

    if power or pilot:
        print_power(design, power, pilot)
        return
    if design.endswith(".json") or Path(design).is_dir():
        chosen = any(option is not None for option in (data, encoder, hours, store))
        if chosen or report_only or dry_run or device != DEFAULT_DEVICE or execution != ExecutorConfig():
            raise HarnessError(f"{design} holds a measured study, whose report is written again: pass --out alone")
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
    from harness.study.lock import lock_design, log_look

    own = kept.root / "studies" / path.stem
    lock = lock_design(config, own / "design.json")
    failed = {} if report_only else run_study(laid_out, kept, console, math.inf if hours is None else 3600 * hours, execution)
    findings = collect_findings(laid_out, kept, failed, console, lock.count_looks(config.seeds))
    if findings.by_language.verdicts:
        log_look(lock, config, findings.done, findings.planned, own / "design.json")
    for line in publish_study(findings, out or own):
        console.print(line)
    if failed:
        raise typer.Exit(1)


def print_power(design: str, differences: str, pilot: Path | None) -> None:
    """Print the power of a design. Raises HarnessError without a pilot, and for differences that are no positive numbers."""
    from harness.core.errors import HarnessError
    from harness.runtime.console import Console
    from harness.study.design import read_study
    from harness.study.grid import find_design
    from harness.study.power import measure_pilot, power_table
    from harness.study.reanalysis import load_evidence

    if pilot is None or not differences:
        raise HarnessError("power is planned with --power DIFFERENCES and --pilot FOLDER of a measured study: pass both")
    try:
        points = [float(word) for word in comma_separated(differences)]
    except ValueError:
        points = []
    if not points or not all(0 < each <= 100 for each in points):
        raise HarnessError(f"--power {differences}: expected differences in points, as in --power 1,2")
    evidence, _ = load_evidence(pilot)
    Console().print(power_table(read_study(find_design(design)), measure_pilot(evidence), points))


def write_report_again(measured: Path, out: Path | None) -> None:
    """Write the report of stored findings, or of a folder's records, into `out`, by default the same folder.

    Raises HarnessError as `load_findings` and `reanalyse` do.
    """
    from harness.leaderboards.study.page import publish_study
    from harness.runtime.console import Console
    from harness.study.findings import load_findings
    from harness.study.reanalysis import reanalyse

    console = Console()
    found = reanalyse(measured, console) if measured.is_dir() else load_findings(measured)
    for line in publish_study(found, out or (measured if measured.is_dir() else measured.parent)):
        console.print(line)
