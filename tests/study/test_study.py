"""A study: what its file may say, which cells it has and in which order, how it goes on, and what it says of what is there."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness.evaluation.runner
from harness.core.config import RunConfig
from harness.core.errors import HarnessError, MissingError
from harness.distill.tuning import search_trials
from harness.leaderboards.study.page import publish_study
from harness.runtime.console import Console
from harness.statistics.inference import against_the_best, holm
from harness.storage.store import Store
from harness.study import runner as progress
from harness.study.contrasts import StudyRecords, find_ablations
from harness.study.design import Arm, StudyConfig, read_study
from harness.study.findings import Findings, PlannedContrast
from harness.study.grid import DESIGNS, GridPosition, Study, StudyCell, find_design, grid_positions, plan_study
from harness.study.narrative import answer_paragraph, arm_sentences, inconclusive_lines, validity_threats
from harness.study.runner import run_study
from harness.tasks.flickr30k import Flickr30k
from tests.support.command_line import harness as command
from tests.support.synthetic_records import gallery
from tests.support.synthetic_study import ARMS, SKILLS, findings, study, study_records

GOOD = """
lang = ["qu", "cy"]
pairs = [100, "all"]
[distill]
steps = 20
[[arms]]
objective = "kd-mse"
[[arms]]
objective = "ot-token"
options = { sentence_weight = 0.0 }
"""


# the file


def told(tmp_path: Path, text: str) -> StudyConfig:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return read_study(path)


def test_a_file_says_what_is_compared(tmp_path: Path) -> None:
    config = told(tmp_path, GOOD)
    assert (config.title, config.lang, config.sizes, config.seeds) == ("mine", "qu,cy", (100, None), (0, 1, 2))
    assert [(arm.name, arm.side) for arm in config.arms] == [
        ("kd-mse", "standard"),
        ("ot-token (sentence weight 0.0)", "transport"),
    ]
    recipe = config.arms[1].recipe(config.distill, 100, 7)
    assert (recipe.objective, recipe.sentence_weight, recipe.steps, recipe.pairs, recipe.seed) == ("ot-token", 0.0, 20, 100, 7)


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + "", encoding="utf-8")
    config = read_study(path, data="there", encoder=None)
    assert (config.data, config.encoder) == ("there", "sample")


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("steps = 20", "steps = = 20", "cannot be read as TOML: .*line 5.*; see docs/study.md .*"),
        ('lang = ["qu", "cy"]', "", "lang: is missing"),
        ("lang", "langs", "lang: is missing"),
        ("pairs = ", "piars = 1\npairs = ", "piars: no such key: did you mean pairs.*"),
        ("pairs = [100", "pairs = [1", 'pairs: 1 is no valid size: give whole numbers .*"all"'),
        ("pairs = [100", "pairs = [100, 100", "pairs: 100 is listed twice: .*"),
        ("[distill]", "seeds = [0, 1]\nreplicate = [1]\n[distill]", "seed 1 is in seeds and in replicate: .*"),
        ("[distill]", "seeds = []\n[distill]", "seeds: .*at least 1 item.*"),
        ("[distill]", "seeds = [-1]\n[distill]", r"seeds\.1: .*greater than or equal to 0, not -1"),
        ("steps = 20", "stesp = 20", "distill: .*'stesp': did you mean steps.*"),
        ("steps = 20", "steps = 0", "distill: steps = 0: .*greater than or equal to 1"),
        ("steps = 20", "pairs = 20", "distill: pairs: .*: set pairs and seeds at the top level"),
        ("steps = 20", 'init = "scratch"', r"distill: init: each arm sets it: move it to \[\[arms\]\]"),
        ("sentence_weight", "learning_rate", r"arms\.2: learning_rate: all arms must share it .*: set it under \[distill\]"),
        ("sentence_weight = 0.0", "eps = 0", r"arms\.2: eps = 0: .*greater than or equal to 0\.001"),
        ("sentence_weight", "sentence_wieght", r"arms\.2: .*'sentence_wieght': did you mean sentence_weight or .*\?"),
        (
            'objective = "ot-token"',
            'objective = "ot-tokens"',
            r"arms\.2\.objective: no objective is called 'ot-tokens': did you .*",
        ),
        ('objective = "ot-token"', "", r"arms\.2\.objective: is missing"),
        (
            'objective = "ot-token"',
            'objective = "ot-token"\nintit = "teacher"',
            r"arms\.2\.intit: no such key: did you mean init\?",
        ),
        ('"ot-token"\noptions = { sentence_weight = 0.0 }', '"kd-mse"', "two arms have the name 'kd-mse': .*"),
        ('"ot-token"\noptions = { sentence_weight = 0.0 }', '"kd-mse"\nname = "b"', "the arms 'kd-mse' and 'b' are equal: .*"),
        ('"ot-token"\noptions = { sentence_weight = 0.0 }', '"kd-cosine"', "no arm has the side transport: .*"),
        ('objective = "kd-mse"', 'objective = "kd-mse"\nside = "transport"', "no arm has the side standard: .*"),
        (
            'objective = "kd-mse"',
            'objective = "kd-mse"\nside = "ours"',
            r"arms\.1\.side: .*'transport', 'standard' or 'control'.*",
        ),
    ],
)
def test_a_mistake_is_one_line_with_file_key_and_way_out(tmp_path: Path, before: str, after: str, line: str) -> None:
    assert before in GOOD
    with pytest.raises(HarnessError) as caught:
        told(tmp_path, GOOD.replace(before, after))
    assert re.fullmatch(rf"{re.escape(str(tmp_path / 'mine.toml'))}:? {line}", str(caught.value)), caught.value


def test_no_such_study_is_said_with_those_that_there_are() -> None:
    with pytest.raises(HarnessError, match="sampel is neither a file nor a built-in study: did you mean sample"):
        find_design("sampel")
    assert find_design("sample").is_file()


def test_the_studies_that_come_along_can_be_read() -> None:
    for path in DESIGNS.glob("*.toml"):
        config = read_study(path)
        assert {arm.side for arm in config.arms} >= {"transport", "standard", "control"}
        # A study on val prepares choices, so fewer seeds are enough.
        assert len(config.seeds) >= {"test": 3, "val": 2}[config.split], path


def test_what_is_not_trained_has_no_budget() -> None:
    arm = Arm(objective="none", init="ot-vocabulary")
    recipe = arm.recipe({"steps": 20, "tune": True, "pooling": "last"}, 100, 0)
    assert (recipe.steps, recipe.tune, recipe.pooling) == (None, False, "last")


@pytest.mark.parametrize(
    ("arm", "side"),
    [
        ({"objective": "kd-mse + 0.5*kd-cosine"}, "standard"),
        ({"objective": "kd-mse + 0.5*ot-token"}, "transport"),
        ({"objective": "kd-mse", "init": "ot-vocabulary"}, "transport"),
        ({"objective": "kd-mse", "init": "association"}, "control"),
        ({"objective": "none"}, "control"),
        ({"objective": "kd-mse", "init": "scratch", "side": "control"}, "control"),
    ],
)
def test_an_arm_is_on_the_side_that_it_looks_like_or_says(arm: dict[str, Any], side: str) -> None:
    assert Arm(**arm).side == side


def test_the_repetition_has_seeds_of_its_own() -> None:
    assert study(seeds=[0, 4], replicate=True).replicate == (5, 6)
    assert study(replicate=[9]).replicate == (9,)
    assert study(replicate=False).replicate == ()


# the grid


def test_what_decides_first_comes_first() -> None:
    config = study(pairs=[500, 100], seeds=[0, 1], replicate=[7])
    order = list(grid_positions(config, ["qu", "de"]))
    arms = [arm.name for arm in config.arms]
    assert len(order) == len(set(order)) == 2 * 2 * 3 * len(arms)
    assert [place.arm for place in order[: len(arms)]] == arms
    blocks = list(dict.fromkeys((place.seed == 7, place.pairs, place.lang) for place in order))
    assert blocks == [(again, pairs, lang) for again in (False, True) for pairs in (500, 100) for lang in ("qu", "de")]
    assert [place.seed for place in order[: 2 * len(arms)]] == [0] * len(arms) + [1] * len(arms)


# the run


class Fakes:
    """A study of three cells whose measuring is only noted down, by a clock that goes forward when one is measured."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, failing: Sequence[str] = ()) -> None:
        self.store, self.measured, self.now, self.failing = Store(folder), list[str](), 0.0, failing
        monkeypatch.setattr(harness.evaluation.runner, "load_or_measure", self.measure)
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        plan: Any = SimpleNamespace(config=RunConfig(lang="qu"), language=SimpleNamespace(code="qu", name="Quechua"), data=folder)
        cells = [SimpleNamespace(key=f"{number:064}", label=str(number), recipe=None) for number in range(5)]
        places = [GridPosition(f"arm {number}", "qu", 100, 0) for number in range(5)]
        steps = tuple(StudyCell(place, cell, plan) for place, cell in zip(places, cells, strict=True))  # type: ignore[arg-type]
        english = SimpleNamespace(english=(SimpleNamespace(key="e" * 64, label="english"),))
        self.study = Study(study(), {"qu": english}, steps, ())  # type: ignore[dict-item]

    kind: type[Exception] = HarnessError

    def measure(self, cell: Any, *_: Any) -> None:
        if not self.store.record(cell.key).is_dir():
            self.now += 60
            if cell.label in self.failing:
                raise self.kind(f"{cell.label} diverged")
            self.store.record(cell.key).mkdir(parents=True)
            self.measured.append(cell.label)


