"""`check`: test an encoder before a run."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from harness.cli.options import DEFAULT_DEVICE, DEFAULT_TASK, DataOption, DeviceOption, StoreOption, TaskOption


def check(
    encoder: Annotated[str, typer.Argument(help="Encoder: see `list encoders`; or FILE.py:NAME.")],
    lang: Annotated[str, typer.Option(help="Language of the captions for the checks.")] = "en",
    task: TaskOption = DEFAULT_TASK,
    data: DataOption = None,
    split: Annotated[Literal["test", "val"], typer.Option(help="Images and captions for the checks.")] = "val",
    device: DeviceOption = DEFAULT_DEVICE,
    store: StoreOption = None,
) -> None:
    """Check an encoder as a run uses it, and report problems. Exit status 1 if a check fails."""
    from harness.core.builtins import TASKS, load_encoder
    from harness.evaluation.data_folders import data_folder
    from harness.evaluation.encoder_checks import check_encoder
    from harness.evaluation.retrievals import load_retrieval
    from harness.reporting.tables import trials_table
    from harness.runtime.console import Console
    from harness.storage.store import Store

    loaded = TASKS.load(task)()
    folder = data_folder(loaded, task, data, Store.at(store))
    retrieval = load_retrieval(loaded, folder, loaded.language(lang).code, split, None, load_encoder(encoder, device))
    checks = list(check_encoder(encoder, retrieval, device))
    console = Console()
    console.print(trials_table(encoder, checks))
    failed = sum(each.verdict == "failed" for each in checks)
    if failed:
        console.print(f"{failed} of {len(checks)} checks failed: a run would stop, or its numbers would be wrong")
        raise typer.Exit(1)
    console.print("all checks passed")
