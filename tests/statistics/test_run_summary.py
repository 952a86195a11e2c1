"""What a table shows, from made-up ranks whose figures are known by hand."""

from __future__ import annotations

import pytest

from harness.statistics.run_summary import summarise
from tests.support.measurements import measurement, table


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_each_row_has_its_hit_rates(direction: str) -> None:
    rows = {row.label: row for row in summarise(table(), direction, 100).rows}
    assert [interval.estimate for interval in rows["kd-mse"].intervals] == [25.0, 62.5, 62.5]
    assert [interval.estimate for interval in rows["ot-token"].intervals] == [50.0, 62.5, 62.5]
    assert rows["kd-mse"].median_rank == 3.5
    assert all(i.low <= i.estimate <= i.high for row in rows.values() for i in row.intervals)


def test_the_first_distilled_tower_is_the_baseline() -> None:
    (contrast,) = summarise(table(), "t2i", 100).contrasts
    assert contrast.label == "ot-token − kd-mse"
    assert contrast.difference.estimate == 25.0


def test_the_gap_lies_between_the_floor_and_english_on_the_same_captions() -> None:
    shares = {gap.label: gap.share.estimate for gap in summarise(table(), "t2i", 100).gaps}
    assert shares == {"kd-mse": 0.25, "ot-token": 0.5}


def test_captions_of_an_image_are_one_cluster() -> None:
    """Two captions that agree tell no more than one: the interval is as wide as over the images alone."""
    pairs = measurement("english", [1, 1, 30, 30] * 4, per_image=2)
    single = measurement("english", [1, 30] * 4)
    (of_pairs, *_), (of_single, *_) = (summarise([tower], "t2i", 2000).rows[0].intervals for tower in (pairs, single))
    assert (of_pairs.low, of_pairs.high) == pytest.approx((of_single.low, of_single.high), rel=0.02)


def test_without_distilled_towers_there_is_nothing_to_compare() -> None:
    summary = summarise([measurement("english", [1, 2, 3])], "t2i", 100)
    assert (summary.contrasts, summary.gaps) == ((), ())