def test_a_run_measures_english_first_and_then_every_cell_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes(tmp_path, monkeypatch)
    assert run_study(fakes.study, fakes.store, Console()) == {}
    assert fakes.measured == ["english", "0", "1", "2", "3", "4"]
    run_study(fakes.study, fakes.store, Console())
    assert len(fakes.measured) == 6


def test_no_cell_is_begun_after_the_time_and_the_next_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes(tmp_path, monkeypatch)
    run_study(fakes.study, fakes.store, Console(), seconds=150)
    assert fakes.measured == ["english", "0", "1"]
    run_study(fakes.study, fakes.store, Console(), seconds=0)
    assert fakes.measured == ["english", "0", "1"]
    run_study(fakes.study, fakes.store, Console())
    assert fakes.measured == ["english", "0", "1", "2", "3", "4"]


def test_a_training_that_fails_is_passed_over_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes(tmp_path, monkeypatch, failing=("1", "2"))
    failed = run_study(fakes.study, fakes.store, Console())
    assert failed == {GridPosition("arm 1", "qu", 100, 0): "1 diverged", GridPosition("arm 2", "qu", 100, 0): "2 diverged"}
    assert fakes.measured == ["english", "0", "3", "4"]


def test_code_of_others_that_raises_is_passed_over_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes = Fakes(tmp_path, monkeypatch, failing=("1",))
    fakes.kind = ZeroDivisionError
    failed = run_study(fakes.study, fakes.store, Console())
    assert failed == {GridPosition("arm 1", "qu", 100, 0): "ZeroDivisionError: 1 diverged"}
    assert fakes.measured == ["english", "0", "2", "3", "4"]
    assert "Traceback" in capsys.readouterr().err


