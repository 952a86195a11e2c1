"""The README shows the output of the program: its commands run, and its table of real results is that of the records."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.records.files import load_record
from harness.reporting.run_report import interval_text
from harness.statistics.measurement import DIRECTIONS, Measurement
from harness.statistics.run_summary import tower_row
from tests.support.command_line import ROOT, harness

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = README + (ROOT / "docs" / "distillation.md").read_text(encoding="utf-8")
RESULTS = sorted((ROOT / "leaderboards" / "results").glob("*/*/record.json"))
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


def test_ci_runs_the_first_two_blocks() -> None:
    """`.ci/run` runs the first two blocks of the README word for word."""
    first, second = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[:2]
    assert first == "pip install .\npython -m harness run --task flickr30k --lang qu --pairs 300 --steps 200\n"
    assert second == "pip install -e '.[dev]'\npytest -n 2 --dist loadfile\n"
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "$(readme 1)" in ci
    assert "$(readme 2)" in ci


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("python -m harness") and "~" not in line][1:])
def test_commands_that_need_no_data_run(command: str, tmp_path: Path) -> None:
    done = harness(*command.split()[3:], store=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [line for line in COMMANDS if "~/flickr30k" in line])
def test_commands_on_a_user_s_folder_are_understood(command: str, flickr30k_folder: Path, tmp_path: Path) -> None:
    """The weights of a tag cannot be downloaded here. The command must report this and no other error."""
    words = [str(flickr30k_folder) if word == "~/flickr30k" else word for word in command.split()[3:]]
    done = harness(*words, store=tmp_path)
    offline = "open_clip:ViT-B-32/laion2b_s34b_b79k" in command
    assert done.returncode == (1 if offline else 0), done.stderr
    if offline:
        assert re.fullmatch(r"error: open_clip:ViT-B-32/laion2b_s34b_b79k: .*\n", done.stderr), done.stderr


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parts[-3]}/{path.parts[-2][:8]}")
def test_the_real_tables_are_those_of_the_records(path: Path) -> None:
    tower = Measurement.read("", path.parent)
    for direction in DIRECTIONS:
        measured = tower_row(tower, direction, 10_000)
        cells = [interval_text(interval).plain for interval in measured.intervals]
        line = r"\s+".join(re.escape(text) for text in (*cells, f"{measured.median_rank:g}", f"{measured.captions:,}"))
        assert re.search(line, SHOWN), line


def test_the_records_of_the_real_tables_are_there() -> None:
    towers = {(path.parts[-3], load_record(path.parent).text_tower) for path in RESULTS}
    assert {tower for _, tower in towers} >= {"english", "kd-mse", "ot-token"}
    assert all(not load_record(path.parent).sample for path in RESULTS)
