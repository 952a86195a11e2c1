"""The command line: parse, call, print. Every heavy import lives inside a command."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from harness.api import HarnessError

app = typer.Typer(
    name="harness",
    help="Zero-shot image-text retrieval on translated Flickr30k: optimal-transport against standard distillation.",
    epilog="Start with: python -m harness run --task flickr30k --lang de",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at a data folder.", no_args_is_help=True)
app.add_typer(data_app, name="data")

StoreOption = Annotated[Path | None, typer.Option("--store", help="Folder that keeps everything computed; else $HARNESS_STORE.")]
DataOption = Annotated[Path | None, typer.Option(help="Folder of Flickr30k; else $FLICKR30K_ROOT, else the embedded sample.")]
TaskOption = Annotated[str, typer.Option(help="Task: see `list tasks`.")]


def main() -> None:
    """Run the command line."""
    app()


def handled(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what the user can put right into one line and a non-zero exit."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except HarnessError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on from where it stopped", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapper


@app.command(
    epilog="""Examples:

python -m harness run --task flickr30k --lang de

python -m harness run --task flickr30k --lang de --data ~/flickr30k --encoder open_clip:ViT-B-32/laion2b_s34b_b79k --pairs 1000"""
)
@handled
def run(
    lang: Annotated[str, typer.Option(help="Language: code or English name, see `list languages`.")],
    task: TaskOption = "flickr30k",
    data: DataOption = None,
    encoder: Annotated[str, typer.Option(help="Image encoder and teacher: see `list encoders`.")] = "sample",
    split: Annotated[Literal["test", "val"], typer.Option(help="Images to measure on; make choices on val.")] = "test",
    objectives: Annotated[
        str,
        typer.Option(help="Objectives or sums (ot-token + 0.5*kd-mse), comma-separated, first the baseline; none: untrained."),
    ] = "kd-mse,ot-token",
    init: Annotated[
        Literal["teacher", "scratch", "ot-vocabulary", "association"],
        typer.Option(help="The start: the teacher's layers, random, or the teacher's with an aligned vocabulary."),
    ] = "teacher",
    size: Annotated[
        Literal["tiny", "small", "base"] | None, typer.Option(help="Shape from scratch; by default the teacher's.")
    ] = None,
    pooling: Annotated[
        Literal["mean", "last", "attention"], typer.Option(help="A sentence's embedding: of which of its tokens' states.")
    ] = "mean",
    pairs: Annotated[int | None, typer.Option(help="Sentence pairs to distil from; all by default.")] = None,
    seed: Annotated[int, typer.Option(help="Decides subset, initial weights and order of batches.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; by default 10 passes, at least 600.")] = None,
    batch: Annotated[int, typer.Option(help="Pairs a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    vocabulary: Annotated[int, typer.Option(help="Most subwords of the student's tokenizer.")] = 8000,
    solver: Annotated[Literal["sinkhorn", "ipot", "exact"], typer.Option(help="How ot-token is solved.")] = "sinkhorn",
    eps: Annotated[float, typer.Option(help="Entropic regularisation of token transport.")] = 0.1,
    rho: Annotated[float, typer.Option(help="ot-unbalanced: price of leaving a marginal.")] = 1.0,
    sentence_weight: Annotated[float, typer.Option(help="Weight of the sentence term beside token transport.")] = 1.0,
    temperature: Annotated[float, typer.Option(help="Of every softmax over cosines of the batch.")] = 0.05,
    diagonal: Annotated[
        Literal["keep", "remove"], typer.Option(help="kd-relation, ot-batch: is a sentence a candidate of its own?")
    ] = "keep",
    alpha: Annotated[float, typer.Option(help="ot-batch: share of InfoNCE.")] = 0.5,
    batch_eps: Annotated[float, typer.Option(help="ot-batch: entropic regularisation of the teacher's plan.")] = 0.15,
    batch_iterations: Annotated[int, typer.Option(help="ot-batch: iterations of the teacher's plan.")] = 5,
    leakage: Annotated[Literal["drop", "refuse"], typer.Option(help="What to do with bitext of evaluation images.")] = "drop",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.")] = 10_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    store: StoreOption = None,
) -> None:
    """Distil text towers for a language and measure them beside the English one."""
    from harness.config import DistillConfig, RunConfig, validated
    from harness.console import Console
    from harness.plan import make_plan
    from harness.store import Store

    distill = validated(
        DistillConfig,
        init=init,
        size=size,
        pooling=pooling,
        pairs=pairs,
        seed=seed,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        vocabulary=vocabulary,
        solver=solver,
        eps=eps,
        rho=rho,
        sentence_weight=sentence_weight,
        temperature=temperature,
        diagonal=diagonal,
        alpha=alpha,
        batch_eps=batch_eps,
        batch_iterations=batch_iterations,
    )
    config = validated(
        RunConfig,
        task=task,
        lang=lang,
        split=split,
        data=data,
        encoder=encoder,
        objectives=tuple(name.strip() for name in objectives.split(",") if name.strip()),
        distill=distill,
        leakage=leakage,
        device=device,
        resamples=resamples,
    )
    console, kept = Console(), Store.at(store)
    plan = make_plan(config, kept)
    if dry_run:
        from harness.listing import plan_table

        console.print(plan_table(plan, kept))
        return
    from harness.compare import Measured
    from harness.report import print_report
    from harness.run import run as run_plan

    run_plan(plan, kept, console)
    towers = [Measured.read(cell.label, kept.record(cell.key)) for cell in plan.cells]
    print_report(towers, console, str(kept.root / "records"), resamples)


@app.command("list")
@handled
def list_(
    what: Annotated[Literal["tasks", "encoders", "languages", "towers", "runs"], typer.Argument(help="What to list.")],
    task: TaskOption = "flickr30k",
    store: StoreOption = None,
) -> None:
    """List what there is: tasks, encoders, languages, and the towers and runs of the store."""
    from harness.console import Console
    from harness.listing import listing
    from harness.store import Store

    Console().print(listing(what, task, Store.at(store)))


@data_app.command("check")
@handled
def check(data: DataOption = None, task: TaskOption = "flickr30k", store: StoreOption = None) -> None:
    """Say what a data folder has, what it lacks, and where to get that."""
    from harness.console import Console
    from harness.listing import findings_table
    from harness.plan import data_folder
    from harness.registry import TASKS
    from harness.store import Store

    loaded = TASKS.load(task)()
    folder = data_folder(loaded, task, data, Store.at(store))
    Console().print(findings_table(folder, loaded.check(folder)))
