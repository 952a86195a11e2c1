"""`leaderboard`: rankings of records, as a page and as tables."""

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
    board: Annotated[list[str] | None, typer.Option(help="Board to show; repeatable. By default all.")] = None,
    records: Annotated[list[Path] | None, typer.Option(help="Folder of records, at any depth; repeatable.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Add the records of your own store.")] = False,
    store: Annotated[Path | None, typer.Option("--store", help="Your store; by default $HARNESS_STORE. Implies --mine.")] = None,
    add: Annotated[
        Path | None, typer.Option(help="Folder of other people's records: check them and merge them into --records.")
    ] = None,
    resamples: ResamplesOption = DEFAULT_RESAMPLES,
) -> None:
    """Rank records on boards, where rows without a significant difference share a rank; or merge other people's records."""
    from harness.core.errors import HarnessError
    from harness.leaderboards.board.publish import own_results, publish_boards
    from harness.leaderboards.records.submission import merge_submission
    from harness.runtime.console import Console
    from harness.storage.store import Store

    console, folders = Console(), list(records or [])
    if add is None and out is None:
        raise HarnessError(
            "neither --out nor --add is given: write the leaderboard with --out board, or merge records with --add FOLDER"
        )
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
