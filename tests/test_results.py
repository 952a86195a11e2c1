"""The project's own studies: their reports are those of their records, and the page that tells of them says what they say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from harness.record import load_record
from harness.study.findings import Findings

ROOT = Path(__file__).parents[1]
STUDIES = sorted((ROOT / "leaderboards" / "results").glob("*/findings.json"))
PAGE = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")


def test_there_are_studies() -> None:
    assert STUDIES


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_scores_of_a_report_are_those_of_its_records(path: Path) -> None:
    found = Findings.model_validate_json(path.read_bytes())
    assert found.points
    assert not found.sample
    for point in found.points:
        records = [load_record(path.parent / "records" / cell) for cell in point.cells]
        assert {record.lang for record in records} == set(point.langs)
        scores = [record.scores[f"{found.direction}_r1"] for record in records]
        assert point.score.estimate == pytest.approx(np.mean(scores))
        assert all(record.encoder_fingerprint == found.encoder_fingerprint for record in records)
        for record in records:
            assert not re.search(r'["\s=]/\w', record.model_dump_json()), "a path of somebody's machine"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_the_page_of_findings_says_what_the_report_says(path: Path) -> None:
    """The rows of each table that the page takes from a report, which it names in the line above, stand in the report."""
    report = re.sub(r"\\([][<])", r"\1", (path.parent / "report.md").read_text(encoding="utf-8"))
    name = re.escape(f"{path.parent.name}/report.md")
    tables = re.findall(rf"{name}[^\n]*\n\n((?:\|[^\n]*\n)+)", PAGE)
    assert tables
    for row in (row for table in tables for row in table.splitlines()[2:]):
        assert row in report, row
