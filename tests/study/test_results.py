"""The project's own studies: their reports are those of their records, and the page that tells of them says what they say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import HarnessError
from harness.leaderboards.study.page import publish_study
from harness.records.files import load_ranks, load_record
from harness.statistics.comparison import compare_records
from harness.statistics.comparison_schema import ComparisonOptions
from harness.storage.seals import Seal, file_digest, read_seal
from harness.storage.store import DamagedError
from harness.study.findings import load_findings
from tests.support.command_line import harness

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "leaderboards" / "results"
STUDIES = sorted(RESULTS.glob("*/findings.json"))
LATE = RESULTS / "low-resource-1000-late"
MEASURED = {
    "text → image, `maxsim`": ("flickr30k", "maxsim"),
    "text → English text, `maxsim`": ("flickr30k-clir", "maxsim"),
    "text → English text, embeddings": ("flickr30k-clir", "plain"),
}
PAGE = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")


def test_there_are_studies() -> None:
    assert STUDIES


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_scores_of_a_report_are_those_of_its_records(path: Path) -> None:
    found = load_findings(path)
    assert found.points
    assert not found.sample
    for point in found.points:
        records = [load_record(path.parent / "records" / cell) for cell in point.cells]
        assert {record.lang for record in records} == set(point.langs)
        scores = [record.scores[f"{found.direction}_r1"] for record in records]
        assert point.score.estimate == pytest.approx(np.mean(scores))
        assert all(record.encoder_fingerprint == found.encoder_fingerprint for record in records)


def test_records_of_one_recipe_are_one_group() -> None:
    """However a number was written when a record was made (0, 0.0, or not at all, where it is the default)."""
    records = [load_record(path.parent) for path in RESULTS.rglob("record.json")]
    recipes = [record.tower.requested.model_copy(update={"seed": 0}) for record in records if record.tower]
    assert len({recipe.model_dump_json() for recipe in recipes}) == len(set(recipes)) > 1


def test_the_comparison_in_the_readme_is_of_three_languages() -> None:
    question = ComparisonOptions(directions=("t2i",), resamples=100)
    found = compare_records("ot-token", "kd-mse", RESULTS / "low-resource-1000-losses", question)
    assert [[paired.lang for paired in setting.paired] for setting in found.settings] == [["ay", "gn", "qu"]]


@pytest.mark.parametrize("name", ["record.json", "queries.parquet", "digests.json"])
def test_a_record_with_a_changed_byte_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(next(RESULTS.rglob("record.json")).parent, folder)
    load_record(folder)
    load_ranks(folder)
    whole = (folder / name).read_bytes()
    for place in np.random.default_rng(0).integers(len(whole), size=50).tolist():
        (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedError, match=re.escape(str(folder))):
            load_ranks(folder)


def test_every_record_is_sealed() -> None:
    folders = [path.parent for path in RESULTS.rglob("record.json")]
    assert all(read_seal(folder) == Seal(key=folder.name, files=digests(folder)) for folder in folders)


def digests(folder: Path) -> dict[str, str]:
    return {name: file_digest(folder / name) for name in ("queries.parquet", "record.json")}


def test_no_record_names_a_path_of_somebodys_machine() -> None:
    folders = [path.parent for path in RESULTS.rglob("record.json")]
    assert folders
    for folder in folders:
        assert not re.search(r'["\s=]/\w', load_record(folder).model_dump_json()), folder


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_the_page_of_findings_says_what_the_report_says(path: Path) -> None:
    """The rows of each table that the page takes from a report, which it names in the line above, stand in the report."""
    report = re.sub(r"\\([][<])", r"\1", (path.parent / "report.md").read_text(encoding="utf-8"))
    name = re.escape(f"{path.parent.name}/report.md")
    tables = re.findall(rf"{name}[^\n]*\n\n((?:\|[^\n]*\n)+)", PAGE)
    assert tables
    for row in (row for table in tables for row in table.splitlines()[2:]):
        assert row in report, row


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_a_report_is_what_its_findings_make(path: Path, tmp_path: Path) -> None:
    publish_study(load_findings(path), tmp_path)
    for name in ("findings.json", "report.md", "index.html"):
        made = (tmp_path / name).read_text(encoding="utf-8")
        assert made == path.with_name(name).read_text(encoding="utf-8"), f"run: python -m harness study {path}"


def test_what_is_not_findings_is_refused_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "findings.json"
    with pytest.raises(HarnessError, match=f"{path} cannot be read"):
        load_findings(path)
    path.write_text('{"title": 1}')
    with pytest.raises(HarnessError, match=f"{path} does not hold the findings"):
        load_findings(path)


@pytest.mark.parametrize("option", ["--dry-run", "--report-only", "--device=cpu", "--workers=2", "--hours=1", "--data=x"])
def test_findings_take_no_option_of_a_measurement(option: str, tmp_path: Path) -> None:
    done = harness("study", str(STUDIES[0]), "--out", str(tmp_path / "out"), option, store=tmp_path)
    assert done.returncode != 0
    assert f"{STUDIES[0]} holds a measured study" in done.stderr
    assert "--out alone" in done.stderr
    assert not (tmp_path / "out").exists()


def test_late_interaction_is_what_its_records_say() -> None:
    """The page's table: the scores of `kd-mse` are means of its records, and each difference stands in that arm's comparison."""
    arms = ["ot-token", "ot-token-pure", "kd-mse-ot-sentences"]
    compared = {arm: (LATE / f"{arm}.md").read_text(encoding="utf-8").replace("\\", "") for arm in arms}
    for row, (task, scorer) in MEASURED.items():
        means = {arm: mean_over_languages(LATE / arm, task, scorer) for arm in ["kd-mse", *arms]}
        (found,) = re.findall(rf"^\| {re.escape(row)} \| (.*) \|$", PAGE, re.MULTILINE)
        base, *differences = found.split(" | ")
        assert base == f"{means['kd-mse']:.1f}"
        for arm, difference in zip(arms, differences, strict=True):
            assert f"| all 3 languages | {means[arm]:.1f} | {base} | {difference} |" in compared[arm]


def mean_over_languages(folder: Path, task: str, scorer: str) -> float:
    """R@1, text to image or to text, of the three seeds in each of three languages."""
    records = [load_record(path.parent) for path in folder.glob("*/record.json")]
    scores = [record.scores["t2i_r1"] for record in records if (record.task, record.scorer) == (task, scorer)]
    assert len(scores) == 9
    return float(np.mean(scores))
