"""Tests of malicious submissions: none changes the project's own rows, breaks the board or exhausts the memory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.core.data import Ranks, Retrieval
from harness.core.errors import HarnessError
from harness.leaderboards.board.builder import make_boards
from harness.leaderboards.board.exports import board_csv, board_latex, board_markdown
from harness.leaderboards.board.model import Board
from harness.leaderboards.board.publish import publish_boards
from harness.leaderboards.records.loading import find_records
from harness.leaderboards.records.submission import merge_submission
from tests.support.boards import LANGUAGES, board_config
from tests.support.record_edits import edit_queries, edit_record
from tests.support.synthetic_records import PROVENANCE, Arm, ImageIds, gallery, reseal, retrieval, synthetic_ranks, write_record

IMAGES = 60
LATER = {**PROVENANCE.model_dump(), "created": "2099-01-01T00:00:00+00:00"}
FACETS = {"entity-type": tuple((("people",), ("animals",))[k % 2] for k in range(IMAGES))}


def captions(lang: str, images: ImageIds | None = None, **changes: object) -> Retrieval:
    return replace(retrieval(lang, images or gallery(IMAGES)), **{"facets": FACETS, **changes})


PERFECT = Ranks(*[np.ones(IMAGES, np.int64)] * 2)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """Two towers and the English one, in two languages."""
    folder = tmp_path / "ours"
    for lang in ("de", "fr"):
        for arm in (Arm("kd-mse", 0.2), Arm("ot-token", 0.4)):
            write_record(folder, captions(lang), arm)
    english = retrieval("en", gallery(IMAGES), source="made-up (English side)", kind="original")
    write_record(folder, english, Arm(None, 0.6))
    return folder


def boards(folder: Path) -> list[Board]:
    return make_boards(board_config(breakdown="entity-type"), find_records([folder]), LANGUAGES, resamples=300)


def own_lines(folder: Path) -> list[str]:
    """Return the first board's CSV lines of the project's own rows, without ranks."""
    board = boards(folder)[0]
    own = {row.tower.method for row in board.rows if not row.tower.sender}
    header, *lines = board_csv(board).splitlines()
    places = [place for place, name in enumerate(header.split(",")) if name not in ("rank", "rank_last")]
    cut = [[line.split(",")[place] for place in places] for line in lines if any(f",{method}," in line for method in own)]
    return [*map(str, cut), str(board.columns), str(board.ceilings[0].cells), str([b.captions for b in [board.breakdown] if b])]


def ranks_of(board: Board) -> dict[str, object]:
    return {row.tower.method: row.overall and row.overall.rank for row in board.rows if not row.tower.sender}


def theirs(tmp_path: Path, of: Retrieval, arm: Arm | None = None, ranks: Ranks = PERFECT, **changes: object) -> Path:
    """Write a submission of one invented record, which is newer than the project's own."""
    folder = tmp_path / "theirs"
    write_record(folder, of, arm or Arm("kd-mse", 0.2), ranks=ranks, **{"cell": "e" * 64, "provenance": LATER, **changes})
    return folder


def test_our_recipe_with_invented_cells_and_a_later_date_replaces_nothing(ours: Path, tmp_path: Path) -> None:
    before, ranked = own_lines(ours), ranks_of(boards(ours)[0])
    assert merge_submission(theirs(tmp_path, captions("de")), ours).startswith("1 records merged")
    (board,) = boards(ours)
    assert own_lines(ours) == before
    assert ranks_of(board) == ranked
    methods = [row.tower.method for row in board.rows]
    place = methods.index("kd-mse (submitted by theirs, disputed)")
    assert methods[place - 1] == "kd-mse", "ours stands first"
    cell = board.rows[place].cells["de"]
    assert (cell.score.estimate, cell.rank) == (100.0, None)
    (conflict,) = board.conflicts
    assert "not ranked; the same seeds as in kd-mse: de 100.0 against " in conflict
    for text in (board_markdown(board), board_latex(board), board_csv(board)):
        assert "submitted by theirs, disputed" in text.replace("\\", "")


def test_other_seeds_of_our_recipe_are_not_pooled_with_ours(ours: Path, tmp_path: Path) -> None:
    before = own_lines(ours)
    folder = tmp_path / "theirs"
    write_record(folder, captions("de"), Arm("kd-mse", 0.2), seed=7, ranks=PERFECT)
    merge_submission(folder, ours)
    (board,) = boards(ours)
    assert own_lines(ours) == before
    (row,) = [row for row in board.rows if row.tower.sender]
    assert (row.tower.method, row.conflict) == ("kd-mse (submitted by theirs)", "")
    assert row.cells["de"].rank is not None


