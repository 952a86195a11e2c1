"""A run after any interruption gives the result of an undisturbed run.

The tests are small rounds of `python -m tests.faults`, and single faults.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file

from harness import register_encoder
from harness.core.config import RunConfig
from harness.core.data import TokenStates
from harness.core.errors import HarnessError
from harness.distill.checkpoint import TrainingState, load_training, save_training
from harness.distill.model.tower import TextTower, TowerConfig
from harness.evaluation.planning import make_plans
from harness.evaluation.runner import measure_plan
from harness.records.files import check_stored_record, load_ranks, load_record
from harness.reporting.tables import runs_table
from harness.runtime.console import Console
from harness.statistics.matching import load_records
from harness.statistics.measurement import Measurement
from harness.storage.embeddings import digest_array, get_or_compute, get_or_compute_states
from harness.storage.seals import clear_damaged, is_undamaged, load_json_entry, seal_folder, write_json_entry
from harness.storage.store import BusyError, DamagedError, Store, new_file, new_folder
from tests.faults import Tiny, write_data
from tests.support.command_line import ROOT
from tests.support.failing_plugins import FRAGILE
from tests.support.plugin_files import harness, write
from tests.support.synthetic_records import Arm, reseal, write_board


def may_mount(place: Path) -> bool:
    """Return whether this machine allows a process to mount its own disks."""
    words = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(place)]
    return bool(shutil.which("unshare")) and subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("words", [("kills", "2"), ("pairs", "1"), ("damages", "4"), ("writes", "3"), ("disks", "3")])
def test_a_disturbed_run_ends_as_an_undisturbed_one(words: tuple[str, str], tmp_path: Path) -> None:
    if words[0] == "disks" and not may_mount(tmp_path):
        pytest.skip("disks of its own need `unshare` and the right to mount in it")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.faults", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{words[1]} {words[0]}, 0 of which went wrong" in done.stdout


# entries of the store


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 16
    path.write_bytes(data)


def test_damaged_embeddings_are_computed_again_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, matrix, calls = Store(tmp_path), np.ones((3, 4), dtype=np.float32), []

    def compute(start: int, stop: int) -> Iterator[np.ndarray]:
        calls.append(1)
        yield matrix[start:stop]

    for _ in range(2):
        assert np.array_equal(get_or_compute(store, "key", 3, compute, 9), matrix)
    assert len(calls) == 1
    spoil(store.embeddings("key"))
    assert np.array_equal(get_or_compute(store, "key", 3, compute, 9), matrix)
    assert len(calls) == 2
    assert "key.safetensors is damaged (it is not what was written): it is computed again" in capsys.readouterr().err
    assert np.array_equal(get_or_compute(store, "key", 3, compute, 9), matrix)
    assert len(calls) == 2


def test_embeddings_of_another_key_are_computed_again_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, ones = Store(tmp_path), np.ones((3, 4), dtype=np.float32)
    get_or_compute(store, "other", 3, lambda *_: iter([2 * ones]), 9)
    shutil.copyfile(store.embeddings("other"), store.embeddings("key"))
    assert np.array_equal(get_or_compute(store, "key", 3, lambda *_: iter([ones]), 9), ones)
    assert "key.safetensors has another key ('embeddings/other.safetensors'): it is computed again" in capsys.readouterr().err


def test_a_part_of_other_rows_is_computed_again(tmp_path: Path) -> None:
    store, matrix, made = Store(tmp_path), np.arange(20, dtype=np.float32).reshape(10, 2), []

    def compute(start: int, stop: int) -> Iterator[np.ndarray]:
        made.append(start)
        if made == [0, 5]:
            raise KeyboardInterrupt
        yield matrix[start:stop]

    with pytest.raises(KeyboardInterrupt):
        get_or_compute(store, "key", 10, compute, 5)
    shutil.copyfile(store.part("key", 0), store.part("key", 5))
    assert np.array_equal(get_or_compute(store, "key", 10, compute, 5), matrix)
    assert made == [0, 5, 5]


def test_embeddings_without_a_key_are_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An earlier version wrote embeddings without a key, so their contents are unknown."""
    store, ones = Store(tmp_path), np.ones((3, 4), dtype=np.float32)
    store.embeddings("key").parent.mkdir()
    save_file({"embeddings": 2 * ones}, store.embeddings("key"), {"sha256": digest_array(2 * ones)})
    assert np.array_equal(get_or_compute(store, "key", 3, lambda *_: iter([ones]), 9), ones)
    assert "key.safetensors has no key (an earlier version wrote it)" in capsys.readouterr().err


