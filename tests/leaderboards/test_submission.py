"""Tests of `leaderboard --add`: valid records are merged, and one invalid record refuses the whole submission."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.core.errors import HarnessError
from harness.leaderboards.records.submission import merge_submission
from harness.retrieval.grounding import grounding_scores
from harness.retrieval.ranking import MISSED
from tests.support.record_edits import edit_queries, edit_record
from tests.support.synthetic_records import Arm, gallery, reseal, retrieval, write_record


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    for arm in (Arm("kd-mse", 0.3), Arm("ot-token", 0.4)):
        write_record(folder, retrieval("de", gallery(30), per_image=2), arm)
    return folder


def twice(folder: Path, name: str) -> None:
    table = pq.read_table(folder / "queries.parquet")
    pq.write_table(table.append_column(name, table[name]), folder / "queries.parquet")
    reseal(folder)


def rename_image(folder: Path, name: str) -> None:
    """Replace the id of the first image everywhere."""

    def change(columns: dict[str, list[object]]) -> None:
        first = columns["image"][0]
        for column in ("query", "image"):
            columns[column] = [name if value == first else value for value in columns[column]]

    edit_queries(folder, change)


def test_valid_records_are_merged_completely_and_once(theirs: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    said = merge_submission(theirs, ours)
    assert said.startswith("2 records merged")
    assert sorted([Path("submission.json"), *(path.relative_to(theirs) for path in theirs.rglob("*.*"))]) == sorted(
        path.relative_to(ours / "theirs") for path in (ours / "theirs").rglob("*.*")
    )
    with pytest.raises(HarnessError, match="exists already: rename"):
        merge_submission(theirs, ours)
    again = theirs.rename(tmp_path / "again")
    assert merge_submission(again, ours).startswith("0 records merged")


FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a better score": (
        "its scores do not reproduce: t2i_r1 is 99.0",
        lambda f: edit_record(f, lambda r: r["scores"].update(t2i_r1=99.0)),  # type: ignore[attr-defined]
    ),
    "a higher chance": ("its chance do not reproduce", lambda f: edit_record(f, lambda r: r["chance"].update(t2i_r1=9.0))),  # type: ignore[attr-defined]
    "fewer captions": ("has 90 ranks, expected 59 of captions", lambda f: edit_record(f, lambda r: r.update(captions=59))),
    "another schema": ("is not a record", lambda f: edit_record(f, lambda r: r.update(surprise=1))),
    "a path for a cell": ("its cell is not a digest", lambda f: edit_record(f, lambda r: r.update(cell="../../../evil"))),
    "another tower": (
        "its text tower is 'ot-best', but its cards give",
        lambda f: edit_record(f, lambda r: r.update(text_tower="ot-best")),
    ),
    "a rank of 0": ("ranks go from 0 to", lambda f: edit_queries(f, lambda c: c["rank"].__setitem__(0, 0))),
    "a rank beyond": (
        "ranks go from 1 to 31, expected 1 to 30",
        lambda f: edit_queries(f, lambda c: c["rank"].__setitem__(0, 31)),
    ),
    "a missing rank": (
        "its column rank has a missing value",
        lambda f: edit_queries(f, lambda c: c["rank"].__setitem__(0, None)),
    ),
    "an unknown image": ("do not match its gallery", lambda f: edit_queries(f, lambda c: c["image"].__setitem__(0, "x"))),
    "a caption twice": (
        "two of its captions have the same id",
        lambda f: edit_queries(f, lambda c: c["query"].__setitem__(0, c["query"][1])),
    ),
    "a caption's text": (
        "beside them only facets or measures",
        lambda f: edit_queries(f, lambda c: c.update(caption=["x"] * 90)),
    ),
    "not what was sealed": ("is not what was written", lambda f: (f / "queries.parquet").write_bytes(b"PAR1")),
    "no parquet": ("cannot be read", lambda f: ((f / "queries.parquet").write_bytes(b"PAR1"), reseal(f))),
    "a seal of another cell": ("has another key", lambda f: edit_record(f, lambda r: r.update(cell="0" * 64), "1" * 64)),
    "ranks in lists": (
        "its column rank is of type",
        lambda f: edit_queries(f, lambda c: c.update(rank=[[r] for r in c["rank"]])),
    ),
    "names in lists": (
        "its column image is of type",
        lambda f: edit_queries(f, lambda c: c.update(image=[[i] for i in c["image"]])),
    ),
    "a column twice": ("each once", lambda f: twice(f, "rank")),
    "ranks in fractions": ("its column rank is of type double", lambda f: edit_queries(f, lambda c: c.update(rank=[1.0] * 90))),
    "an id that leads out": ("leads out of its folder", lambda f: rename_image(f, "../../etc/passwd")),
    "a control mark in an id": ("has control characters", lambda f: rename_image(f, "a\x1b[2Jb")),
    "an id of pages": ("it has an id of 20,000 bytes", lambda f: rename_image(f, "a" * 20_000)),
    "a control mark in a name": ("its encoder has a control", lambda f: edit_record(f, lambda r: r.update(encoder="a\x1b[2Jb"))),
    "a name of pages": ("its source has a length of 5,000", lambda f: edit_record(f, lambda r: r.update(source="a" * 5000))),
    "a number of pages": ("a page cannot show", lambda f: edit_record(f, lambda r: r["tower"]["bitext"].update(used=10**400))),  # type: ignore[index]
    "a path for a gallery": (
        "digests of images and texts",
        lambda f: edit_record(f, lambda r: r.update(images_digest="../../x")),
    ),
    "a path for a language": ("its language is '../x'", lambda f: edit_record(f, lambda r: r.update(lang="../x"))),
    "a link": ("is not a file", lambda f: ((f / "queries.parquet").rename(f / "q"), (f / "queries.parquet").symlink_to(f / "q"))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_invalid_record_is_named_and_nothing_is_merged(fault: str, theirs: Path, tmp_path: Path) -> None:
    message, spoil = FAULTS[fault]
    broken = sorted(theirs.iterdir())[0]
    spoil(broken)
    with pytest.raises(HarnessError, match=r"^1 of 2 records refused, none merged: .*" + re.escape(message)) as error:
        merge_submission(theirs, tmp_path / "ours")
    assert str(broken) in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "ours").rglob("*"))


def test_facet_columns_are_allowed(theirs: Path, tmp_path: Path) -> None:
    edit_queries(sorted(theirs.iterdir())[0], lambda columns: columns.update({"facet:entity-type": [["people"]] * 90}))
    assert merge_submission(theirs, tmp_path / "ours").startswith("2 records merged")


def test_the_same_cell_with_other_ranks_is_refused(theirs: Path, tmp_path: Path) -> None:
    merge_submission(theirs, tmp_path / "ours")
    other = tmp_path / "other"
    write_record(other, retrieval("de", gallery(30), per_image=2), Arm("kd-mse", 0.3), ranks=None)
    write_record(other / "x", retrieval("de", gallery(30), per_image=2), Arm("kd-mse", 0.9))
    with pytest.raises(HarnessError, match=r"of the same cell as .*, with other ranks"):
        merge_submission(other, tmp_path / "ours")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"holds no record\.json"):
        merge_submission(tmp_path, tmp_path / "ours")


def phrases_of(folder: Path) -> Path:
    """Turn the records of a folder into records of phrase grounding, with ranks of phrases and their pointing game."""
    for record in folder.iterdir():

        def change(columns: dict[str, list[object]]) -> None:
            kept = [place for place, side in enumerate(columns["direction"]) if side == "t2i"]
            for name, values in columns.items():
                columns[name] = [values[place] for place in kept]
            columns["rank"] = [MISSED, *[1] * (len(kept) - 1)]
            columns |= {"pointed": [False, *[True] * (len(kept) - 1)], "found": [[0, 0, 4, 4]] * len(kept)}

        edit_queries(record, change)
        ranks, pointed = np.array([MISSED, *[1] * 59]), np.array([False, *[True] * 59])
        of = grounding_scores(ranks, pointed)
        chance = {f"t2i_r{k}": 50.0 for k in (1, 5, 10)}
        edit_record(record, lambda r, of=of, chance=chance: r.update(scores=of, chance=chance))  # type: ignore[misc]
    return folder


GROUNDING_FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a better score": ("do not reproduce: pointing is 99", lambda f: edit_record(f, lambda r: r["scores"].update(pointing=99))),  # type: ignore[attr-defined]
    "a chance beyond": ("not three hit rates", lambda f: edit_record(f, lambda r: r["chance"].update(t2i_r1=101))),  # type: ignore[attr-defined]
    "a rank of 0": ("its ranks go from 0", lambda f: edit_queries(f, lambda c: c["rank"].__setitem__(1, 0))),
    "ranks of images": (
        "expected ranks of 60 phrases (t2i)",
        lambda f: edit_queries(f, lambda c: c["direction"].__setitem__(0, "i2t")),
    ),
    "no pointing": (
        "expected direction, query, image, rank, pointed, found",
        lambda f: edit_queries(f, lambda c: c.pop("pointed")),
    ),
    "a missing pointing": (
        "its column pointed has a missing value",
        lambda f: edit_queries(f, lambda c: c["pointed"].__setitem__(0, None)),
    ),
    "a phrase twice": ("two of its phrases", lambda f: edit_queries(f, lambda c: c["query"].__setitem__(0, c["query"][1]))),
    "fewer phrases": (
        "has 60 ranks, expected 59 of captions and 0 of images",
        lambda f: edit_record(f, lambda r: r.update(captions=59)),
    ),
}


def test_records_of_grounding_are_merged_like_others(theirs: Path, tmp_path: Path) -> None:
    assert merge_submission(phrases_of(theirs), tmp_path / "ours").startswith("2 records merged")


@pytest.mark.parametrize("fault", GROUNDING_FAULTS)
def test_an_invalid_grounding_record_is_named(fault: str, theirs: Path, tmp_path: Path) -> None:
    message, spoil = GROUNDING_FAULTS[fault]
    spoil(sorted(phrases_of(theirs).iterdir())[0])
    with pytest.raises(HarnessError, match=r"^1 of 2 records refused, none merged: .*" + re.escape(message)):
        merge_submission(theirs, tmp_path / "ours")
