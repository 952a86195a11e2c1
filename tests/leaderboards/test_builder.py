"""Tests of boards built from synthetic records: grouping, scores, ranks and exports."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.data import Ranks
from harness.core.errors import HarnessError
from harness.leaderboards.board.builder import make_boards
from harness.leaderboards.board.config import load_board_configs, read_board_config
from harness.leaderboards.board.exports import board_csv, board_latex, board_markdown
from harness.leaderboards.board.model import Board
from harness.leaderboards.board.page import board_page
from harness.leaderboards.records.loading import find_records
from harness.records.schema import RegionCard
from harness.statistics.inference import PairedArms, bootstrap_mean, contrasts, paired_difference
from harness.statistics.rank_inference import rank_intervals, significant_differences
from tests.support.boards import LANGUAGES, TIERS, board_config
from tests.support.synthetic_records import ARMS, Arm, gallery, retrieval, synthetic_ranks, write_board, write_record

IMAGES = 120


def boards(folder: Path, resamples: int = 400, **changes: object) -> list[Board]:
    return make_boards(board_config(**changes), find_records([folder]), LANGUAGES, resamples=resamples)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five languages, ten rows, two seeds."""
    folder = tmp_path_factory.mktemp("records")
    write_board(folder, list(TIERS), ARMS, seeds=2, images=IMAGES)
    return folder


def test_rows_are_towers_with_their_seeds_pooled_and_columns_are_languages_by_tier(records: Path) -> None:
    (board,) = boards(records)
    assert len(board.rows) == len(ARMS)
    assert [column.language.code for column in board.columns] == ["gn", "cy", "qu", "de", "fr"]
    assert board.groups == ("tier 0", "tier 1", "tier 5")
    distilled = [row for row in board.rows if row.tower.config]
    assert all(row.seeds == (2, 2) for row in distilled)
    assert {row.tower.family for row in board.rows} == {"OT", "KD", "none"}


def test_a_score_and_its_interval_are_those_of_the_bootstrap_over_images(records: Path) -> None:
    (board,) = boards(records)
    row = next(row for row in board.rows if row.tower.config)
    cell = row.cells["de"]
    hits = np.stack([np.where(np.array(each) == 1, 100.0, 0.0) for each in seed_ranks(cell.records.values())])
    seeds = tuple(map(str, cell.records))
    (expected,) = contrasts([PairedArms(hits, hits, np.arange(IMAGES), seeds, seeds, 100)], [{0: 1.0}], resamples=400)
    for name in ("estimate", "low", "high"):
        assert getattr(cell.score, name) == pytest.approx(getattr(expected.a, name), abs=1e-9)


def seed_ranks(found: object) -> list[np.ndarray]:
    from harness.records.files import load_ranks

    return [load_ranks(each.folder)[0].t2i for each in found]  # type: ignore[attr-defined]


def test_means_count_each_language_once(records: Path) -> None:
    (board,) = boards(records)
    for row in board.rows:
        scores = {code: cell.score.estimate for code, cell in row.cells.items()}
        assert row.overall is not None
        assert row.overall.score.estimate == pytest.approx(np.mean(list(scores.values())))
        assert row.means["tier 1"].score.estimate == pytest.approx((scores["cy"] + scores["qu"]) / 2)
        assert row.overall.score.low <= row.overall.score.estimate <= row.overall.score.high


def test_the_mean_of_one_language_has_the_interval_of_its_column(records: Path) -> None:
    (board,) = boards(records, languages=["gn"])
    means = [row.overall.score for row in board.rows if row.overall]
    assert means == [row.cells["gn"].score for row in board.rows if row.overall]
    assert len(means) == len(ARMS)


def test_images_with_several_captions_are_weighted_by_their_queries(tmp_path: Path) -> None:
    of = retrieval("de", gallery(40), per_image=5)
    folder = write_record(tmp_path, of, Arm("kd-mse", 0.5))
    (board,) = boards(tmp_path)
    hits = np.where(seed_ranks(find_records([folder]))[0] == 1, 100.0, 0.0)
    expected = bootstrap_mean(hits, of.caption_images, hit=100, resamples=400)
    score = board.rows[0].cells["de"].score
    assert (score.estimate, score.low, score.high) == pytest.approx((expected.estimate, expected.low, expected.high))