def test_the_same_ranks_from_others_are_no_conflict(ours: Path, tmp_path: Path) -> None:
    of = captions("de")
    ranks = synthetic_ranks(of.caption_images, IMAGES, 0.5, [4])
    write_record(ours, of, Arm("kd-cosine", 0.5), ranks=ranks)
    merge_submission(theirs(tmp_path, of, Arm("kd-cosine", 0.5), ranks), ours)
    assert boards(ours)[0].conflicts == ()


def test_facets_are_those_of_the_owner_of_the_test_set(ours: Path, tmp_path: Path) -> None:
    before = own_lines(ours)
    relabelled = {"entity-type": (("aliens",),) * IMAGES, "length": (("1",),) * IMAGES}
    merge_submission(theirs(tmp_path, captions("de", facets=relabelled), Arm("kd-cosine", 0.2)), ours)
    (board,) = boards(ours)
    assert board.breakdown is not None
    assert set(board.breakdown.captions) == {"people", "animals"}
    assert own_lines(ours) == before
    merged = pq.read_table(ours / "theirs" / ("e" * 64) / "queries.parquet")
    assert [name for name in merged.column_names if name.startswith("facet")] == ["facet:entity-type"]
    assert merged["facet:entity-type"].to_pylist()[:2] == [["people"], ["animals"]]


def test_a_language_that_only_they_have_takes_no_row_of_ours_its_mean(ours: Path, tmp_path: Path) -> None:
    before, ranked = own_lines(ours), ranks_of(boards(ours)[0])
    merge_submission(theirs(tmp_path, captions("cy")), ours)
    first, second = boards(ours)
    assert own_lines(ours) == before
    assert ranks_of(first) == ranked
    assert [column.language.code for column in second.columns] == ["cy"]


def test_a_gallery_that_holds_ours_does_not_take_our_board(ours: Path, tmp_path: Path) -> None:
    before, name = own_lines(ours), boards(ours)[0].name
    more = ImageIds((*gallery(IMAGES).ids, "extra"))
    of = captions("de", more, facets={})
    merge_submission(theirs(tmp_path, of, ranks=Ranks(*[np.ones(IMAGES + 1, np.int64)] * 2)), ours)
    first, second = boards(ours)
    assert (first.name, first.images, second.images) == (name, IMAGES, IMAGES + 1)
    assert own_lines(ours) == before


def test_a_gallery_whose_digest_begins_as_ours_does_gets_files_of_its_own(ours: Path, tmp_path: Path) -> None:
    digest = gallery(IMAGES).digest()[:8] + "0" * 56
    merge_submission(theirs(tmp_path, captions("de", gallery(IMAGES, "other")), images_digest=digest), ours)
    publish_boards([ours], ["flickr30k"], tmp_path / "out", resamples=200)
    names = [board.name for board in boards(ours)]
    assert len(set(names)) == len(names) == 2
    assert len(list((tmp_path / "out").glob("*.csv"))) == 2


def test_their_english_tower_is_no_ceiling_of_ours(ours: Path, tmp_path: Path) -> None:
    before = own_lines(ours)
    english = retrieval("en", gallery(IMAGES), source="made-up (English side)", kind="original")
    merge_submission(theirs(tmp_path, english, Arm(None, 0.6)), ours)
    assert own_lines(ours) == before


REFUSED: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "another number of captions": (
        "its captions is 120, but 60 in",
        lambda tmp: theirs(
            tmp,
            retrieval("de", gallery(IMAGES), per_image=2),
            ranks=Ranks(np.ones(120, np.int64), np.ones(60, np.int64)),
            texts_digest=captions("de").texts_digest(),
        ),
    ),
    "captions in another order": (
        "its queries or their order differ from",
        lambda tmp: theirs(
            tmp,
            captions("de", caption_ids=captions("de").caption_ids[::-1]),
            texts_digest=captions("de").texts_digest(),
        ),
    ),
    "other images in another language": (
        "its images or their order differ from",
        lambda tmp: theirs(tmp, captions("cy", gallery(IMAGES, "x")), images_digest=gallery(IMAGES).digest()),
    ),
    "another source of our captions": (
        "its captions are from 'elsewhere'",
        lambda tmp: theirs(tmp, captions("de"), source="elsewhere"),
    ),
    "the sample": ("its sample is True, but False in", lambda tmp: theirs(tmp, captions("de"), sample=True)),
    "another split": ("its split is 'val', but 'test' in", lambda tmp: theirs(tmp, captions("de"), split="val")),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_record_that_disagrees_on_its_test_set_is_refused(fault: str, ours: Path, tmp_path: Path) -> None:
    message, make = REFUSED[fault]
    with pytest.raises(HarnessError, match="1 of 1 records refused, none merged") as error:
        merge_submission(make(tmp_path), ours)
    assert message in str(error.value)
    assert not (ours / "theirs").exists()


