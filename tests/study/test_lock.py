"""The design lock: what may change after the first record, and what a look at more seeds costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.study.lock import lock_design, log_look, read_lock
from tests.support.synthetic_study import findings, study, study_records


def test_a_changed_design_is_refused_with_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "design.json"
    first = lock_design(study(), path)
    assert lock_design(study(title="other words", resamples=500), path) == first
    for change, name in (({"seeds": [0, 1]}, "seeds"), ({"pairs": [100]}, "pairs"), ({"margin": 1.0}, "margin")):
        with pytest.raises(HarnessError, match=rf"is locked since .*, and {name} changed: undo the change, or save"):
            lock_design(study(**change), path)
    with pytest.raises(HarnessError, match="and distill changed"):
        lock_design(study(distill={"steps": 7}), path)
    assert read_lock(path) == first


def test_seeds_that_are_added_after_a_report_cost_a_look(tmp_path: Path) -> None:
    path = tmp_path / "design.json"
    lock = lock_design(study(), path)
    assert lock.count_looks(study().seeds) == 1
    log_look(lock, study(), 9, 9, path)
    more = study(seeds=[0, 1, 2, 3])
    held = lock_design(more, path)
    assert held.count_looks(more.seeds) == 2
    assert [look.done for look in held.looks] == [9]
    # The same report again is the same look.
    assert lock_design(study(), path).count_looks(study().seeds) == 1


def test_p_values_are_multiplied_by_the_looks(tmp_path: Path) -> None:
    records = study_records(tmp_path, study(pairs=[100]))
    once, twice = (findings(replace(records, looks=looks)) for looks in (1, 2))
    for one, two in zip(once.means.verdicts, twice.means.verdicts, strict=True):
        assert two.p_holm == min(1.0, 2 * one.p_holm)


def test_a_file_that_is_no_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "design.json").write_text("{}")
    with pytest.raises(HarnessError, match="does not hold the design of a study"):
        lock_design(study(), tmp_path / "design.json")