def test_rows_without_significant_differences_share_a_rank(tmp_path: Path) -> None:
    of = retrieval("de", gallery(200))
    ranks = synthetic_ranks(of.caption_images, 200, 0.5, [1])
    nearly = Ranks(np.where(np.arange(200) == 3, 7, ranks.t2i), ranks.i2t)
    worse = Ranks(np.full(200, 9), ranks.i2t)
    for objective, each in (("kd-mse", ranks), ("ot-token", nearly), ("kd-cosine", worse)):
        write_record(tmp_path, of, Arm(objective, 0.5), ranks=each)
    (board,) = boards(tmp_path)
    standing = {row.tower.method: row.overall and row.overall.rank for row in board.rows}
    assert [(s.first, s.last) for s in standing.values() if s] == [(1, 2), (1, 2), (3, 3)]
    assert list(standing)[-1] == "kd-cosine"


def test_an_incomplete_row_has_no_mean_and_no_rank_and_says_so(tmp_path: Path) -> None:
    pictures = gallery(60)
    for lang in ("de", "cy", "qu"):
        write_record(tmp_path, retrieval(lang, pictures), Arm("kd-mse", 0.2))
    for lang in ("de", "cy"):
        write_record(tmp_path, retrieval(lang, pictures), Arm("ot-token", 0.9))
    (board,) = boards(tmp_path)
    assert [row.tower.method for row in board.rows] == ["kd-mse", "ot-token"]
    partial = board.rows[1]
    assert partial.overall is None
    assert set(partial.means) == {"tier 5"}
    assert "2 of 3 languages" in board_markdown(board)
    assert "2 of 3 languages" in board_latex(board)
    lines = list(csv.DictReader(io.StringIO(board_csv(board))))
    assert not [line for line in lines if line["method"] == "ot-token" and line["language"] == "mean"]


def test_other_images_and_other_captions_never_share_a_board(tmp_path: Path) -> None:
    write_record(tmp_path, retrieval("de", gallery(60)), Arm("kd-mse", 0.2))
    write_record(tmp_path, retrieval("cy", gallery(60)), Arm("kd-mse", 0.2))
    write_record(tmp_path, retrieval("de", gallery(60), source="other"), Arm("kd-mse", 0.9))
    write_record(tmp_path, retrieval("de", gallery(60, "subset")), Arm("kd-mse", 0.9))
    made = boards(tmp_path)
    columns = [[(column.language.code, column.source) for column in board.columns] for board in made]
    assert columns[0] == [("cy", "made-up"), ("de", "made-up")]
    assert sorted(columns[1:]) == [[("de", "made-up")], [("de", "other")]]
    assert len({board.name for board in made}) == 3
    assert len({board.gallery for board in made}) == 2


def test_a_language_that_lacks_a_caption_stays_on_the_board_with_a_note(tmp_path: Path) -> None:
    pictures = gallery(100)
    short = type(pictures)(pictures.ids[:40] + pictures.ids[41:])
    write_record(tmp_path, retrieval("de", pictures), Arm("kd-mse", 0.3))
    write_record(tmp_path, retrieval("qu", short), Arm("kd-mse", 0.3))
    (board,) = boards(tmp_path)
    assert [column.images for column in board.columns] == [99, 100]
    assert "QU has captions for 99 of the 100 images" in board.notes


def test_sample_and_real_are_never_on_one_board(tmp_path: Path) -> None:
    write_record(tmp_path, retrieval("de", gallery(60)), Arm("kd-mse", 0.2))
    write_record(tmp_path, retrieval("de", gallery(60)), Arm("ot-token", 0.2), sample=True)
    real, sample = boards(tmp_path), boards(tmp_path, sample=True)
    assert [row.tower.method for board in real for row in board.rows] == ["kd-mse"]
    assert [row.tower.method for board in sample for row in board.rows] == ["ot-token"]
    assert "NOT Flickr30k" in board_markdown(sample[0])