@pytest.mark.parametrize("name", [".hidden", "a\x1b[2Jb", "a\nb", "-" * 3, "b" * 200])
def test_an_unsafe_folder_name_is_refused(name: str, ours: Path, tmp_path: Path) -> None:
    folder = theirs(tmp_path, captions("de")).rename(tmp_path / name)
    with pytest.raises(HarnessError, match="cannot name a submission"):
        merge_submission(folder, ours)


def rows(count: int, ids: list[str] | None = None) -> dict[str, object]:
    """Return queries of `count` captions of `count` images."""
    names = ids or [f"i{number}" for number in range(count)]
    return {
        "direction": ["t2i"] * count + ["i2t"] * count,
        "query": [*names, *names],
        "image": [*names, *names],
        "rank": [1] * 2 * count,
    }


def zeros(folder: Path) -> None:
    """Write a few KB that decompress to 60 MB."""
    table = pa.table({**rows(60), "facet:x": pa.array([["\0" * 500_000]] * 119 + [["\0"]], pa.list_(pa.string()))})
    pq.write_table(table, folder / "queries.parquet", compression="zstd", use_dictionary=False)


def run(folder: Path) -> None:
    """Write one long id that repeats. The size that the file declares is true and small."""
    pq.write_table(pa.table(rows(60, ["a" * 30_000] * 60)), folder / "queries.parquet")


def prefixes(folder: Path) -> None:
    """Write ids that are prefixes of each other, encoded as prefixes."""
    packing = {"query": "DELTA_BYTE_ARRAY", "image": "DELTA_BYTE_ARRAY"}
    table = pa.table(rows(60, ["a" * 40_000] * 60))
    pq.write_table(table, folder / "queries.parquet", use_dictionary=False, column_encoding=packing)


def groups(folder: Path) -> None:
    pq.write_table(pa.table(rows(60)), folder / "queries.parquet", row_group_size=1)


def columns(folder: Path) -> None:
    table = pa.table(rows(60))
    for number in range(5_000):
        table = table.append_column(f"facet:{number}", pa.array([["x"]] * 120))
    pq.write_table(table, folder / "queries.parquet")


def values(folder: Path) -> None:
    """Write 50 values of a facet for each caption."""
    told = [[f"{row} {number}" for number in range(50)] for row in range(120)]
    pq.write_table(pa.table({**rows(60), "facet:x": told}), folder / "queries.parquet")


BOMBS: dict[Callable[[Path], None], str] = {
    zeros: "compressed with ZSTD|decompresses to",
    run: "it has an id of 30,000 bytes",
    prefixes: "it is encoded with DELTA_BYTE_ARRAY",
    groups: "it has 120 row groups",
    columns: "it has 5,004 columns",
    values: "its column facet:x.* has 6,000 values for 120 ranks",
}


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_decompression_bomb_is_refused_before_decompression(
    bomb: Callable[[Path], None], sealed: bool, ours: Path, tmp_path: Path
) -> None:
    folder = theirs(tmp_path, captions("de"))
    (record,) = folder.iterdir()
    bomb(record)
    (record / "digests.json").unlink()
    if sealed:
        reseal(record)
    start = time.monotonic()
    with pytest.raises(HarnessError, match=BOMBS[bomb]):
        merge_submission(folder, ours)
    assert time.monotonic() - start < 5
    problems: list[str] = []
    assert find_records([folder], problems) == []
    assert len(problems) == 1


def test_many_values_of_a_facet_make_no_breakdown_and_a_note(tmp_path: Path) -> None:
    told = {"entity-type": tuple(tuple(f"{row} {number}" for number in range(8)) for row in range(IMAGES))}
    write_record(tmp_path, captions("de", facets=told), Arm("kd-mse", 0.4))
    start = time.monotonic()
    (board,) = boards(tmp_path)
    assert time.monotonic() - start < 5
    assert board.breakdown is None
    assert any("480 values of entity-type: expected at most 64" in note for note in board.notes)


