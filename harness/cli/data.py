"""`data`: check a data folder, fetch public files into it, pack it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DEFAULT_TASK, DataOption, StoreOption, TaskOption


def check(data: DataOption = None, task: TaskOption = DEFAULT_TASK, store: StoreOption = None) -> None:
    """List what a data folder has, what it lacks, and where to get it."""
    from harness.core.builtins import TASKS
    from harness.evaluation.data_folders import data_folder
    from harness.reporting.tables import findings_table
    from harness.runtime.console import Console
    from harness.storage.store import Store

    loaded = TASKS.load(task)()
    folder = data_folder(loaded, task, data, Store.at(store))
    Console().print(findings_table(folder, loaded.check(folder)))


def fetch(
    data: Annotated[Path, typer.Option(help="Folder to fetch into; created if it does not exist.")],
    lang: Annotated[str | None, typer.Option(help="Languages, as for run: de,sw, all, tier:0-2, script:Arab.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Caption source, see `list sources`; by default all that can be fetched.")
    ] = None,
    task: TaskOption = DEFAULT_TASK,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be fetched, and stop.")] = False,
) -> None:
    """Fetch public captions and translations into a data folder. Images are not public: `data check` says where to get them."""
    from harness.core.builtins import TASKS
    from harness.core.errors import HarnessError
    from harness.core.languages import select_languages
    from harness.reporting.tables import downloads_table
    from harness.runtime.console import Console
    from harness.storage.downloads import fetch_all

    if lang is None and source is None:
        raise HarnessError("nothing to fetch is named: pass --lang de,sw, --source multi30k, or both")
    loaded, console = TASKS.load(task)(), Console()
    codes = None if lang is None else [language.code for language, _ in select_languages(loaded, lang)]
    wanted = loaded.downloads(codes, source)
    if not wanted:
        raise HarnessError(f"nothing of {lang} can be fetched; `list sources --task {task}` says where to get it")
    console.print(downloads_table(wanted, data))
    if dry_run:
        return
    with console.stage("fetches", len(wanted), "files") as advance:
        fetched = fetch_all(wanted, data, lambda count: advance(count, ""))
    console.print(f"{fetched:,} of {len(wanted):,} files fetched into {data}, the others existed already")


def pack(
    out: Annotated[Path, typer.Option(help="New folder for the pack.")],
    data: DataOption = None,
    task: TaskOption = DEFAULT_TASK,
    per_shard: Annotated[int, typer.Option(min=1, help="Images in a shard.")] = 1_000,
    store: StoreOption = None,
) -> None:
    """Pack a data folder into webdataset shards, texts and a manifest. `run --data` reads packs from folders and addresses."""
    from harness.core.builtins import TASKS
    from harness.evaluation.data_folders import data_folder
    from harness.runtime.console import Console
    from harness.storage.packs import write_pack
    from harness.storage.store import Store

    loaded, console = TASKS.load(task)(), Console()
    folder = data_folder(loaded, task, data, Store.at(store))
    contents = loaded.contents(folder)
    with console.stage("packs", len(contents.pictures), "pictures") as advance:
        manifest = write_pack(contents, folder, task, out, per_shard, lambda count: advance(count, ""))
    size = (sum(part.bytes for part in manifest.shards) + manifest.texts.bytes) / 1e6
    console.print(
        f"{out}: {manifest.samples:,} pictures in {len(manifest.shards):,} shards, {manifest.texts.samples:,} files of text, "
        f"{size:,.1f} MB"
    )