def test_contrasts_are_between_towers_trained_alike_from_the_same_pairs(records: Path) -> None:
    (board,) = boards(records)
    pairs = {
        (board.rows[each.transport].tower.config.pairs, board.rows[each.standard].tower.config.pairs) for each in board.contrasts
    }  # type: ignore[union-attr]
    assert pairs == {(1000, 1000), (5000, 5000), (None, None)}
    each = next(each for each in board.contrasts if board.rows[each.transport].tower.config.pairs == 1000)  # type: ignore[union-attr]
    mine, other = (
        np.mean([r == 1 for r in seed_ranks(board.rows[k].cells["cy"].records.values())], axis=0) * 100
        for k in (each.transport, each.standard)
    )
    expected = paired_difference(mine, other, np.arange(IMAGES), resamples=400)
    assert each.gains["cy"].difference.estimate == pytest.approx(expected.estimate)
    # The two seeds of each side are resampled too.
    assert each.gains["cy"].difference.low <= expected.low + 1e-9


def test_an_option_of_one_objective_does_not_prevent_a_contrast(tmp_path: Path) -> None:
    of = retrieval("de", gallery(50))
    for arm in (Arm("kd-mse", 0.4), Arm("ot-entity", 0.5), Arm("ot-entity", 0.6, changes=(("entity_weight", 9.0),))):
        write_record(tmp_path, of, arm)
    (board,) = boards(tmp_path)
    assert len(board.contrasts) == 2


def test_a_transport_initializer_is_a_transport_row_and_is_compared_with_the_teacher_layers(tmp_path: Path) -> None:
    of = retrieval("de", gallery(50))
    for objective, init in (("kd-mse", "random"), ("kd-mse", "ot-sentences"), ("ot-token", "ot-sentences"), ("kd-mse", "ibm1")):
        write_record(tmp_path, of, Arm(objective, 0.5, changes=(("init", init),)))
    (board,) = boards(tmp_path)
    made = {(row.tower.config.objective, row.tower.config.init): row.tower.family for row in board.rows if row.tower.config}
    assert made == {
        ("kd-mse", "random"): "KD",
        ("kd-mse", "ot-sentences"): "OT",
        ("ot-token", "ot-sentences"): "OT",
        ("kd-mse", "ibm1"): "none",
    }
    configs = [tuple(board.rows[place].tower.config for place in (each.transport, each.standard)) for each in board.contrasts]
    assert sorted((ours.objective, ours.init, theirs.init) for ours, theirs in configs if ours and theirs) == [
        ("kd-mse", "ot-sentences", "random"),
        ("ot-token", "ot-sentences", "random"),
    ]


def test_another_scorer_has_a_row_of_its_own(tmp_path: Path) -> None:
    of, english = retrieval("de", gallery(50)), retrieval("en", gallery(50), source="made-up (English side)", kind="original")
    regions = RegionCard(source="boxes", view="crop", count=7, digest="x")
    composed = {"scorer": "entities, first 10 sorted anew", "regions": regions}
    for number, (queries, arm) in enumerate(((of, Arm("kd-mse", 0.4)), (of, Arm("ot-token", 0.5)), (english, Arm(None, 0.6)))):
        write_record(tmp_path / "plain", queries, arm)
        write_record(tmp_path / "composed", queries, arm, ranks=Ranks(*[np.full(50, 50)] * 2), cell=f"{number}" * 64, **composed)
    (board,) = boards(tmp_path)
    scores = {(row.tower.method, row.tower.scorer): row.cells["de"].score.estimate for row in board.rows}
    entities = "entities, first 10 sorted anew"
    assert scores["kd-mse", "plain"] > 0 == scores[f"kd-mse + {entities}", entities] == scores[f"ot-token + {entities}", entities]
    assert "--scorer entities" in board_page([board])
    assert not any("measured twice" in note for note in board.notes)
    assert sorted(board.rows[each.transport].tower.scorer for each in board.contrasts) == [entities, "plain"]
    assert board.ceilings[0].cells["de"].estimate > 0, "English is shown by the plain scorer"


