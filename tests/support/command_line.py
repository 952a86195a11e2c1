"""Runs of the command line in a subprocess."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL_RUN = ("--pairs", "400", "--steps", "12", "--batch", "64", "--resamples", "200")


def harness(*words: str, store: Path, cwd: Path = ROOT, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run `python -m harness WORDS`, or with `code` that Python code with WORDS as its arguments."""
    program = ["-c", code] if code else ["-m", "harness"]
    return subprocess.run(
        [sys.executable, *program, *words],
        cwd=cwd,
        env=environment(store),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def environment(store: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "FLICKR30K_ROOT"}
    return kept | {"HARNESS_STORE": str(store), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def wait_for_file(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the process has created a file."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, f"the run ended before {path.name} was there"
        assert time.monotonic() < deadline, f"the run did not make {path.name}"
        time.sleep(0.05)
