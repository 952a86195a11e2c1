"""`compare`: test whether two towers differ significantly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.cli.options import DEFAULT_RESAMPLES, StoreOption, comma_separated, run_option

EXAMPLES = """Examples:

python -m harness compare ot-token kd-mse --lang de,qu

python -m harness compare ot-token kd-mse --by lang,tier,entity-type --direction t2i --out comparison.tex

python -m harness compare 7bebdc 2f61aa --metric r10"""

SideArgument = Annotated[
    str,
    typer.Argument(
        help="An objective (kd-mse), `english`, the first 6 or more digits of a cell's or a tower's digest, or a folder: "
        "of a record, of a tower, or of a run's records.",
        show_default=False,
    ),
]


def compare(
    a: SideArgument,
    b: SideArgument,
    by: Annotated[str, typer.Option(help="Breakdown: lang, tier, source, or a facet such as entity-type.")] = "lang",
    lang: Annotated[str, typer.Option(help="Languages, comma-separated; all by default.")] = "",
    pairs: Annotated[int | None, typer.Option(help="Only towers distilled from this number of sentence pairs.")] = None,
    direction: Annotated[Literal["t2i", "i2t", "both"], typer.Option(help="Text to image, image to text.")] = "both",
    metric: Annotated[
        str, typer.Option(help="Metric to compare: r1, r5, r10, ndcg@10, ...; by default the task's headline metric.")
    ] = "",
    margin: Annotated[
        float | None,
        typer.Option(min=0.01, help="Test equivalence too: differences below this number of points do not matter."),
    ] = None,
    resamples: Annotated[int, run_option("resamples", "Bootstrap resamples, and sign flips of the test.")] = DEFAULT_RESAMPLES,
    records: Annotated[Path | None, typer.Option(help="Folder of records, instead of the store's.")] = None,
    format_: Annotated[
        Literal["text", "json", "markdown", "latex"] | None,
        typer.Option("--format", help="By default text, or the suffix of --out."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write: .txt, .json, .md or .tex.")] = None,
    store: StoreOption = None,
) -> None:
    """Test whether A differs from B over the same images, per language and pooled."""
    from harness.reporting.comparison_report import print_comparison, render_comparison, report_format
    from harness.runtime.console import Console
    from harness.statistics.comparison import compare_records
    from harness.statistics.comparison_schema import ComparisonOptions
    from harness.storage.store import Store, new_file

    chosen = report_format(format_, out)
    question = ComparisonOptions(
        metric=metric,
        directions=("t2i", "i2t") if direction == "both" else (direction,),
        by=comma_separated(by),
        langs=comma_separated(lang),
        pairs=pairs,
        resamples=resamples,
        margin=margin,
    )
    comparison = compare_records(a, b, records or Store.at(store).root / "records", question)
    if out is not None:
        with new_file(out) as temporary:
            temporary.write_text(render_comparison(comparison, chosen), encoding="utf-8")
        Console().say(f"written: {out}")
    elif chosen == "text":
        print_comparison(comparison, Console().out)
    else:
        print(render_comparison(comparison, chosen), end="")