def test_an_english_tower_that_fails_ends_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes(tmp_path, monkeypatch, failing=("english",))
    with pytest.raises(HarnessError, match="english diverged"):
        run_study(fakes.study, fakes.store, Console())
    assert fakes.measured == []


def test_three_failures_in_a_row_are_no_matter_of_one_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes(tmp_path, monkeypatch, failing=("1", "2", "3"))
    with pytest.raises(HarnessError, match="3 diverged"):
        run_study(fakes.study, fakes.store, Console())
    assert fakes.measured == ["english", "0"]


# what it says


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 1)), min_size=1, max_size=5))
def test_against_the_best_is_no_surer_than_against_any_one(pairs: list[tuple[float, float]]) -> None:
    differences, p_values = map(list, zip(*pairs, strict=True))
    p = against_the_best(differences, p_values)
    assert 0 <= p <= 1
    assert p >= min(p_values)
    if len(pairs) == 1 and differences[0] != 0:
        assert p == p_values[0]
    if min(differences) > 0:
        assert p == max(p_values)


def test_against_the_best_errs_as_seldom_as_it_says() -> None:
    draw = np.random.default_rng(0)
    # All alike, and one of the others as good: both are no difference from the best.
    for truth in ([0.0, 0.0, 0.0], [0.0, 2.0, 2.0]):
        common = draw.normal(size=(4000, 1))
        differences = (common + draw.normal(size=(4000, 3))) / np.sqrt(2) + truth
        p_values = np.array([[math.erfc(abs(z) / math.sqrt(2)) for z in row] for row in differences])
        found = [against_the_best(list(d), list(p)) < 0.05 for d, p in zip(differences, p_values, strict=True)]
        assert np.mean(found) < 0.06


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudyRecords:
    return study_records(tmp_path_factory.mktemp("records"), study())