def test_states_of_another_key_are_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, ones = Store(tmp_path), np.ones((3, 4), dtype=np.float32)
    first, other = (TokenStates(ones, np.array([1, 2]), ones[:2]), TokenStates(-ones, np.array([1, 2]), ones[:2]))
    get_or_compute_states(store, "other", 2, lambda: iter([other]))
    shutil.copytree(store.states("other"), store.states("key"))
    assert (get_or_compute_states(store, "key", 2, lambda: iter([first])).rows == 0.5).all()
    assert "states/key has another key ('other'): it is computed again" in capsys.readouterr().err


@pytest.mark.parametrize("content", [{"learning_rate": 0.1, "score": 2.5}, ["one", "two"]])
def test_a_kept_value_is_whole_and_of_its_key_or_is_made_again(
    content: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    write_json_entry(store.trial("a"), content)
    assert load_json_entry(store.trial("a")) == content
    assert load_json_entry(store.trial("none")) is None
    shutil.copyfile(store.trial("a"), store.trial("b"))
    with pytest.raises(DamagedError, match=r"b\.json has another key \('trials/a\.json'\)"):
        load_json_entry(store.trial("b"))
    store.trial("c").write_text(json.dumps(content))
    with pytest.raises(DamagedError, match=r"c\.json has no key \(an earlier version wrote it\)"):
        load_json_entry(store.trial("c"))
    whole = store.trial("a").read_bytes()
    for place in range(len(whole) - 1):
        store.trial("a").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedError):
            load_json_entry(store.trial("a"))

    def make(path: Path) -> object:
        write_json_entry(path, content)
        return content

    assert store.get_or_create(store.trial("a"), load_json_entry, make) == content
    assert "a.json is damaged" in capsys.readouterr().err
    assert load_json_entry(store.trial("a")) == content


def test_a_checkpoint_of_another_training_is_not_gone_on_from(tmp_path: Path) -> None:
    config = TowerConfig(vocab_size=9, width=8, layers=1, heads=2, mlp_width=8, joint_dim=4, max_length=6)
    tower = TextTower(config)
    optimiser = torch.optim.AdamW(tower.parameters())
    store = Store(tmp_path)
    save_training(store.training("a"), tower, optimiser, TrainingState(losses=[1.0]))
    assert load_training(store.training("a"), tower, optimiser).losses == [1.0]
    shutil.copyfile(store.training("a"), store.training("b"))
    with pytest.raises(DamagedError, match="has another key"):
        load_training(store.training("b"), tower, optimiser)


# records


@pytest.fixture
def three_records(tmp_path: Path) -> list[Path]:
    write_board(tmp_path / "records", ["de"], [Arm("kd-mse", 0.5), Arm("ot-token", 0.6)], seeds=1, images=20)
    return Store(tmp_path).records()


