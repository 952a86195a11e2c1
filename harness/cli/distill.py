"""`distill`: distill text towers without measuring them."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import StoreOption, configured
from harness.core.config import ExecutorConfig, GroundingConfig, RunConfig, ScoringConfig

EXAMPLES = """Examples:

python -m harness distill --lang qu --objective ot-token --pairs 1000 --seeds 3

python -m harness distill --lang de,fr,cs --shared --data ~/flickr30k --teacher open_clip:ViT-B-32/laion2b_s34b_b79k"""


_FOR_MEASUREMENTS = {
    *("split", "source", "arms", "objectives", "towers", "measures", "translations", "translator", "scorer", "skip_broken"),
    "resamples",
    *GroundingConfig.model_fields,
    *ScoringConfig.model_fields,
}


@configured(ExecutorConfig, "execution")
@configured(
    RunConfig,
    "config",
    without=_FOR_MEASUREMENTS,
    renamed={"encoder": ("--teacher", "Encoder whose English text tower is distilled: see `list encoders`.")},
)
def distill(
    config: RunConfig,
    execution: ExecutorConfig,
    seeds: Annotated[
        int, typer.Option(min=1, max=1_000, help="Towers of each language, with consecutive seeds from --seed.")
    ] = 1,
    shared: Annotated[
        bool, typer.Option("--shared", help="One tower for all languages, from the same number of pairs of each.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Distill text towers from bitext. `run --tower` measures them, `towers` shows and exports them."""
    from harness.core.builtins import TASKS
    from harness.core.errors import HarnessError
    from harness.evaluation.data_folders import data_folder
    from harness.evaluation.tower_jobs import TowerOrder, distil_all, torchrun_rank
    from harness.reporting.tables import failures_table, towers_table
    from harness.runtime.console import Console
    from harness.storage.store import Store

    kept = Store.at(store)
    with torchrun_rank(config.device) as (ranks, place):
        console = Console(quiet=ranks is not None and not ranks.leads)
        if ranks and not execution.sequential:
            raise HarnessError("torchrun's processes train each tower together: leave out --workers and --executor")
        folder = data_folder(TASKS.load(config.task)(), config.task, config.data, kept)
        config = config.model_copy(update={"data": str(folder), "device": place})
        made, failed = distil_all(TowerOrder(config, seeds, shared, kept), console, execution, ranks)
        if ranks and not ranks.leads:
            return
    if made:
        console.print(towers_table(made, f"Towers in {kept.root / 'towers'}"))
    if failed:
        console.print(failures_table(failed, "tower"))
        raise typer.Exit(1)