@pytest.fixture(scope="module")
def found(whole: StudyRecords) -> Findings:
    return findings(whole)


def part(of: StudyRecords, keep: Any) -> StudyRecords:
    return replace(of, done={place: entry for place, entry in of.done.items() if keep(place)})


def claims(of: Sequence[PlannedContrast]) -> set[tuple[Any, ...]]:
    return {(each.arm, each.pairs, each.value, each.langs, each.outcome) for each in of if each.outcome != "tie"}


def test_every_arm_is_scored_in_every_language_and_over_all(found: Findings) -> None:
    assert len(found.points) == len(ARMS) * 2 * (3 + 1)
    score = next(point for point in found.points if point.arm == "kd-mse" and point.langs == ("qu",) and point.pairs == 100)
    assert score.score.low < score.score.estimate < score.score.high  # type: ignore[operator]
    mean = next(point for point in found.points if point.arm == "kd-mse" and len(point.langs) == 3 and point.pairs == 100)
    ones = [point for point in found.points if point.arm == "kd-mse" and len(point.langs) == 1 and point.pairs == 100]
    assert mean.score.estimate == pytest.approx(np.mean([point.score.estimate for point in ones]))  # type: ignore[arg-type]
    assert len(mean.cells) == 9


def test_transport_is_tested_against_the_best_arm_without_it(found: Findings) -> None:
    tests = found.by_language.verdicts
    assert len(tests) == found.by_language.planned == 3 * 3 * 2
    assert len(found.means.verdicts) == found.means.planned == 3 * 2
    assert len(found.by_tier.verdicts) == found.by_tier.planned == 3 * 2 * 2
    for each in tests:
        assert {rival.arm for rival in each.rivals} == {"kd-mse", "kd-cosine", "kd-mse@association"}
        assert each.rival == min(each.rivals, key=lambda rival: rival.difference.estimate or 0).arm
        assert each.p_value == against_the_best(
            [rival.difference.estimate or 0 for rival in each.rivals], [rival.p_value for rival in each.rivals]
        )
    assert [each.p_holm for each in tests] == holm([each.p_value for each in tests])
    outcomes = {(each.arm, each.outcome) for each in found.means.verdicts}
    assert ("kd-mse@ot-vocabulary", "win") in outcomes
    assert ("none@ot-vocabulary", "loss") in outcomes
    assert ("ot-token", "tie") in outcomes


def test_what_part_of_a_study_claims_the_whole_claims_too(whole: StudyRecords, found: Findings) -> None:
    early = findings(part(whole, lambda place: place.pairs == 100 and place.lang != "de"))
    assert len(early.by_language.verdicts) == 6
    assert early.by_language.planned == 18
    assert early.means.verdicts == ()
    assert claims(early.by_language.verdicts) <= claims(found.by_language.verdicts)
    same = {(each.arm, each.langs, each.pairs): each for each in found.by_language.verdicts}
    for each in early.by_language.verdicts:
        twin = same[each.arm, each.langs, each.pairs]
        assert (each.p_value, each.difference) == (twin.p_value, twin.difference)
        assert each.p_holm >= twin.p_holm


def test_a_test_waits_for_all_its_seeds_and_all_its_rivals(whole: StudyRecords) -> None:
    without_seed = findings(part(whole, lambda place: (place.lang, place.arm, place.seed) != ("qu", "ot-token", 2)))
    assert {each.langs for each in without_seed.by_language.verdicts if each.arm == "ot-token"} == {("gn",), ("de",)}
    assert {each.langs for each in without_seed.by_language.verdicts if each.arm != "ot-token"} == {("qu",), ("gn",), ("de",)}
    score = next(point for point in without_seed.points if point.arm == "ot-token" and point.langs == ("qu",))
    assert score.seeds == (0, 1)
    assert not [point for point in without_seed.points if point.arm == "ot-token" and len(point.langs) > 1]
    without_rival = findings(part(whole, lambda place: (place.lang, place.arm) != ("qu", "kd-cosine")))
    assert {each.langs for each in without_rival.by_language.verdicts} == {("gn",), ("de",)}


