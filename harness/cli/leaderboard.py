"""`leaderboard`: records side by side, as a page and as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DEFAULT_RESAMPLES, ResamplesOption

EXAMPLES = """Examples:

python -m harness leaderboard --out board

python -m harness leaderboard --out board --mine --board sample

python -m harness leaderboard --add ~/records-of-a-colleague --records my-results"""


def leaderboard(
    out: Annotated[
        Path | None, typer.Option(help="Folder to write index.html and the boards' CSV, Markdown and LaTeX into.")
    ] = None,
    board: Annotated[list[str] | None, typer.Option(help="Board to show, several times for several; all by default.")] = None,
    records: Annotated[
        list[Path] | None, typer.Option(help="Folder of records, at any depth; several times for several.")
    ] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Also the records of your own store.")] = False,
    store: Annotated[Path | None, typer.Option("--store", help="That store; else $HARNESS_STORE. Implies --mine.")] = None,
    add: Annotated[
        Path | None, typer.Option(help="Folder of records of others: check them and merge them into --records.")
    ] = None,
    resamples: ResamplesOption = DEFAULT_RESAMPLES,
) -> None:
    """Rank records on boards, so that rows which cannot be told apart share a rank; or merge records of others."""
    from harness.core.errors import HarnessError
    from harness.leaderboards.board.publish import own_results, publish_boards
    from harness.leaderboards.records.submission import merge_submission
    from harness.runtime.console import Console
    from harness.storage.store import Store

    console, folders = Console(), list(records or [])
    if add is None and out is None:
        raise HarnessError("say where the leaderboard is to go, as in --out board, or which records to merge, with --add FOLDER")
    if add is not None:
        if len(folders) > 1:
            raise HarnessError("--add merges into one folder: give --records once")
        console.print(merge_submission(add, folders[0] if folders else None))
    if out is None:
        return
    if mine or store:
        own = Store.at(store).root / "records"
        folders = [*(folders or own_results()), own]
    for line in publish_boards(folders, board or [], out, resamples):
        console.print(line)
    console.print(f"Open {(out / 'index.html').resolve()}")
