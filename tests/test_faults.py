"""Whatever interrupts a run, the next one ends as if nothing had: small rounds of `python -m tests.faults`, and single faults."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_up import Arm, write_board
from test_plugins import harness, write
from test_security import ROOT

from harness.api import HarnessError
from harness.embeddings import stored
from harness.record import load_record
from harness.store import BusyError, Store, is_whole, new_file, new_folder, seal


def may_mount(place: Path) -> bool:
    """Whether this machine lets a process have disks of its own."""
    words = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(place)]
    return bool(shutil.which("unshare")) and subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("words", [("kills", "2"), ("pairs", "1"), ("writes", "3"), ("disks", "3")])
def test_a_disturbed_run_ends_as_an_undisturbed_one(words: tuple[str, str], tmp_path: Path) -> None:
    if words[0] == "disks" and not may_mount(tmp_path):
        pytest.skip("disks of its own need `unshare` and the right to mount in it")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.faults", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{words[1]} {words[0]}, 0 of which went wrong" in done.stdout


# what lies in the store


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
        assert np.array_equal(stored(store, "key", 3, compute, 9), matrix)
    assert len(calls) == 1
    spoil(store.embeddings("key"))
    assert np.array_equal(stored(store, "key", 3, compute, 9), matrix)
    assert len(calls) == 2
    assert "key.safetensors is damaged (it is not what was written): it is computed again" in capsys.readouterr().err
    assert np.array_equal(stored(store, "key", 3, compute, 9), matrix)
    assert len(calls) == 2


def test_rows_are_kept_in_parts_as_they_are_made(tmp_path: Path) -> None:
    store, matrix, made = Store(tmp_path), np.arange(20, dtype=np.float32).reshape(10, 2), []

    def compute(start: int, stop: int) -> Iterator[np.ndarray]:
        made.append((start, stop))
        if len(made) == 3:
            raise KeyboardInterrupt
        yield matrix[start:stop]

    with pytest.raises(KeyboardInterrupt):
        stored(store, "key", 10, compute, 4)
    assert made == [(0, 4), (4, 8), (8, 10)]
    spoil(store.part("key", 4))
    assert np.array_equal(stored(store, "key", 10, compute, 4), matrix)
    assert made[3:] == [(4, 8), (8, 10)], "the part that is whole is not made again, the damaged one is"
    assert not store.part("key", 0).parent.exists()
    assert np.array_equal(stored(store, "key", 10, compute, 4), matrix)
    assert len(made) == 5


def test_runs_at_once_divide_the_parts(tmp_path: Path) -> None:
    """A part that another run is at is left for last."""
    store, made = Store(tmp_path), []

    def compute(start: int, stop: int) -> Iterator[np.ndarray]:
        made.append(start)
        if start == 8:
            other.__exit__(None, None, None)
        yield np.full((stop - start, 2), start, dtype=np.float32)

    other = store.claim(store.part("key", 4))
    other.__enter__()
    stored(store, "key", 10, compute, 4)
    assert made == [0, 8, 4]


def test_a_damaged_folder_is_removed_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with new_folder(tmp_path / "a") as folder:
        (folder / "weights").write_bytes(b"12345")
        seal(folder)
    assert is_whole(tmp_path / "a")
    spoil(tmp_path / "a" / "weights")
    assert not is_whole(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert "weights is damaged" in capsys.readouterr().err


def test_a_lock_has_one_owner_and_ends_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    target = store.record("x")
    code = f"""
import os
from pathlib import Path
from harness.store import Store, new_folder
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

FRAGILE = """
    import os
    import numpy as np
    from harness import fingerprint

    class Fragile:
        name = "fragile"
        def __init__(self, argument, device):
            self.word = os.environ.get("FRAGILE", "nothing")
        def fingerprint(self):
            return fingerprint(Fragile)
        def encode_images(self, images):
            return np.stack([np.asarray(image, dtype=np.float32).mean((0, 1)) for image in images])
        def encode_texts(self, texts, lang):
            if any(self.word in text for text in texts):
                raise ZeroDivisionError("no such text for me")
            return np.array([[len(text), len(set(text)), 1] for text in texts], dtype=np.float32)
"""


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
    assert "1 cell failed; the others are kept, and the same command tries these again" in done.stdout
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