def test_languages_on_other_images_are_not_averaged(tmp_path: Path) -> None:
    config = study(lang=["qu", "gn", "sw", "de"], pairs=[100], seeds=[0], arms=ARMS[:3])
    other = gallery(150, "other")
    found = findings(study_records(tmp_path, config, galleries={"sw": other, "de": other}))
    assert {each.langs for each in found.means.verdicts} == {("qu", "gn"), ("sw", "de")}
    assert found.means.planned == 2
    assert "Languages are measured on different images, so their scores are not comparable." in validity_threats(found)


def test_ablations_differ_in_one_thing(found: Findings) -> None:
    arms = [
        *ARMS,
        {"objective": "ot-token", "options": {"sentence_weight": 0.0}},
        {"objective": "ot-token", "init": "ot-vocabulary"},
    ]
    assert [(each.a, each.b, each.what) for each in find_ablations(study(arms=arms))] == [
        ("kd-mse@association", "kd-mse", "start"),
        ("kd-mse@ot-vocabulary", "kd-mse", "start"),
        ("ot-token (sentence weight 0.0)", "ot-token", "sentence weight"),
        ("ot-token@ot-vocabulary", "ot-token", "start"),
        ("kd-mse@ot-vocabulary", "kd-mse@association", "start"),
        ("none@ot-vocabulary", "kd-mse@ot-vocabulary", "training"),
        ("ot-token@ot-vocabulary", "kd-mse@ot-vocabulary", "objective"),
        ("ot-token@ot-vocabulary", "none@ot-vocabulary", "training"),
    ]
    assert found.ablations.planned == len(found.ablations.verdicts) == 4 * 3 * 2
    assert found.ablation_means.planned == len(found.ablation_means.verdicts) == 4 * 2


def test_holm_has_as_many_resamples_as_it_needs(whole: StudyRecords) -> None:
    assert replace(whole, config=study(resamples=None)).resamples == 10_000
    many = study(lang=["qu", "gn", "de"], pairs=[*range(100, 150), "all"], resamples=None)
    needed = replace(whole, config=many, grid=frozenset(grid_positions(many, ["qu", "gn", "de"]))).resamples
    tests, rivals = 3 * 3 * 51, 3
    assert rivals * tests / (needed + 1) < 0.05
    assert rivals * tests / (needed - 1000) > 0.05


def test_each_claim_is_held_against_the_second_seeds(tmp_path: Path) -> None:
    def skill(place: GridPosition) -> float | None:
        if place.lang == "de" and place.seed > 2:
            return None
        if place.arm == "kd-mse@ot-vocabulary":
            return 0.02 if place.lang == "gn" and place.seed > 2 else 0.9
        return SKILLS[place.arm]

    arms = [ARMS[0], ARMS[3], ARMS[4]]
    found = findings(study_records(tmp_path, study(pairs=[100], replicate=True, arms=arms), skill))
    by_language = {each.claim.langs[0]: each for each in found.repeated if each.family == "languages"}
    assert (by_language["qu"].same_sign, by_language["qu"].same) == (True, True)
    assert (by_language["gn"].same_sign, by_language["gn"].same) == (False, False)
    assert (by_language["de"].again, by_language["de"].same_sign, by_language["de"].same) == (None, None, None)
    assert re.search(
        r"Replication with seeds 3, 4 and 5: of \d+ significant differences?, \d+ ha(s|ve) the same sign",
        answer_paragraph(found),
    )
    assert "cannot be checked yet" in answer_paragraph(found)


def test_nothing_is_said_before_there_is_anything(tmp_path: Path) -> None:
    found = findings(study_records(tmp_path, study(), lambda place: 0.3 if place.arm == "kd-mse" else None))
    assert answer_paragraph(found).startswith("No comparison is possible yet: ")
    assert arm_sentences(found) == []
    assert found.by_language.verdicts == ()
    assert publish_study(found, tmp_path / "out")


def test_no_difference_is_called_none(tmp_path: Path) -> None:
    found = findings(study_records(tmp_path, study(arms=ARMS[:3], pairs=[100]), lambda _: 0.3))
    text = answer_paragraph(found)
    assert re.match(
        "None of 1 comparison of means over languages of a transport arm with .* is significant: .*inconclusive", text
    )
    assert "Exploratory: No transport arm differs significantly from the best arm without transport in any of 3 comp" in text
    assert "ahead" not in text
    assert "equivalent" not in text
    assert "Holm" in text


