"""Fuzz test of submissions: mutated records, queries and archives neither change a number of a board silently nor break it.

    python -m tests.fuzz_submissions 5000             so many inputs; ends with status 1 if one of them failed
    python -m tests.fuzz_submissions 1 --first 417    one input again, with its traceback

An input is decided by its number. A third of them damage a record of our own, which must be said, or change nothing. The others
are submissions: each is refused in one line, or merged, and then the board says of our own records what it said before. An input
fails by another exception, by a message of several lines, or by more than 10 seconds.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.data import Language
from harness.core.errors import HarnessError
from harness.leaderboards.board.builder import make_boards
from harness.leaderboards.board.config import BoardConfig
from harness.leaderboards.board.exports import board_csv, board_latex, board_markdown
from harness.leaderboards.board.model import Board
from harness.leaderboards.board.page import board_page
from harness.leaderboards.records.loading import find_records
from harness.leaderboards.records.submission import merge_submission
from tests.fuzz import SECONDS, TooSlow, mutated, right, slow
from tests.support.synthetic_records import Arm, gallery, reseal, retrieval, write_record

IMAGES, RESAMPLES = 12, 100
LANGUAGES = {code: Language(code, code.upper(), "Latn", 1, ()) for code in ("de", "qu")}
BOARDS = [
    BoardConfig(name=name, title=name, task="flickr30k", split="test", sample=False, direction=direction, cutoff=cutoff, **more)
    for name, direction, cutoff, more in (("one", "t2i", 1, {"breakdown": "entity-type"}), ("back", "i2t", 5, {}))
]
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 13, 10**18, 10**400, -0.5, 1e308, "", "x", "de", "qu", "../../x", "a\x1b[2Jb", "\u202e", "a\nb"),
    *("x" * 5_000, "0" * 64, "test", "kd-mse", "ot-token", "2099-01-01", [], [[]], {}, {"a": {"b": {}}}, [1, "x", None]),
)


@dataclass
class Place:
    """Our own records and a submission."""

    root: Path

    @property
    def ours(self) -> Path:
        return self.root / "ours"

    @property
    def theirs(self) -> Path:
        return self.root / "theirs"


def prepare(root: Path) -> Place:
    """Write our own records of two towers in two languages, and a submission of two records, one with a recipe of ours."""
    place, pictures = Place(root), gallery(IMAGES)
    told = {"entity-type": tuple((("people",), ("animals", "scene"), ())[k % 3] for k in range(IMAGES))}
    for lang in ("de", "qu"):
        of = retrieval(lang, pictures)
        object.__setattr__(of, "facets", told)
        for arm in (Arm("kd-mse", 0.4), Arm("ot-token", 0.6)):
            write_record(place.ours, of, arm)
    english = retrieval("en", pictures, source="made-up (English side)", kind="original")
    write_record(place.ours, english, Arm(None, 0.6))
    write_record(place.theirs, retrieval("de", pictures), Arm("kd-mse", 0.9), cell="e" * 64)
    write_record(place.theirs, retrieval("de", pictures), Arm("kd-cosine", 0.5))
    return place


def made(folder: Path) -> tuple[list[Board], list[str]]:
    """Return every board of a folder rendered in each form, and what was left out."""
    problems: list[str] = []
    found = find_records([folder], problems)
    boards = [board for each in BOARDS for board in make_boards(each, found, LANGUAGES, resamples=RESAMPLES)]
    for form in (board_csv, board_markdown, board_latex):
        for board in boards:
            form(board)
    json.dumps(board_page(boards, problems))
    return boards, problems


def said_of_ours(boards: list[Board]) -> list[str]:
    """Return what boards contain of our own records, except ranks, which depend on other records."""
    lines = []
    for board in boards:
        own = [place for place, row in enumerate(board.rows) if not row.tower.sender]
        for place in own:
            row = board.rows[place]
            cells = {code: (cell.score, sorted(cell.records)) for code, cell in row.cells.items()}
            told = board.breakdown.rows[place] if board.breakdown else {}
            lines.append(f"{board.name} {row.tower} {cells} {row.overall and row.overall.score} {sorted(told.items())}")
        if own:
            facts = board.gallery, board.images, board.columns, [each.cells for each in board.ceilings]
            lines.append(f"{board.name} {facts} {len(board.contrasts)} {board.breakdown and board.breakdown.captions}")
    return lines


# Mutations


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Yield the path to each value of a record."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return (
        [path, *(way for key, of in inside for way in leaves(of, (*path, key)))]
        if path
        else [way for key, of in inside for way in leaves(of, (key,))]
    )


def other_value(folder: Path, source: random.Random) -> None:
    """Return a record with one to three values changed or removed."""
    path = folder / "record.json"
    record = json.loads(path.read_bytes())
    for _ in range(source.choice((1, 1, 2, 3))):
        *way, last = source.choice(leaves(record))
        at = record
        for key in way:
            at = at[key]
        if isinstance(at, dict) and source.random() < 0.1:
            del at[last]
        elif isinstance(at, (dict, list)):
            at[last] = source.choice(VALUES)
    path.write_text(json.dumps(record), encoding="utf-8")


def other_queries(folder: Path, source: random.Random) -> None:
    """Return queries with other ranks, ids, columns, types or compression."""
    path = folder / "queries.parquet"
    table = pq.read_table(path)
    columns = table.to_pydict()
    name = source.choice(list(columns))
    column, rows = columns[name], len(table)
    at, other = source.randrange(rows), source.randrange(rows)
    packing: dict[str, Any] = {}
    match source.randrange(9):
        case 0:
            column[at] = source.choice(
                (0, 1, -1, 2, IMAGES, IMAGES + 1, 2**31 - 1) if name == "rank" else ("x", "t2i", None, ["x"])
            )
        case 1:
            column[at], column[other] = column[other], column[at]
        case 2:
            columns[name] = [[value] for value in column]
        case 3:
            columns[source.choice(("facet:entity-type", "facet:x", "surprise", "found", "pointed"))] = [["y"]] * rows
        case 4:
            columns = {key: values[: rows - 1] for key, values in columns.items()}
        case 5:
            columns = {key: [*values, values[at]] for key, values in columns.items()}
        case 6:
            del columns[name]
        case 7:
            order = source.sample(range(rows), rows)
            columns = {key: [values[k] for k in order] for key, values in columns.items()}
        case 8:
            packing = source.choice(
                ({"compression": "zstd"}, {"row_group_size": 1}, {"use_dictionary": False}, {"data_page_size": 1})
            )
    try:
        pq.write_table(pa.table(columns), path, **packing)
    except (pa.ArrowException, TypeError):
        path.write_bytes(mutated(path.read_bytes(), source))


def other_bytes(folder: Path, source: random.Random) -> None:
    """Change bytes in a file of a record."""
    path = folder / source.choice(("record.json", "queries.parquet", "queries.parquet", "digests.json"))
    path.write_bytes(mutated(path.read_bytes(), source))


def other_tree(folder: Path, source: random.Random) -> None:
    """Remove a file, move it, or replace it with a link, a pipe, or the file of another record."""
    path = folder / source.choice(("record.json", "queries.parquet", "digests.json"))
    data = path.read_bytes()
    path.unlink()
    match source.randrange(7):
        case 1:
            path.symlink_to("/etc/passwd")
        case 2:
            os.mkfifo(path)
        case 3:
            path.mkdir()
        case 4:
            other = source.choice([each for each in folder.parent.iterdir() if each != folder and (each / path.name).is_file()])
            shutil.copyfile(other / path.name, path)
        case 5:
            (folder / "inside").mkdir()
            (folder / "inside" / path.name).write_bytes(data)
        case 6:
            path.write_bytes(data + data)


def archived(folder: Path, source: random.Random) -> None:
    """Pack the submission as an archive, change bytes, and unpack what is still readable."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", source.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for path in sorted(folder.parent.rglob("*.*")):
            archive.write(path, path.relative_to(folder.parent))
    shutil.rmtree(folder.parent)
    folder.parent.mkdir()
    try:
        with zipfile.ZipFile(io.BytesIO(mutated(packed.getvalue(), source))) as archive:
            for member in archive.infolist():
                if member.file_size < 1 << 20:
                    archive.extract(member, folder.parent)
    except Exception:  # whatever is the matter, what was unpacked until then is what arrived
        return