def test_a_transductive_scorer_has_a_row_without_a_rank(tmp_path: Path) -> None:
    """Its scores do not change the ranks of rows that rank single queries. A banked scorer ranks single queries."""
    of = retrieval("de", gallery(50))
    scorers = ("plain", "csls, banked, k 10", "sinkhorn, transductive, tau 0.05, 10 iterations")
    for number, scorer in enumerate(scorers):
        ranks = Ranks(*[np.ones(50, np.int64)] * 2) if number == 2 else None
        write_record(tmp_path, of, Arm("kd-mse", 0.4), ranks=ranks, cell=f"{number}" * 64, scorer=scorer)
    (board,) = boards(tmp_path)
    assert {row.tower.scorer: row.overall and row.overall.rank is not None for row in board.rows} == {
        "plain": True,
        "csls, banked, k 10": True,
        scorers[2]: False,
    }
    assert board.rows[-1].tower.method == f"kd-mse + {scorers[2]}"
    assert board.rows[-1].cells["de"].rank is None
    assert all(row.overall and row.overall.rank and row.overall.rank.last <= 2 for row in board.rows[:2])
    page = board_page([board])
    assert "not ranked; the test queries are ranked together" in page
    again = "--scorer sinkhorn:transductive --score-temperature 0.05 --score-iterations 10"
    assert again in page


FACETS = {"entity-type": tuple((("people",), ("people", "animals"), ("none",))[k % 3] for k in range(IMAGES))}


def write_faceted_records(
    folder: Path, langs: dict[str, dict[str, tuple[tuple[str, ...], ...]]], arms: tuple[Arm, ...], seeds: int = 1
) -> None:
    """Write records of languages whose captions have facets."""
    for lang, facets in langs.items():
        of = replace(retrieval(lang, gallery(IMAGES)), facets=facets)
        for arm in arms:
            for seed in range(seeds):
                write_record(folder, of, arm, seed)


def test_scores_by_facet_are_those_of_the_captions_that_have_each_value(tmp_path: Path) -> None:
    write_faceted_records(tmp_path, {"de": FACETS}, (Arm("kd-mse", 0.4), Arm("ot-token", 0.5)), seeds=2)
    (board,) = boards(tmp_path, breakdown="entity-type")
    assert board.breakdown is not None
    assert board.breakdown.captions == {"animals": 40, "none": 40, "people": 80}
    for row, of in zip(board.rows, board.breakdown.rows, strict=True):
        hits = np.mean([100 * (r == 1) for r in seed_ranks(row.cells["de"].records.values())], axis=0)
        for value, score in of.items():
            has = np.array([value in values for values in FACETS["entity-type"]])
            expected = bootstrap_mean(hits[has], np.flatnonzero(has), resamples=2000)
            assert score.estimate == pytest.approx(hits[has].mean())
            assert (score.low, score.high) == pytest.approx((expected.low, expected.high), abs=4)
        # People, and what names nothing, are all captions between them.
        whole = (80 * of["people"].estimate + 40 * of["none"].estimate) / 120
        assert whole == pytest.approx(row.cells["de"].score.estimate)


def test_a_facet_s_mean_counts_each_language_with_such_captions_once(tmp_path: Path) -> None:
    other = {"entity-type": (("people",),) * IMAGES}
    write_faceted_records(tmp_path, {"de": FACETS, "qu": other}, (Arm("kd-mse", 0.4),))
    write_faceted_records(tmp_path, {"de": FACETS}, (Arm("ot-token", 0.5),))
    (board,) = boards(tmp_path, breakdown="entity-type")
    assert board.breakdown is not None
    by_method = {row.tower.method: of for row, of in zip(board.rows, board.breakdown.rows, strict=True)}
    assert set(by_method["ot-token"]) == {"animals", "none"}, "it has not the other language's people"
    (row,) = (row for row in board.rows if row.tower.method == "kd-mse")
    german = np.array([100 * (r == 1) for r in seed_ranks(row.cells["de"].records.values())])[0]
    people = np.array(["people" in values for values in FACETS["entity-type"]])
    mean = (german[people].mean() + row.cells["qu"].score.estimate) / 2
    assert by_method["kd-mse"]["people"].estimate == pytest.approx(mean)


def test_scores_by_facet_are_in_every_format(tmp_path: Path) -> None:
    hostile = {"entity-type": (("<script>|&",),) * IMAGES}
    write_faceted_records(tmp_path, {"de": hostile}, (Arm("kd-mse", 0.4),))
    (board,) = boards(tmp_path, breakdown="entity-type")
    score = f"{board.rows[0].cells['de'].score.estimate:.1f}"
    assert f"\\<script\\>\\|\\&: {IMAGES}" in board_markdown(board)
    assert board_markdown(board).count(score) >= 2
    assert board_latex(board).count(r"\begin{tabular}") == board_latex(board).count(r"\end{tabular}") == 2
    lines = list(csv.DictReader(io.StringIO(board_csv(board))))
    assert [line["score"][:4] for line in lines if line["facet"] == "entity-type"] == [score]
    page = board_page([board])
    assert "Scores by caption facet" in page
    assert "<script>|" not in page


