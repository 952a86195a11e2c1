"""What a table shows, from made-up ranks whose figures are known by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.compare import Measured, summarise
from harness.ranking import Ranks, chance, scores
from harness.record import Record

PROVENANCE: dict[str, Any] = dict.fromkeys(("version", "python", "platform", "device", "created", "command"), "")
PROVENANCE |= {"commit": None, "dirty": None, "packages": {}}
BITEXT = {"lang": "de", "source": "", "kind": "", "offered": 10, "dropped": 1, "used": 9, "digest": ""}
TOWER: dict[str, Any] = dict.fromkeys(("digest", "lang", "teacher", "teacher_fingerprint"), "")
TOWER |= {"config": {}, "steps": 1, "losses": [1.0], "seconds": 1.0, "bitext": BITEXT, "provenance": PROVENANCE}
TEXTS = ("cell", "task", "task_version", "lang", "split", "source", "kind", "images_digest", "texts_digest", "encoder")


def measured(label: str, t2i: list[int], per_image: int = 1, distilled: bool = False) -> Measured:
    """A tower whose captions have the given ranks; every image's best caption has the best of its captions' ranks."""
    owner = np.arange(len(t2i)) // per_image
    images = len(t2i) // per_image
    ranks = Ranks(np.array(t2i), np.array(t2i).reshape(images, per_image).min(1))
    fields: dict[str, Any] = dict.fromkeys((*TEXTS, "encoder_fingerprint"), "") | {"provenance": PROVENANCE}
    fields |= {"text_tower": label if distilled else "english", "tower": TOWER if distilled else None, "sample": True}
    fields |= {"images": images, "captions": len(t2i), "scores": scores(ranks), "chance": chance(owner, images)}
    return Measured(label, Record.model_validate(fields), ranks, owner)


def table() -> list[Measured]:
    return [
        measured("floor", [50] * 8),
        measured("kd-mse", [1, 1, 2, 3, 4, 20, 20, 20], distilled=True),
        measured("ot-token", [1, 1, 1, 1, 4, 20, 20, 20], distilled=True),
        measured("same captions", [1] * 8),
        measured("all captions", [1] * 8 + [30] * 8, per_image=2),
    ]


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
    pairs = measured("english", [1, 1, 30, 30] * 4, per_image=2)
    single = measured("english", [1, 30] * 4)
    (of_pairs, *_), (of_single, *_) = (summarise([tower], "t2i", 2000).rows[0].intervals for tower in (pairs, single))
    assert (of_pairs.low, of_pairs.high) == (of_single.low, of_single.high)


def test_without_distilled_towers_there_is_nothing_to_compare() -> None:
    summary = summarise([measured("english", [1, 2, 3])], "t2i", 100)
    assert (summary.contrasts, summary.gaps) == ((), ())