def cut(folder: Path) -> None:
    data = (folder / "record.json").read_bytes()
    (folder / "record.json").write_bytes(data[: len(data) // 2])


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "record.json is cut": lambda first, _: cut(first),
    "a rank is another": lambda first, _: set_rank(first, 7),
    "another's ranks": lambda first, other: shutil.copyfile(other / "queries.parquet", first / "queries.parquet"),
    "another's record": lambda first, other: shutil.copyfile(other / "record.json", first / "record.json"),
    "another's seal": lambda first, other: shutil.copyfile(other / "digests.json", first / "digests.json"),
    "no ranks": lambda first, _: (first / "queries.parquet").unlink(),
    "another's folder": lambda first, other: (shutil.rmtree(first), shutil.copytree(other, first)),
}


def set_rank(folder: Path, rank: int) -> None:
    table = pq.read_table(folder / "queries.parquet")
    ranks = [rank, *table["rank"].to_pylist()[1:]]
    place = table.column_names.index("rank")
    pq.write_table(table.set_column(place, "rank", pa.array(ranks, pa.int32())), folder / "queries.parquet")


def spoil_rank(folder: Path) -> None:
    """Give the first query a rank that changes R@1."""
    set_rank(folder, 9 if pq.read_table(folder / "queries.parquet")["rank"][0].as_py() == 1 else 1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_refused_and_named_and_the_others_live(
    damage: str, three_records: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, other, _ = three_records
    DAMAGES[damage](first, other)
    with pytest.raises(DamagedError, match=str(first)):
        (check_stored_record(first), load_ranks(first))
    store = Store(first.parents[1])
    rows = runs_table(store).row_count
    named = str(first) in capsys.readouterr().err
    assert (rows, named) in ((2, True), (3, False)), "a list reads no ranks"
    assert len(load_records(store.root)) >= 2


def test_scores_follow_from_ranks_or_the_record_is_refused(three_records: list[Path]) -> None:
    """Anybody can write a seal, so the seal does not prove the scores."""
    folder = three_records[0]
    record = json.loads((folder / "record.json").read_bytes())
    record["scores"]["t2i_r5"] += 1
    (folder / "record.json").write_text(json.dumps(record))
    reseal(folder)
    with pytest.raises(DamagedError, match="its scores do not follow from its ranks: t2i_r5 is"):
        Measurement.read("x", folder)


def test_a_record_of_an_earlier_version_has_no_seal_and_scores_that_follow(three_records: list[Path]) -> None:
    folder = three_records[0]
    (folder / "digests.json").unlink()
    assert check_stored_record(folder).cell == folder.name
    with pytest.raises(DamagedError, match="has another key"):
        check_stored_record(folder.rename(folder.with_name("x")))
    assert load_record(folder.with_name("x")).cell == folder.name, "outside of a store a folder has any name"
    spoil_rank(folder.with_name("x"))
    with pytest.raises(DamagedError, match="its scores do not follow from its ranks"):
        load_record(folder.with_name("x"))


def test_a_sealed_record_of_other_fields_is_no_damage(three_records: list[Path]) -> None:
    """Another version wrote the record with these fields, so it is not deleted."""
    folder = three_records[0]
    (folder / "record.json").write_text(json.dumps(json.loads((folder / "record.json").read_bytes()) | {"surprise": 1}))
    reseal(folder)
    with pytest.raises(HarnessError, match="is not a record of this version: surprise"):
        is_undamaged(folder, check_stored_record)


def test_damaged_records_are_measured_again_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, data = Store(tmp_path / "store"), write_data(tmp_path / "data")
    register_encoder("tiny", Tiny)
    config = RunConfig(lang="de,fr", data=str(data), encoder="tiny", objectives=(), device="cpu")

    def measured() -> dict[str, dict[str, float]]:
        plans, _ = make_plans(config, store)
        return {record.cell: record.scores for plan in plans for record in measure_plan(plan, store, Console())}

    expected = measured()
    first, second, third, *_ = store.records()
    cut(first)
    spoil_rank(second)
    (second / "digests.json").unlink()
    shutil.rmtree(third)
    shutil.copytree(store.records()[-1], third)
    times = {folder: folder.stat().st_mtime_ns for folder in store.records()}
    capsys.readouterr()
    assert measured() == expected
    said = capsys.readouterr().err
    assert {folder for folder in store.records() if folder.stat().st_mtime_ns != times[folder]} == {first, second, third}
    for folder, why in ((first, "is damaged"), (second, "its scores do not follow"), (third, "has another key")):
        assert re.search(rf"note: {folder}.*{why}.*: it is computed again", said), why


def test_rows_are_kept_in_parts_as_they_are_made(tmp_path: Path) -> None:
    store, matrix, made = Store(tmp_path), np.arange(20, dtype=np.float32).reshape(10, 2), []

    def compute(start: int, stop: int) -> Iterator[np.ndarray]:
        made.append((start, stop))
        if len(made) == 3:
            raise KeyboardInterrupt
        yield matrix[start:stop]

    with pytest.raises(KeyboardInterrupt):
        get_or_compute(store, "key", 10, compute, 4)
    assert made == [(0, 4), (4, 8), (8, 10)]
    spoil(store.part("key", 4))
    assert np.array_equal(get_or_compute(store, "key", 10, compute, 4), matrix)
    assert made[3:] == [(4, 8), (8, 10)], "the part that is whole is not made again, the damaged one is"
    assert not store.part("key", 0).parent.exists()
    assert np.array_equal(get_or_compute(store, "key", 10, compute, 4), matrix)
    assert len(made) == 5


def test_runs_at_once_divide_the_parts(tmp_path: Path) -> None:
    """A part that another run is computing comes last."""
    store, made = Store(tmp_path), []

    def compute(start: int, stop: int) -> Iterator[np.ndarray]:
        made.append(start)
        if start == 8:
            other.__exit__(None, None, None)
        yield np.full((stop - start, 2), start, dtype=np.float32)

    other = store.claim(store.part("key", 4))
    other.__enter__()
    get_or_compute(store, "key", 10, compute, 4)
    assert made == [0, 8, 4]


def test_a_damaged_folder_is_removed_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with new_folder(tmp_path / "a") as folder:
        (folder / "weights").write_bytes(b"12345")
        seal_folder(folder, "a")
    assert is_undamaged(tmp_path / "a")
    clear_damaged(tmp_path / "a")
    spoil(tmp_path / "a" / "weights")
    assert not is_undamaged(tmp_path / "a")
    clear_damaged(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert "weights is damaged" in capsys.readouterr().err


def test_a_lock_has_one_owner_and_ends_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    target = store.record("x")
    code = f"""
import os
from pathlib import Path
from harness.storage.store import Store, new_folder
store = Store(Path({str(tmp_path)!r}))
with store.claim(store.record("x")), new_folder(store.record("x")) as folder:
    (folder / "half").touch()
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(BusyError), store.claim(target, wait=False):
            pass
        owner.kill()
    assert len(list(target.parent.glob(".new-x-*"))) == 1
    with store.claim(target, wait=False):
        assert not list(target.parent.glob(".new-x-*")), "what the dead owner left is gone"
    with store.claim(target, wait=False), new_file(tmp_path / "other") as temporary:
        temporary.touch()


def test_a_record_of_a_newer_schema_is_refused_plainly(tmp_path: Path) -> None:
    write_board(tmp_path, ["de"], [Arm("kd-mse", 0.5)], seeds=1, images=20)
    folder = next(tmp_path.rglob("record.json")).parent
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"schema_version": 7, "new": {"thing": 1}}))
    reseal(folder)
    with pytest.raises(
        HarnessError, match=r"record\.json was written by a newer version of this project \(schema 7; this one reads 1\)"
    ):
        load_record(folder)


def test_no_duration_is_measured_by_a_clock_that_can_jump() -> None:
    calls = [
        ast.unparse(node.func)
        for folder in ("harness", "tasks", "encoders", "leaderboards")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert "time.monotonic" in calls
    assert not {"time.time", "time.time_ns", "time.clock_gettime"} & set(calls)


# cells that fail


def test_a_failing_cell_stops_no_other_and_the_closing_table_says_why(
    flickr30k_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = f"{write(tmp_path / 'fragile.py', FRAGILE)}:Fragile"
    words = ("run", "--lang", "de,qu", "--data", str(flickr30k_folder), "--objectives", "", "--resamples", "100")
    store = tmp_path / "store"
    store.mkdir()
    monkeypatch.setenv("FRAGILE", "qillqa")
    done = harness(*words, "--encoder", encoder, store=store)
    assert done.returncode == 1
    assert "English tower on German" in done.stdout
    assert "1 cell failed; all other results are stored" in done.stdout
    assert "Quechua" in done.stdout
    assert "ZeroDivisionError: no such text for me" in done.stdout
    assert "Traceback" in done.stderr, "whoever wrote the encoder sees where it failed"
    assert len(Store(store).records()) == 4
    monkeypatch.delenv("FRAGILE")
    again = harness(*words, "--encoder", encoder, store=store)
    assert again.returncode == 0, again.stderr
    assert len(Store(store).records()) == 5


def test_what_fails_all_cells_alike_is_one_line(flickr30k_folder: Path, tmp_path: Path) -> None:
    encoder = f"{write(tmp_path / 'fragile.py', FRAGILE)}:Fragile"
    store = tmp_path / "store"
    store.mkdir()
    for path in (flickr30k_folder / "flickr30k-images").glob("3*.jpg"):
        path.write_bytes(b"no picture")
    words = ("run", "--lang", "de", "--data", str(flickr30k_folder), "--objectives", "", "--encoder", encoder)
    done = harness(*words, store=store)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "31.jpg cannot be decoded" in done.stderr


def test_a_store_that_can_only_be_read_serves_what_it_has(flickr30k_folder: Path, tmp_path: Path) -> None:
    encoder = f"{write(tmp_path / 'fragile.py', FRAGILE)}:Fragile"
    store = tmp_path / "store"
    store.mkdir()
    words = ("run", "--data", str(flickr30k_folder), "--objectives", "", "--encoder", encoder, "--resamples", "100", "--lang")
    assert harness(*words, "de", store=store).returncode == 0
    shutil.rmtree(store / "locks")
    (store / "locks").write_text("not a folder, so that no lock can be made")
    again = harness(*words, "de", store=store)
    assert again.returncode == 0, again.stderr
    refused = harness(*words, "qu", store=store)
    assert refused.returncode == 1
    assert "cannot be written" in refused.stderr + refused.stdout
