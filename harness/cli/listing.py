"""`list`: tables of everything that can be chosen by name."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from harness.cli.options import DEFAULT_TASK, StoreOption, TaskOption

What = Literal[
    "tasks",
    "encoders",
    "objectives",
    "initializers",
    "scorers",
    "chunkers",
    "executors",
    "translators",
    "languages",
    "sources",
    "runs",
]


def list_(
    what: Annotated[What, typer.Argument(help="What to list.")],
    task: TaskOption = DEFAULT_TASK,
    store: StoreOption = None,
) -> None:
    """List everything that can be chosen by name, and the runs of the store."""
    from harness.reporting.tables import listing
    from harness.runtime.console import Console
    from harness.storage.store import Store

    Console().print(listing(what, task, Store.at(store)))