@pytest.mark.parametrize("facets", [{}, {"length": (("1-7",),) * IMAGES}])
def test_records_without_the_facet_have_no_breakdown(facets: dict[str, tuple[tuple[str, ...], ...]], tmp_path: Path) -> None:
    write_faceted_records(tmp_path, {"de": facets}, (Arm("kd-mse", 0.4),))
    (board,) = boards(tmp_path, breakdown="entity-type")
    assert board.breakdown is None
    assert "entity-type" not in board_markdown(board) + board_page([board])


def test_the_english_ceiling_is_shown_and_not_ranked(records: Path) -> None:
    (board,) = boards(records)
    (ceiling,) = board.ceilings
    assert set(ceiling.cells) == set(TIERS)
    assert "English tower on English" in board_markdown(board)
    assert all(row.tower.method != "English tower on English" for row in board.rows)


def test_the_order_of_records_and_folders_makes_no_difference(records: Path) -> None:
    found = find_records([records])
    once, again = (make_boards(board_config(), order, LANGUAGES, resamples=200) for order in (found, found[::-1]))
    assert [board_csv(board) for board in once] == [board_csv(board) for board in again]


def test_no_date_decides_between_two_records_of_one_recipe_and_seed(tmp_path: Path) -> None:
    of = retrieval("de", gallery(50))
    write_record(tmp_path / "a", of, Arm("kd-mse", 0.1))
    for number, year in enumerate(("2020", "2027")):
        other = {"cell": f"{number}" * 64, "provenance": {**provenance(), "created": f"{year}-01-01T00:00:00+00:00"}}
        write_record(tmp_path / "b", of, Arm("kd-mse", 0.9 - number / 10), **other)
    (board,) = boards(tmp_path)
    assert [row.tower.method for row in board.rows] == [
        "kd-mse",
        "kd-mse (measured again, disputed)",
        "kd-mse (measured again (2), disputed)",
    ]
    assert [row.cells["de"].rank is None for row in board.rows] == [False, True, True]
    assert board.rows[0].cells["de"].score.estimate < 50 < board.rows[1].cells["de"].score.estimate
    assert len(board.conflicts) == 2
    assert "disputed" in board_markdown(board)


def test_the_same_ranks_twice_are_one_row_with_a_note(tmp_path: Path) -> None:
    of, ranks = retrieval("de", gallery(50)), synthetic_ranks(np.arange(50), 50, 0.5, [1])
    for cell in ("0" * 64, "1" * 64):
        write_record(tmp_path, of, Arm("kd-mse", 0.5), ranks=ranks, cell=cell)
    (board,) = boards(tmp_path)
    assert [(row.tower.method, row.conflict) for row in board.rows] == [("kd-mse", "")]
    assert any("measured twice, with the same ranks" in note for note in board.notes)


def provenance() -> dict[str, object]:
    from tests.support.synthetic_records import PROVENANCE

    return PROVENANCE.model_dump()


def test_every_number_is_in_the_csv_file(records: Path) -> None:
    (board,) = boards(records)
    lines = list(csv.DictReader(io.StringIO(board_csv(board))))
    assert len(lines) == len(ARMS) * (1 + 3 + 5)
    line = next(line for line in lines if line["language"] == "de" and line["method"] == "ot-batch")
    assert (line["source"], line["kind"], line["seeds"], line["pairs"]) == ("made-up", "human translation", "2", "5000")
    assert float(line["low"]) <= float(line["score"]) <= float(line["high"])


