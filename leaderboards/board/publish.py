"""Publishing of boards: from folders of records to a folder of files for a web server, or to open from a disk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.core.builtins import TASKS
from harness.core.data import Language
from harness.core.errors import HarnessError
from harness.leaderboards.board.builder import make_boards
from harness.leaderboards.board.config import BoardConfig, load_board_configs
from harness.leaderboards.board.exports import board_csv, board_latex, board_markdown
from harness.leaderboards.board.model import Board
from harness.leaderboards.board.page import PROBLEM_LENGTH, board_page
from harness.leaderboards.records.board_records import BoardRecord
from harness.leaderboards.records.loading import OWN_RESULTS, find_records
from harness.leaderboards.rendering import sanitize_line, write_web_file

_FORMATS = {".csv": board_csv, ".md": board_markdown, ".tex": board_latex}


def publish_boards(folders: Sequence[Path], names: Sequence[str], out: Path, resamples: int) -> list[str]:
    """Write `index.html` and each board's CSV, Markdown and LaTeX files into `out`, and return a line for each board.

    A record that is damaged or disagrees with the others is left out. Standard error and the page say so.

    folders: of records, the project's own by default. names: of boards, all by default.
    Raises HarnessError if a folder or board does not exist, or if no record fits any of the boards.
    """
    problems: list[str] = []
    folders = folders or own_results()
    found = find_records(folders, problems)
    for problem in problems:
        print(f"note: left out: {sanitize_line(problem, PROBLEM_LENGTH)}", file=sys.stderr)
    configs = load_board_configs(names)
    boards = [board for each in configs for board in make_boards(each, found, board_languages(each, found), resamples=resamples)]
    if not boards:
        raise HarnessError(f"none of {len(found):,} records fits a board of {', '.join(each.name for each in configs)}")
    write_boards(boards, out, [relative_paths(problem, folders) for problem in problems])
    return [board_summary(board) for board in boards]


def relative_paths(text: str, folders: Sequence[Path]) -> str:
    """Return a text with paths relative to the folders of records. A published page must not name this machine's folders."""
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return text


def own_results() -> list[Path]:
    """Return the folders of the project's own records."""
    return [OWN_RESULTS]


def board_languages(config: BoardConfig, found: Sequence[BoardRecord]) -> dict[str, Language]:
    """Return the languages of a board's task, or none if no record is of that task."""
    wanted = any(each.record.task == config.task for each in found)
    return dict(TASKS.load(config.task)().languages()) if wanted else {}


def write_boards(boards: Sequence[Board], out: Path, problems: Sequence[str] = ()) -> None:
    """Write the page and each board's files. problems: why records were left out."""
    for board in boards:
        for suffix, export in _FORMATS.items():
            write_web_file(out / f"{board.name}{suffix}", export(board))
    write_web_file(out / "index.html", board_page(boards, problems))


def board_summary(board: Board) -> str:
    """Return a line that describes a board."""
    records = sum(len(cell.records) for row in board.rows for cell in row.cells.values())
    complete = sum(row.overall is not None for row in board.rows)
    return (
        f"{board.title}: {len(board.rows)} rows ({complete} complete) x {len(board.columns)} languages from {records:,} records"
    )
