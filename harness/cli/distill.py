"""`distill`: make text towers, and measure none."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from harness.cli.options import (
    BitextOption,
    ChunkerOption,
    CleanOption,
    DataOption,
    StoreOption,
    TaskOption,
    TextOption,
    configured,
)
from harness.core.config import DistillConfig, ExecutorConfig

EXAMPLES = """Examples:

python -m harness distill --lang qu --objective ot-token --pairs 1000 --seeds 3

python -m harness distill --lang de,fr,cs --shared --data ~/flickr30k --teacher open_clip:ViT-B-32/laion2b_s34b_b79k"""


@configured(ExecutorConfig, "choices", "Several workers")
@configured(DistillConfig, "distill", "Distillation")
def distill(
    distill: DistillConfig,
    choices: ExecutorConfig,
    lang: Annotated[str, typer.Option(help="Languages, as for run: de,Swahili, all, tier:0-2, script:Arab.")],
    teacher: Annotated[str, typer.Option(help="Whose English text tower to distil: see `list encoders`.")] = "sample",
    task: TaskOption = "flickr30k",
    data: DataOption = None,
    seeds: Annotated[int, typer.Option(min=1, max=1_000, help="Towers a language, with seeds from --seed on.")] = 1,
    shared: Annotated[
        bool, typer.Option("--shared", help="One tower for all the languages, from as many pairs of each.")
    ] = False,
    bitext: BitextOption = None,
    text: TextOption = None,
    clean: CleanOption = None,
    leakage: Annotated[Literal["drop", "refuse"], typer.Option(help="What to do with bitext of evaluation images.")] = "drop",
    chunker: ChunkerOption = "simple",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    store: StoreOption = None,
) -> None:
    """Distil text towers from bitext. `run --tower` measures them, `towers` shows and exports them."""
    from harness.core.builtins import TASKS
    from harness.core.config import RunConfig, validated
    from harness.core.errors import HarnessError
    from harness.evaluation.data_folders import data_folder
    from harness.evaluation.tower_jobs import TowerOrder, distil_all, torchrun_processes
    from harness.reporting.tables import failures_table, towers_table
    from harness.runtime.console import Console
    from harness.storage.store import Store

    kept = Store.at(store)
    with torchrun_processes(device) as (ranks, place):
        console = Console(quiet=ranks is not None and not ranks.leads)
        if ranks and not choices.in_turn:
            raise HarnessError("torchrun's processes make each tower together: leave out --workers and --executor")
        config = validated(
            RunConfig,
            task=task,
            lang=lang,
            data=data_folder(TASKS.load(task)(), task, data, kept),
            encoder=teacher,
            distill=distill,
            bitext=bitext,
            text=text,
            clean=clean,
            leakage=leakage,
            chunker=chunker,
            device=place,
        )
        made, failed = distil_all(TowerOrder(config, seeds, shared, kept), console, choices, ranks)
        if ranks and not ranks.leads:
            return
    if made:
        console.print(towers_table(made, f"Towers in {kept.root / 'towers'}"))
    if failed:
        console.print(failures_table(failed, "tower"))
        raise typer.Exit(1)