def test_hostile_names_are_only_text_in_every_format(tmp_path: Path) -> None:
    name = "=1+1|</table><script>x</script>\u202e\\input{x}%$&_#{}~^\n# head\x00" + "y" * 100_000
    write_record(tmp_path, retrieval("de", gallery(30), source=name, kind=name), Arm("kd-mse", 0.3, encoder=name))
    (board,) = boards(tmp_path)
    texts = board_markdown(board), board_latex(board), board_csv(board)
    assert all(len(text) < 20_000 for text in texts)
    assert all("\u202e" not in text and "\x00" not in text for text in texts)
    assert "<script>" not in texts[0]
    assert "\n# head" not in texts[0]
    assert "\\input" not in texts[1]
    assert next(csv.DictReader(io.StringIO(texts[2])))["encoder"].startswith("'=1+1")


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**31))
def test_ranks_do_not_depend_on_the_order_of_rows_and_hold_the_estimates_order(rows: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    estimates = draw.normal(size=rows) * 3
    resampled = estimates + draw.normal(size=(300, rows))
    ranks, order = rank_intervals(estimates, resampled), draw.permutation(rows)
    again = rank_intervals(estimates[order], resampled[:, order])
    assert [ranks[place] for place in order] == again
    assert all(1 <= each.first <= each.last <= rows for each in ranks)
    assert ranks[int(np.argmax(estimates))].first == 1


def test_equal_rows_rarely_differ_significantly() -> None:
    """Of 300 boards with 6 equal rows, about 5 % have a significant difference."""
    draw = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        values = draw.normal(size=(80, 6)) + draw.normal(size=(80, 1))
        weights = draw.multinomial(80, np.full(80, 1 / 80), size=400)
        ranks = rank_intervals(values.mean(axis=0), weights @ values / 80)
        wrong += any(each.first > 1 or each.last < 6 for each in ranks)
    assert wrong / 300 < 0.1


def test_only_true_differences_are_significant() -> None:
    noise = np.random.default_rng(0).normal(size=(2000, 3))
    assert significant_differences(np.array([0.0, 9.0, 0.0]), noise * [1, 1, 0] + [0, 9, 0]) == [False, True, False]


def test_board_configurations_are_read() -> None:
    assert {board.name for board in load_board_configs()} >= {"flickr30k", "sample"}
    assert [board.name for board in load_board_configs(["sample"])] == ["sample"]
    with pytest.raises(HarnessError, match="there is no board 'sampel': did you mean sample"):
        load_board_configs(["sampel"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cutoff = 7", "cutoff"),
        ("cutoff = 1\ncolour = 1", "colour"),
        ("title = ", "is not a valid board"),
    ],
)
def test_an_invalid_configuration_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(
        f'task = "flickr30k"\nsplit = "test"\nsample = false\ndirection = "t2i"\ntitle = "x"\n{line}\n', encoding="utf-8"
    )
    with pytest.raises(HarnessError, match=message):
        read_board_config(path)


def test_a_breakdown_needs_captions() -> None:
    with pytest.raises(ValueError, match='direction = "t2i"'):
        board_config(direction="i2t", breakdown="entity-type")


@pytest.mark.slow
def test_a_large_board_fits_its_budget(tmp_path: Path) -> None:
    """40 languages x 10 towers x 2 seeds. benchmarks/board.py measures 200 x 10 x 3."""
    import time

    from harness.leaderboards.board.page import board_page

    codes = [f"{a}{b}" for a in "abcdefgh" for b in "vwxyz"]
    write_board(tmp_path, codes, ARMS, seeds=2, images=300)
    start = time.process_time()
    made = make_boards(board_config(), find_records([tmp_path]), LANGUAGES)
    page = board_page(made)
    assert time.process_time() - start < 20
    assert len(page) < 600_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutoff": None}, r"give either a cutoff \(1, 5 or 10\) or a measure"),
        ({"measure": "nDCG@10"}, r"give either a cutoff \(1, 5 or 10\) or a measure"),
        ({"cutoff": None, "measure": "nDCG@10"}, 'a measure needs text-to-text retrieval: direction = "texts"'),
        ({"cutoff": None, "measure": "nDGC@10", "direction": "texts"}, r"unknown measure 'nDGC@10': did you mean nDCG\?"),
    ],
)
def test_a_board_has_exactly_one_metric(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        board_config(**changes)


def test_a_text_to_text_board_has_no_record_of_images(records: Path) -> None:
    assert board_config(direction="texts").metric == "R@1 query → English text"
    assert boards(records)
    assert not boards(records, direction="texts")