SENT: tuple[Callable[[Path, random.Random], None], ...] = (other_value, other_queries, other_bytes, other_tree, archived)
DAMAGED: tuple[Callable[[Path, random.Random], None], ...] = (other_queries, other_bytes, other_tree)


def attempt(number: int, place: Place, expected: list[str]) -> str:
    """Try one input and return the outcome: `same`, `said`, `refused`, `merged`, or a description of the failure."""
    source = random.Random(number)
    own = number % 3 == 0
    within = place.ours if own else place.theirs
    folder = source.choice(sorted(within.iterdir()))
    mutate = source.choice(DAMAGED if own else SENT)
    mutate(folder, source)
    sealing = source.randrange(3)
    if (own and mutate is other_queries and sealing) or (not own and sealing):
        unseal(folder, again=sealing == 1)
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        return judged(own, place, expected, folder)
    except TooSlow:
        return f"{mutate.__name__}: more than {SECONDS} s"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{mutate.__name__}: {type(error).__name__}: {str(error)[:300]!r} at {Path(last.filename).name}:{last.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def unseal(folder: Path, again: bool) -> None:
    """Remove the seal of a record, or forge it."""
    try:
        (folder / "digests.json").unlink(missing_ok=True)
        if again:
            reseal(folder)
    except (OSError, ValueError, TypeError, KeyError, HarnessError, RecursionError):
        return  # what is mutated too much to be sealed goes without


def judged(own: bool, place: Place, expected: list[str], folder: Path) -> str:
    """Return the outcome. Raises AssertionError if a number changed silently."""
    if own:
        boards, problems = made(place.ours)
        if problems:
            right(len(problems) == 1 and str(folder) in problems[0] and "\n" not in problems[0], f"said {problems}")
            return "said"
        if not (folder / "record.json").is_file():
            return "gone"
        right(said_of_ours(boards) == expected, "a number changed in silence")
        return "same"
    try:
        merged = merge_submission(place.theirs, place.ours)
    except HarnessError as error:
        right("\n" not in str(error) and len(str(error)) < 4_000, f"a message of {len(str(error)):,} characters")
        right("theirs" in str(error), f"a message that names no file: {error}")
        outcome = "refused"
    else:
        outcome = "merged" if not merged.startswith("0 ") else "known"
    boards, problems = made(place.ours)
    right(not problems, f"said {problems}")
    right(said_of_ours(boards) == expected, "what a board says of ours changed")
    return outcome


def main() -> int:
    """Fuzz, print the outcomes, and fail if any input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=int, help="how many")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    given = parser.parse_args()
    signal.signal(signal.SIGALRM, slow)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    began, went, wrong = time.monotonic(), Counter[str](), dict[str, list[int]]()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        whole = prepare(Path(name, "whole"))
        expected = said_of_ours(made(whole.ours)[0])
        for number in range(given.first, given.first + given.inputs):
            place = Place(Path(name, str(number)))
            shutil.copytree(whole.root, place.root)
            outcome = attempt(number, place, expected)
            known = outcome in ("same", "said", "gone", "refused", "merged", "known")
            went[f"{'ours' if number % 3 == 0 else 'theirs'} {outcome if known else 'WRONG'}"] += 1
            if not known:
                wrong.setdefault(outcome.replace(str(place.root), ""), []).append(number)
            shutil.rmtree(place.root, ignore_errors=True)
    counts = ", ".join(f"{went[kind]:,} {kind}" for kind in sorted(went))
    print(f"{given.inputs:,} inputs in {time.monotonic() - began:.0f} s: {counts}")
    for what, numbers in wrong.items():
        print(f"WRONG {what} (inputs {', '.join(map(str, numbers[:5]))}; {len(numbers)} in all)")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