SPOILT: dict[str, Callable[[Path], object]] = {
    "a truncated record": lambda f: (f / "record.json").write_text("{", encoding="utf-8"),
    "no queries": lambda f: (f / "queries.parquet").unlink(),
    "a flipped bit": lambda f: flip(f / "queries.parquet"),
    "queries of another record": lambda f: edit_queries(f, lambda c: c.update(rank=c["rank"][::-1])),
    "ids of another order": lambda f: edit_queries(f, lambda c: c.update(query=c["query"][:60][::-1] + c["query"][60:])),
    "a rank beyond": lambda f: edit_queries(f, lambda c: c["rank"].__setitem__(0, 61)),
    "a column of lists": lambda f: edit_queries(f, lambda c: c.update(rank=[[r] for r in c["rank"]])),
    "no chance": lambda f: edit_record(f, lambda r: r.update(chance={})),
    "a number of pages": lambda f: edit_record(f, lambda r: r["tower"]["config"].update(pairs=10**400)),  # type: ignore[index]
    "a pipe": lambda f: ((f / "queries.parquet").unlink(), os.mkfifo(f / "queries.parquet")),
    "a pipe for a record": lambda f: ((f / "record.json").unlink(), os.mkfifo(f / "record.json")),
    "a pipe for a seal": lambda f: ((f / "digests.json").unlink(), os.mkfifo(f / "digests.json")),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("fault", SPOILT)
def test_a_board_reports_a_damaged_record_and_shows_the_others(
    fault: str, ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {row.tower.method: row.cells["de"].score for row in boards(ours)[0].rows}
    bad = write_record(ours, captions("de"), Arm("kd-cosine", 0.3))
    SPOILT[fault](bad)
    (said,) = publish_boards([ours], ["flickr30k"], tmp_path / "out", resamples=300)
    assert "2 rows (2 complete) x 2 languages from 4 records" in said
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: left out: ")
    assert str(bad) in note
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "1 record was left out" in page
    assert bad.name in page
    assert str(tmp_path) not in page, "a page that others read names no path of this machine"
    (board,) = make_boards(board_config(), find_records([ours], []), LANGUAGES, resamples=300)
    assert {row.tower.method: row.cells["de"].score for row in board.rows} == expected


def test_the_majority_of_own_records_decides_the_queries(ours: Path) -> None:
    bad = write_record(ours / "0", captions("de"), Arm("kd-cosine", 0.3))
    edit_queries(bad, lambda c: c.update(query=c["query"][:60][::-1] + c["query"][60:]))
    problems: list[str] = []
    assert len(find_records([ours], problems)) == 5
    assert [str(bad) in problem for problem in problems] == [True]


def test_one_cell_with_two_sets_of_ranks_is_reported(ours: Path, tmp_path: Path) -> None:
    twin = write_record(tmp_path / "more", captions("de"), Arm("kd-mse", 0.2), ranks=PERFECT)
    problems: list[str] = []
    found = find_records([ours, tmp_path / "more"], problems)
    assert len(found) == 5
    assert f"{twin} and {ours}" in problems[0]


def test_only_checked_data_is_merged_with_a_new_seal(ours: Path, tmp_path: Path) -> None:
    folder = theirs(tmp_path, captions("de"))
    (record,) = folder.iterdir()
    table = pq.read_table(record / "queries.parquet").replace_schema_metadata({"secret": "x" * 1000})
    pq.write_table(table, record / "queries.parquet")
    (record / "digests.json").unlink()
    (record / "more.txt").write_text("x", encoding="utf-8")
    (folder / "submission.json").write_text('{"received": "1970-01-01"}', encoding="utf-8")
    merge_submission(folder, ours)
    merged = ours / "theirs" / record.name
    assert sorted(path.name for path in merged.iterdir()) == ["digests.json", "queries.parquet", "record.json"]
    assert b"secret" not in (merged / "queries.parquet").read_bytes()
    received = json.loads((ours / "theirs" / "submission.json").read_text(encoding="utf-8"))["received"]
    assert received > "2026"
    flip(merged / "queries.parquet")
    with pytest.raises(HarnessError, match="is not what was written"):
        find_records([ours])
