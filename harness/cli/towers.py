"""`towers`: list, show and export distilled text towers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import StoreOption

TowerArgument = Annotated[str, typer.Argument(help="The tower's folder, or the first digits of its digest.")]


def list_(store: StoreOption = None) -> None:
    """List the towers of the store."""
    from harness.reporting.tables import towers_table
    from harness.runtime.console import Console
    from harness.storage.store import Store

    kept = Store.at(store)
    Console().print(towers_table(kept.towers(), f"Towers in {kept.root / 'towers'}"))


def show(
    tower: TowerArgument,
    svg: Annotated[Path | None, typer.Option(help="Draw the training curves into this file, too.")] = None,
    store: StoreOption = None,
) -> None:
    """Show how a tower was made: every option, the bitext and the pairs that the guard dropped, and its training curves."""
    from harness.records.towers import find_tower_folder, load_card
    from harness.reporting.tables import card_table
    from harness.reporting.training_curves import draw_curves, print_curves
    from harness.runtime.console import Console
    from harness.storage.store import Store

    folder = find_tower_folder(tower, Store.at(store))
    card, console = load_card(folder), Console()
    console.print(card_table(card, folder))
    print_curves(card, console)
    if svg:
        draw_curves(card, svg)
        console.say(f"drawn: {svg}")


def export(
    tower: TowerArgument,
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    hub: Annotated[str | None, typer.Option(help="ORG/REPO to which you will push the folder.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="The teacher, whose image tower is exported too; by default the one in the tower's card.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Write a tower and its teacher's image tower as one model in open_clip's folder format."""
    from harness.core.builtins import load_encoder
    from harness.core.plugins import without_code
    from harness.encoders.open_clip.export import write_open_clip
    from harness.records.towers import find_tower_folder, load_card
    from harness.runtime.console import Console
    from harness.storage.store import Store

    folder = find_tower_folder(tower, Store.at(store))
    teacher = load_encoder(encoder or without_code(load_card(folder).teacher, folder), "cpu")
    write_open_clip(folder, teacher, out, hub)
    Console().say(f"{out}: open_clip.create_model_and_transforms('local-dir:{out}'), or --encoder local-dir:{out}")