def test_equivalence_is_stated_within_a_declared_margin_alone(tmp_path: Path) -> None:
    same = study_records(tmp_path, study(arms=ARMS[:3], pairs=[100], margin=40), lambda _: 0.3)
    found = findings(same)
    assert all(each.p_equivalence is not None and each.outcome == "tie" for each in found.by_language.verdicts)
    assert "3 of 3 comparisons are equivalent within ±40 points of the best arm without transport" in answer_paragraph(found)
    strict = findings(replace(same, config=study(arms=ARMS[:3], pairs=[100], margin=0.01)))
    assert "0 of 3 comparisons are equivalent" in answer_paragraph(strict)
    assert any(
        "3 comparisons inconclusive: the 95 % intervals are compatible with" in line for line in inconclusive_lines(strict)
    )


def test_the_primary_family_comes_first_and_the_others_are_exploratory(whole: StudyRecords) -> None:
    means = findings(whole)
    assert means.primary == "means"
    assert answer_paragraph(means).startswith("Of 6 comparisons of means over languages")
    by_language = findings(replace(whole, config=whole.config.model_copy(update={"primary": "languages"})))
    text = answer_paragraph(by_language)
    assert text.startswith("A transport arm was significantly ahead")
    assert "Exploratory: Of 6 comparisons of means" in text
    assert "The primary family is the comparisons by language and size, 18 planned tests" in text


def test_secondary_outcomes_and_heterogeneity_stand_beside_the_means(found: Findings) -> None:
    per_mean = [each for each in found.secondary if (each.arm, each.pairs) == (found.means.verdicts[0].arm, 100)]
    assert {(each.direction, each.metric) for each in per_mean} == {
        *(("t2i", name) for name in ("R@5", "R@10", "MRR")),
        *(("i2t", name) for name in ("R@1", "R@5", "R@10", "MRR")),
    }
    assert [each.p_holm for each in per_mean] == holm([each.p_value for each in per_mean])
    assert [(each.arm, each.rival, each.pairs) for each in found.random_effects] == [
        (each.arm, each.rival, each.pairs) for each in found.means.verdicts
    ]
    for each in found.random_effects:
        assert each.mean.low is not None
        assert each.mean.high is not None
        assert each.mean.low < each.mean.high


def test_a_tier_of_all_languages_is_not_tested_twice(whole: StudyRecords) -> None:
    alike = {code: language for code, language in whole.languages.items() if code != "de"}
    grid = frozenset(place for place in whole.grid if place.lang != "de")
    one_tier = findings(part(replace(whole, languages=alike, grid=grid), lambda place: place.lang != "de"))
    assert (one_tier.by_tier.planned, one_tier.by_tier.verdicts) == (0, ())
    assert one_tier.means.planned == 6


def test_the_answer_counts_what_the_tests_say(found: Findings) -> None:
    outcomes = [each.outcome for each in found.by_language.verdicts]
    text = answer_paragraph(found)
    assert f"was significantly ahead of the best arm without transport in {outcomes.count('win')} of 18 comparisons" in text
    assert f"behind in {outcomes.count('loss')}, and {outcomes.count('tie')} comparisons" in text
    assert "The primary family is the means over languages, 6 planned tests" in text
    assert "All other families are exploratory" in text
    told = [each for each in found.means.verdicts if each.outcome != "tie"]
    means = f"Of {len(found.means.verdicts)} comparisons of means over languages, {len(told)}"
    assert re.search(rf"{means} (is|are) significant", text)
    assert "not finished" not in text
    wins = [each for each in found.by_language.verdicts if each.outcome == "win"]
    best = max(wins, key=lambda each: each.difference.estimate or 0)
    assert f"{best.difference.estimate:+.1f} points [" in text
    assert [line.split(" minus")[0] for line in arm_sentences(found)] == [
        "ot-token",
        "kd-mse@ot-vocabulary",
        "none@ot-vocabulary",
        "kd-mse@ot-vocabulary",
    ]


def test_one_seed_is_about_these_towers(tmp_path: Path) -> None:
    found = findings(study_records(tmp_path, study(seeds=[0], pairs=[100])))
    assert "they describe these towers and not the methods" in answer_paragraph(found)
    assert any(line.startswith("1 seed: ") for line in validity_threats(found))


