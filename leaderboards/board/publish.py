"""From folders of records to a folder that can be put on any web server, or opened from a disk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.core.builtins import TASKS
from harness.core.data import Language
from harness.core.errors import HarnessError
from harness.leaderboards.board.builder import Board, make_boards, sanitize_line
from harness.leaderboards.board.config import BoardConfig, load_board_configs
from harness.leaderboards.board.exports import board_csv, board_latex, board_markdown
from harness.leaderboards.board.page import PROBLEM_LENGTH, board_page
from harness.leaderboards.records.board_records import BoardRecord
from harness.leaderboards.records.loading import find_records
from harness.storage.store import new_file

RESULTS = Path(__file__).parents[1] / "results"
FORMATS = {".csv": board_csv, ".md": board_markdown, ".tex": board_latex}


def publish_boards(folders: Sequence[Path], names: Sequence[str], out: Path, resamples: int) -> list[str]:
    """Write `index.html` and each board's CSV, Markdown and LaTeX into `out`; a line for each board.

    A record that is damaged or does not agree with the others is left out, and said on standard error and on the page.

    folders: where records are, this project's own where none is named. names: of boards, all by default.
    Raises HarnessError if a folder or board is not there, or if no record fits any of the boards.
    """
    problems: list[str] = []
    found = find_records(folders or [RESULTS], problems)
    for problem in problems:
        print(f"note: left out: {sanitize_line(problem, PROBLEM_LENGTH)}", file=sys.stderr)
    boards = [
        board
        for each in load_board_configs(names)
        for board in make_boards(each, found, board_languages(each, found), resamples=resamples)
    ]
    if not boards:
        raise HarnessError(
            f"none of {len(found):,} records fits a board of {', '.join(each.name for each in load_board_configs(names))}"
        )
    write_boards(boards, out, [relative_paths(problem, folders or [RESULTS]) for problem in problems])
    return [board_summary(board) for board in boards]


def relative_paths(text: str, folders: Sequence[Path]) -> str:
    """A line for the page, which others read: paths begin below the folders of records."""
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return text


def own_results() -> list[Path]:
    """Where this project's own records are."""
    return [RESULTS]


def board_languages(declaration: BoardConfig, found: Sequence[BoardRecord]) -> dict[str, Language]:
    """The languages of a board's task; none where no record is of it."""
    wanted = any(each.record.task == declaration.task for each in found)
    return dict(TASKS.load(declaration.task)().languages()) if wanted else {}


def write_boards(boards: Sequence[Board], out: Path, problems: Sequence[str] = ()) -> None:
    """Write the page and the files beside it. problems: why records were left out."""
    for board in boards:
        for suffix, form in FORMATS.items():
            write_web_file(out / f"{board.name}{suffix}", form(board))
    write_web_file(out / "index.html", board_page(boards, problems))


def write_web_file(path: Path, text: str) -> None:
    """Write a file that a web server may read, whole or not at all."""
    with new_file(path) as file:
        file.write_text(text, encoding="utf-8", newline="")
        file.chmod(0o644)


def board_summary(board: Board) -> str:
    """A board in a line."""
    records = sum(len(cell.records) for row in board.rows for cell in row.cells.values())
    complete = sum(row.overall is not None for row in board.rows)
    return (
        f"{board.title}: {len(board.rows)} rows ({complete} complete) x {len(board.columns)} languages from {records:,} records"
    )
