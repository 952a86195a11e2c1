"""`distill`: make text towers, and measure none."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import typer

from harness.commands.options import BitextOption, ChunkerOption, CleanOption, DataOption, StoreOption, TaskOption, configured
from harness.config import DistillConfig

EXAMPLES = """Examples:

python -m harness distill --lang qu --objective ot-token --pairs 1000 --seeds 3

python -m harness distill --lang de,fr,cs --shared --data ~/flickr30k --teacher open_clip:ViT-B-32/laion2b_s34b_b79k"""


@configured(DistillConfig, "distill", "Distillation")
def distill(
    distill: DistillConfig,
    lang: Annotated[str, typer.Option(help="Languages, as for run: de,Swahili, all, tier:0-2, script:Arab.")],
    teacher: Annotated[str, typer.Option(help="Whose English text tower to distil: see `list encoders`.")] = "sample",
    task: TaskOption = "flickr30k",
    data: DataOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Towers a language, with seeds from --seed on.")] = 1,
    shared: Annotated[
        bool, typer.Option("--shared", help="One tower for all the languages, from as many pairs of each.")
    ] = False,
    bitext: BitextOption = None,
    clean: CleanOption = None,
    leakage: Annotated[Literal["drop", "refuse"], typer.Option(help="What to do with bitext of evaluation images.")] = "drop",
    chunker: ChunkerOption = "simple",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    store: StoreOption = None,
) -> None:
    """Distil text towers from bitext. `run --tower` measures them, `towers` shows and exports them."""
    from harness.api import HarnessError
    from harness.console import Console
    from harness.distill.distil import Recipe, distil
    from harness.languages import select_languages
    from harness.listing import towers_table
    from harness.phrases import tagged
    from harness.plan import data_folder, guarded_bitext
    from harness.registry import TASKS, load_encoder
    from harness.store import Store

    kept, console = Store.at(store), Console()
    loaded = TASKS.load(task)()
    languages = [language for language, _ in select_languages(loaded, lang)]
    if any(language.code == "en" for language in languages):
        raise HarnessError("English is what is distilled from: name other languages with --lang")
    folder, encoder = data_folder(loaded, task, data, kept), load_encoder(teacher, device)
    guarded = guarded_bitext(loaded, folder, languages, leakage, bitext, clean)
    config = distill.for_objective(distill.objective)
    choices = [config.model_copy(update={"seed": config.seed + more}) for more in range(seeds)]
    groups = [guarded] if shared else [(each,) for each in guarded]
    tag = partial(tagged, task=loaded, data=folder, chunker=chunker)
    recipes = [Recipe(choice, encoder, group, tag) for group in groups for choice in choices]
    for recipe in recipes:
        distil(recipe, device, kept, console)
    console.print(towers_table([kept.tower(recipe.digest) for recipe in recipes], f"Towers in {kept.root / 'towers'}"))