def test_what_is_missing_is_named_with_the_reason(whole: StudyRecords) -> None:
    some = part(whole, lambda place: (place.lang, place.pairs) != ("qu", None))
    place = GridPosition("ot-token", "qu", None, 1)
    found = findings(some, {place: "the loss became nan"})
    assert [(left.lang, left.pairs, left.cells, left.planned) for left in found.left] == [("qu", None, 18, 18)]
    assert found.left[0].reason == "ot-token, seed 1: the loss became nan"
    assert "18 of 108 cells are missing" in answer_paragraph(found)
    assert "3 of 18 comparisons by language and size missing, because cells are missing." in inconclusive_lines(found)


def test_facets_are_broken_down_where_all_records_have_them(tmp_path: Path) -> None:
    config = study(arms=ARMS[:3], pairs=[100], seeds=[0])
    with_facets = study_records(tmp_path / "with", config, facets={"entity-type": ("people", "animals")})
    (family,) = findings(with_facets).facets
    assert {each.value for each in family.verdicts} == {"people", "animals"}
    assert all(each.langs == ("qu", "gn", "de") and each.rival == "kd-mse" for each in family.verdicts)
    assert family.planned == 2
    unfinished = part(
        study_records(tmp_path / "two", study(arms=ARMS[:3], seeds=[0]), facets={"entity-type": ("people", "animals")}),
        lambda place: place.pairs,
    )
    (family,) = findings(unfinished).facets
    assert (len(family.verdicts), family.planned) == (2, 4)
    assert findings(study_records(tmp_path / "without", config)).facets == ()


def test_findings_are_whole_numbers_and_text_when_written(found: Findings) -> None:
    text = found.model_dump_json()
    assert Findings.model_validate_json(text) == found
    assert not re.search("NaN|Infinity", text)
    assert "made-up" in text


