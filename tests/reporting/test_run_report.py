"""What a table says where there is no interval: a gallery of one image, and a gap that may be none."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from harness.core.data import Ranks
from harness.leaderboards.board.builder import make_boards
from harness.leaderboards.board.config import BOARDS, read_board_config
from harness.leaderboards.records.loading import find_records
from harness.reporting.comparison_report import estimate_text, gap_percent_text, render_comparison
from harness.reporting.multilingual import LanguageReport, print_multilingual
from harness.reporting.run_report import difference_text, interval_text, print_report, share_text
from harness.runtime.console import Console
from harness.statistics.comparison import compare_records
from harness.statistics.comparison_schema import ComparisonOptions, Estimate
from harness.statistics.inference import Difference, Interval
from harness.statistics.measurement import DIRECTIONS, Measurement
from harness.statistics.run_summary import summarise
from harness.tasks.caption_sources import known_languages
from tests.support.synthetic_records import Arm, gallery, retrieval, synthetic_ranks, synthetic_record, write_record

NAN = math.nan
ONLY = Ranks(np.ones(1, np.int64), np.ones(1, np.int64))
"""The ranks of a gallery of one image with one caption."""


def towers(images: int) -> list[Measurement]:
    """The English tower and two distilled ones, and English on the same captions."""
    of, english = retrieval("de", gallery(images)), retrieval("en", gallery(images), source="made-up (English side)")
    out = []
    for side, arm in ((of, Arm(None, 0.2)), (of, Arm("kd-mse", 0.4)), (of, Arm("ot-token", 0.6)), (english, Arm(None, 0.9))):
        ranks = synthetic_ranks(side.caption_images, images, arm.skill, [1, len(out)]) if images > 1 else ONLY
        out.append(Measurement(f"{arm.objective} {side.lang}", synthetic_record(side, arm, 0, ranks), ranks, side.caption_images))
    return out


@pytest.mark.parametrize(("images", "has"), [(1, False), (2, True), (40, True)])
def test_a_gallery_of_one_image_has_no_interval_and_says_why(images: int, has: bool, capsys: pytest.CaptureFixture[str]) -> None:
    measured, console = towers(images), Console()
    summaries = print_report(measured, console, "records", 100)
    print_multilingual([LanguageReport("German", measured, summaries)], console)
    shown = capsys.readouterr().out
    assert "nan" not in shown
    assert bool(re.search(r"\d \[[-+]?\d", shown)) == has
    assert ("Confidence intervals: 95 %, 100 bootstrap resamples of images." in shown) == has
    why = "No confidence intervals: the bootstrap resamples images and needs at least two."
    assert (why in " ".join(shown.split())) != has
    if not has:
        assert "100.0" in shown


def test_a_number_without_an_interval_is_a_number_alone() -> None:
    assert str(interval_text(Interval(100.0, NAN, NAN))) == "100.0"
    assert share_text(Interval(0.8, NAN, NAN)) == "80 % (no interval)"
    assert share_text(Interval(NAN, NAN, NAN)) == "—"
    assert difference_text(Difference(0.0, NAN, NAN, 1.0, NAN), "R@1", 1.0) == "+0.0 points of R@1: inconclusive"
    assert estimate_text(Estimate.of(Interval(100.0, NAN, NAN)), ".1f") == "100.0"
    assert gap_percent_text(Estimate.of(Interval(0.8, NAN, NAN))) == "80 %"
    assert estimate_text(Estimate(estimate=1.0, low=None, high=2.0), ".1f") == "1.0 [—, 2.0]"


def test_json_has_null_where_there_is_no_interval() -> None:
    for direction in DIRECTIONS:
        summary = summarise(towers(1), direction, 50)
        for row in summary.rows:
            assert [Estimate.of(each).model_dump_json() for each in row.intervals] == [
                '{"estimate":100.0,"low":null,"high":null}'
            ] * 3


def test_a_comparison_over_one_image_has_no_interval_in_any_form(tmp_path: Path) -> None:
    for arm in (Arm("kd-mse", 1.0), Arm("ot-token", 1.0)):
        write_record(tmp_path, retrieval("de", gallery(1)), arm, ranks=ONLY)
    found = compare_records("ot-token", "kd-mse", tmp_path, ComparisonOptions(resamples=50))
    (line, *_) = found.settings[0].sections[0].lines
    assert (line.a.estimate, line.a.low, line.a.high, line.difference.low) == (100.0, None, None, None)
    for form in ("text", "markdown", "latex", "json"):
        shown = render_comparison(found, form)
        assert not re.search(r"\bnan\b|\[—", shown, re.IGNORECASE)


def test_a_gallery_of_one_image_has_no_board(tmp_path: Path) -> None:
    declaration, languages = read_board_config(BOARDS / "flickr30k.toml"), known_languages()
    for images, boards in ((1, 0), (2, 1)):
        of = retrieval("de", gallery(images, f"of-{images}"))
        write_record(tmp_path, of, Arm("kd-mse", 1.0), ranks=Ranks(np.ones(images, np.int64), np.ones(images, np.int64)))
        assert len(make_boards(declaration, find_records([tmp_path]), languages, resamples=20)) == boards
