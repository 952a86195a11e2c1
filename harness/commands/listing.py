"""`list`: what there is."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from harness.commands.options import StoreOption, TaskOption

What = Literal["tasks", "encoders", "objectives", "scorers", "languages", "sources", "runs"]


def list_(
    what: Annotated[What, typer.Argument(help="What to list.")],
    task: TaskOption = "flickr30k",
    store: StoreOption = None,
) -> None:
    """List what there is: tasks, encoders, objectives, scorers, languages, caption sources, and the runs of the store."""
    from harness.console import Console
    from harness.listing import listing
    from harness.store import Store

    Console().print(listing(what, task, Store.at(store)))
