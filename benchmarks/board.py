"""Time and memory of a large board: 200 languages x 10 towers x 3 seeds, made-up ranks of 1,000 images.

python -m benchmarks.board [FOLDER]

With FOLDER, the page and the tables are written there. Memory is the peak of a process that does nothing else.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.core.data import Language
from harness.leaderboards.board.builder import make_boards
from harness.leaderboards.board.config import load_board_configs
from harness.leaderboards.board.publish import write_boards
from harness.leaderboards.records.loading import find_records
from tests.support.synthetic_records import ARMS, write_board

LANGUAGES = [f"{first}{second}" for first in "abcdefghijklmnopqrst" for second in "qrstuvwxyz"]
SEEDS = 3


def measure(records: Path, out: Path) -> None:
    """Build the board, write all its files, and print time and memory."""
    known = {code: Language(code, f"Language {code.upper()}", "Latn", place % 6, ()) for place, code in enumerate(LANGUAGES)}
    start, begun = time.perf_counter(), time.process_time()
    found = find_records([records])
    read = time.perf_counter()
    boards = make_boards(load_board_configs(["flickr30k"])[0], found, known)
    built = time.perf_counter()
    write_boards(boards, out)
    end = time.perf_counter()
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(found):,} records: found in {read - start:.1f} s, board in {built - read:.1f} s, files in {end - built:.1f} s")
    busy, page = time.process_time() - begun, (out / "index.html").stat().st_size / 1e6
    print(f"together {end - start:.1f} s ({busy:.1f} s of processor time), {megabytes:.0f} MiB at the most, page {page:.2f} MB")


def main() -> None:
    """Make the records, then measure in another process."""
    if len(sys.argv) == 4:
        measure(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder, "records")
        write_board(records, LANGUAGES, ARMS, SEEDS)
        out = sys.argv[1] if len(sys.argv) > 1 else str(Path(folder, "board"))
        subprocess.run([sys.executable, "-m", "benchmarks.board", "measure", str(records), out], check=True)


if __name__ == "__main__":
    main()