def test_markdown_has_every_part(found: Findings, tmp_path: Path) -> None:
    publish_study(found, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for heading in ("The question", "The answer", "The design", "Score and bitext size", "Ablations", "Inconclusive comparisons"):
        assert f"\n## {heading}\n" in text
    assert text.count("| Quechua | ot-token | ") >= 1
    assert "nan" not in text.lower().replace("distillation", "")


# the command


TINY = """
lang = ["qu"]
split = "val"
pairs = [40, 5000]
seeds = [0, 1]
resamples = 200
[distill]
steps = 3
tune = true
[[arms]]
objective = "kd-mse"
[[arms]]
objective = "ot-token"
[[arms]]
objective = "none"
init = "ot-vocabulary"
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the sample is drawn once."""
    return tmp_path_factory.mktemp("store")


def test_the_command_line_goes_from_nothing_to_a_report(store: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    words = ("study", str(tmp_path / "tiny.toml"))
    plan = command(*words, "--dry-run", store=store)
    assert plan.returncode == 0, plan.stderr
    assert re.search(r"40 pairs +Quechua +0 1 +0 of 6 +20 +not known yet", plan.stdout)
    assert "left out: qu with 5,000 pairs: Quechua has 4,460 usable pairs" in plan.stderr
    nothing = command(*words, "--hours", "0", store=store)
    assert nothing.returncode == 0, nothing.stderr
    assert "No comparison is possible yet" in nothing.stdout
    assert "6 of 6 cells remain" in nothing.stderr
    done = command(*words, store=store)
    assert done.returncode == 0, done.stderr
    assert "comparisons of an arm, a language and a size" in done.stdout
    assert "say nothing about photographs" in " ".join(done.stdout.split())
    report = store / "studies" / "tiny"
    assert {path.name for path in report.iterdir()} == {"design.json", "index.html", "report.md", "findings.json"}
    found = Findings.model_validate_json((report / "findings.json").read_bytes())
    assert (found.done, found.planned, found.sample, found.tuned) == (6, 6, True, True)
    ((_, towers),) = found.arm("ot-token").rates
    assert towers == 2, "one search for both seeds"
    assert len(list((store / "trials").iterdir())) == 2 * 4
    assert found.languages[0].searched > 0
    assert found.arm("none@ot-vocabulary").rates == ()
    assert found.languages[0].floor is not None
    assert found.impossible == (("qu", 5000, "Quechua has 4,460 usable pairs"),)
    # Read back: nothing is trained, and the same is said.
    code = "import sys; from harness.cli.app import app; app(standalone_mode=False); sys.exit('torch' in sys.modules)"
    again = command(*words, "--out", str(tmp_path / "again"), store=store, code=code)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split("Open")[0] == done.stdout.split("Open")[0]
    assert "cell 1" not in again.stderr
    after = command(*words, "--dry-run", store=store)
    assert re.search(r"40 pairs +Quechua +0 1 +6 of 6 +0", after.stdout)


def test_a_rate_is_searched_for_once_for_all_seeds_on_val_images(store: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.replace('"val"', '"test"'), encoding="utf-8")
    study = plan_study(read_study(tmp_path / "tiny.toml"), "cpu", Store(store))
    recipes = {(step.place.arm, step.place.seed): step.cell.recipe for step in study.steps}
    one, other, another = (recipes[place] for place in (("kd-mse", 0), ("kd-mse", 1), ("ot-token", 0)))
    assert one
    assert other
    assert another
    assert one.search
    assert (one.search.retrieval.split, one.search.retrieval.lang, one.search.seed) == ("val", "qu", 0)
    digests = [[attempt.digest for attempt in search_trials(recipe)] for recipe in (one, other, another)]
    assert len(set(digests[0])) == 4
    # A trial is led up to its rate in as many steps as the whole training.
    config = search_trials(one)[0].recipe.config
    assert config.steps
    assert config.warmup * config.steps == pytest.approx(one.config.warmup * one.steps)
    assert digests[0] == digests[1]
    assert not set(digests[0]) & set(digests[2])
    untrained = recipes["none@ot-vocabulary", 0]
    assert untrained
    assert search_trials(untrained) == []
    assert untrained.digest == replace(untrained, search=None).digest
    # Without val captions each tower has a search of its own, on its own pairs.
    alone = [{attempt.digest for attempt in search_trials(replace(recipe, search=None))} for recipe in (one, other)]
    assert not alone[0] & alone[1]
    assert all(attempt.recipe.config.held_out == 4 for attempt in search_trials(replace(one, search=None)))
    assert one.digest != replace(one, search=None).digest


def test_a_language_without_val_captions_is_searched_on_its_pairs(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.replace('"val"', '"test"'), encoding="utf-8")
    load = Flickr30k.load

    def without_val(self: Any, data: Path, lang: str, split: str, source: str | None = None) -> Any:
        if split == "val":
            raise MissingError("no val captions")
        return load(self, data, lang, split, source)

    monkeypatch.setattr(Flickr30k, "load", without_val)
    study = plan_study(read_study(tmp_path / "tiny.toml"), "cpu", Store(store))
    assert study.languages["qu"].search is None
    assert {attempt.images for step in study.steps if step.cell.recipe for attempt in search_trials(step.cell.recipe)} == {None}


def test_a_rate_is_searched_for_by_captions_of_the_source_that_is_measured(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.toml").write_text('source = "multiscript30k"' + TINY.replace('"val"', '"test"'), encoding="utf-8")
    load, asked = Flickr30k.load, set()

    def spied(self: Any, data: Path, lang: str, split: str, source: str | None = None) -> Any:
        asked.add((lang, split, source))
        return load(self, data, lang, split)  # the sample's own: it has no other source

    monkeypatch.setattr(Flickr30k, "load", spied)
    plan_study(read_study(tmp_path / "tiny.toml"), "cpu", Store(store))
    assert {("qu", "test", "multiscript30k"), ("qu", "val", "multiscript30k")} <= asked
    assert ("qu", "val", None) not in asked


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ('lang = ["qu"]', 'lang = ["germn"]', r"unknown language 'germn': did you mean German \(de\).*"),
        ('lang = ["qu"]', 'lang = ["en"]', "English is the source of distillation: name other languages in lang"),
        ("pairs = [40, 5000]", "pairs = [9999]", "no language has enough sentence pairs for the study: .*"),
        (
            "lang",
            'task = "flickr30k-entities"\nlang',
            "a study needs a task of image retrieval, and flickr30k-entities is none: .*",
        ),
        ("lang", 'data = "/nowhere"\nlang', "/nowhere does not exist: .*"),
    ],
)
def test_what_the_data_cannot_serve_is_one_line_too(before: str, after: str, line: str, store: Path, tmp_path: Path) -> None:
    assert before in TINY
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(HarnessError) as caught:
        plan_study(read_study(path), "cpu", Store(store))
    assert re.fullmatch(line, str(caught.value)), caught.value
