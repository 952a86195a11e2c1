"""Entries of the store appear complete or not at all, and the key of embeddings is a digest of their inputs."""

import contextlib
import errno
import io
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.core.data import Floats
from harness.core.errors import HarnessError
from harness.records.files import load_record
from harness.records.towers import load_card
from harness.statistics.matching import load_records
from harness.storage.embeddings import embed_texts, get_or_compute
from harness.storage.seals import (
    clear_damaged,
    get_or_create_folder,
    is_undamaged,
    load_json_entry,
    seal_folder,
    write_json_entry,
)
from harness.storage.store import BusyError, Store, disk_is_full, new_file, new_folder, remove_leftovers
from tests.support.synthetic_records import Arm, write_board


def make_concurrently(make: Callable[[], object], count: int = 2) -> list[object]:
    """Return the results of `count` threads that make one entry at the same time."""
    barrier, found = threading.Barrier(count), list[object]()

    def work() -> None:
        barrier.wait(30)
        found.append(make())

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_two_concurrent_makers_make_an_entry_once(tmp_path: Path) -> None:
    store, made = Store(tmp_path), list[str]()

    def load(path: Path) -> str | None:
        return path.read_text() if path.exists() else None

    def make(path: Path) -> str:
        made.append("once")
        time.sleep(0.2)
        with new_file(path) as temporary:
            temporary.write_text("entry")
        return "entry"

    assert make_concurrently(lambda: Store(tmp_path).get_or_create(store.trial("x"), load, make)) == ["entry", "entry"]
    assert made == ["once"]


def test_two_concurrent_makers_fill_a_sealed_folder_once(tmp_path: Path) -> None:
    store, filled = Store(tmp_path), list[Path]()

    def fill(folder: Path) -> None:
        filled.append(folder)
        time.sleep(0.2)
        (folder / "numbers").write_text("1")

    place = store.states("key")
    assert make_concurrently(lambda: get_or_create_folder(Store(tmp_path), place, fill)) == [place, place]
    assert len(filled) == 1
    assert filled[0] != place, "it is filled as a temporary folder"
    assert is_undamaged(place)


def test_a_damaged_entry_is_made_again_and_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    place = get_or_create_folder(store, store.states("key"), lambda folder: (folder / "numbers").write_text("1") and None)
    (place / "numbers").write_text("2")
    assert get_or_create_folder(store, place, lambda folder: (folder / "numbers").write_text("3") and None) == place
    assert (place / "numbers").read_text() == "3"
    assert capsys.readouterr().err.count("numbers is damaged") == 1


def test_a_busy_entry_raises_without_waiting(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.trial("x")
    with store.claim(path), pytest.raises(BusyError):
        Store(tmp_path).get_or_create(path, lambda _: None, str, wait=False)
    with store.claim(path):
        assert Store(tmp_path).get_or_create(path, lambda _: "there", str, wait=False) == "there", "it needs no claim"
        assert Store(tmp_path).get_or_create(path, lambda _: None, str, claim=False) == str(path), "another process holds it"


def leftovers(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if "locks" not in path.parts)


def test_a_folder_appears_complete(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert leftovers(tmp_path / "a") == [tmp_path / "a" / "b", tmp_path / "a" / "b" / "file"]


def broken_write(opened: AbstractContextManager[Path], stop: type[BaseException]) -> None:
    with opened as path:
        (path / "inside" if path.is_dir() else path).write_text("new")
        raise stop


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_a_broken_write_leaves_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    for opened in (new_folder(tmp_path / "folder"), new_file(tmp_path / "file")):
        with pytest.raises(stop):
            broken_write(opened, stop)
    assert leftovers(tmp_path) == []


def test_a_broken_write_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(RuntimeError):
        broken_write(new_file(tmp_path / "file"), RuntimeError)
    assert (tmp_path / "file").read_text() == "old"


def test_temporary_files_of_libraries_are_removed(tmp_path: Path) -> None:
    """safetensors writes such a file, and a killed run leaves both."""
    with new_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
        (temporary.parent / ".tmp1").touch()
        shutil.copytree(temporary.parent, temporary.parent.with_name(f"{temporary.parent.name}-killed"))
    assert len(leftovers(tmp_path)) == 4, "the file, and two files of the killed run in their folder"
    remove_leftovers(tmp_path / "file")
    assert leftovers(tmp_path) == [tmp_path / "file"]


def test_a_full_disk_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"the disk is full: .*record"), new_folder(tmp_path / "record"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        "Not enough free space to write 21786112 bytes after offset 128",  # numpy
        "Error while serializing: I/O error: No space left on device (os error 28)",  # safetensors
    ],
)
def test_messages_of_libraries_about_a_full_disk_are_recognized(tmp_path: Path, words: str) -> None:
    assert disk_is_full(tmp_path / "x", OSError(words))
    assert not disk_is_full(tmp_path / "x", OSError("something else"))


def test_unknown_errors_on_a_full_disk_are_blamed_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    assert disk_is_full(tmp_path / "x", RuntimeError("something else"))


def test_a_store_that_cannot_be_written_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file, not a folder")
    with pytest.raises(HarnessError, match="cannot be written"), new_file(tmp_path / "store" / "x" / "y"):
        raise AssertionError("not reached")


@pytest.fixture
def group_umask() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


@pytest.mark.usefixtures("group_umask")
def test_entries_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    """In a folder that a group shares, entries belong to the group, which may write them."""
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(0o2775)
    store, matrix = Store(root), np.ones((3, 4), np.float32)
    get_or_compute(store, "key", 3, lambda start, stop: iter([matrix[start:stop]]), 9)
    with store.claim(store.record("x")), new_folder(store.record("x")) as folder:
        (folder / "record.json").write_text("{}")
        save_file({"a": matrix}, folder / "a.safetensors")
        seal_folder(folder, "x")
    write_json_entry(store.trial("x"), 1.0)
    found = {path.relative_to(root).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*")}
    assert {name: mode for name, mode in found.items() if (root / name).is_dir() and mode != 0o2775} == {}
    files = {name: mode for name, mode in found.items() if (root / name).is_file()}
    assert len(files) == 7
    assert {name: oct(mode) for name, mode in files.items() if mode != 0o664} == {}


def as_user(user: int, work: Callable[[], str]) -> str:
    """Return the result of work in another process without root's rights: a user of group 4000 if this process is root."""
    there, here = os.pipe()
    if os.fork():
        os.close(here)
        os.wait()
        with os.fdopen(there) as said:
            return said.read()
    try:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(4000)
            os.setuid(user)
        os.umask(0o002)
        said = work()
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    os.write(here, said.encode())
    os._exit(0)


@pytest.fixture
def shared() -> Iterator[Store]:
    """A store in a folder that all users can reach, of group 4000 if this process is root."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        (Path(name) / "store").mkdir()
        if os.geteuid() == 0:
            os.chown(Path(name) / "store", 4001, 4000)
        (Path(name) / "store").chmod(0o2775)
        yield Store(Path(name) / "store")


def computed(store: Store, value: float) -> str:
    """Return stored embeddings. Without any, all numbers are `value`."""
    found = get_or_compute(store, "key", 3, lambda start, stop: iter([np.full((stop - start, 2), value, np.float32)]), 2)
    return str(found[0, 0])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_two_users_of_a_group_share_a_store(shared: Store) -> None:
    assert as_user(4001, lambda: computed(shared, 1.0)) == "1.0"
    assert as_user(4002, lambda: computed(shared, 2.0)) == "1.0", "one user reads the embeddings of the other"
    path = shared.embeddings("key")
    path.write_bytes(path.read_bytes()[:-1])
    assert as_user(4002, lambda: computed(shared, 3.0)) == "3.0", "one user replaces the damaged embeddings of the other"
    assert as_user(4001, lambda: computed(shared, 4.0)) == "3.0"
    with_folder = lambda value: stored_folder(shared, value)  # noqa: E731
    assert as_user(4001, lambda: with_folder("a")) == "a"
    shared.record("x").joinpath("file").write_text("?")
    assert as_user(4002, lambda: with_folder("b")) == "b"


def stored_folder(store: Store, value: str) -> str:
    """Return the text in a stored, sealed folder. Without any, it is `value`."""
    folder = store.record("x")
    if not is_undamaged(folder):
        with store.claim(folder):
            clear_damaged(folder)
            with new_folder(folder) as temporary:
                (temporary / "file").write_text(value)
                seal_folder(temporary, "x")
    return (folder / "file").read_text()


UNREADABLE = {
    "a record": (lambda store: load_record(store.record("x")), "records/x/record.json"),
    "a seal": (lambda store: is_undamaged(store.tower("x")), "towers/x/weights"),
    "embeddings": (lambda store: computed(store, 1.0), "embeddings/key.safetensors"),
    "a trial": (lambda store: load_json_entry(store.trial("x")), "trials/x.json"),
    "a card": (lambda store: load_card(store.tower("x")), "towers/x/card.json"),
    "a list": (lambda store: store.records(), "records"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_unreadable_entries_are_not_damaged(what: str, shared: Store) -> None:
    """The error names the missing permission. The entry is neither removed nor made again."""
    computed(shared, 2.0)
    write_json_entry(shared.trial("x"), 1.0)
    for folder, name in ((shared.record("x"), "record.json"), (shared.tower("x"), "weights")):
        with new_folder(folder) as temporary:
            (temporary / name).write_text("{}")
            (temporary / "card.json").write_text("{}")
            seal_folder(temporary, "x")
    read, name = UNREADABLE[what]
    (shared.root / name).chmod(0)
    said = as_user(4002, lambda: str(read(shared)))
    assert said.startswith(f"HarnessError: {shared.root / name} may not be read by this user"), said
    assert "chmod -R g+rwX" in said
    (shared.root / name).chmod(0o755)
    assert computed(shared, 3.0) == "2.0"


def test_a_comparison_names_the_record_that_may_not_be_read(shared: Store) -> None:
    """The other records are read. `Path.rglob` would skip such a folder silently."""
    write_board(shared.root / "records", ["de"], [Arm("kd-mse", 0.5)], seeds=1, images=20)
    first, other = shared.records()
    first.chmod(0)

    def noted() -> str:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            return f"{[entry.folder.name for entry in load_records(shared.root)]} {said.getvalue()}"

    said = as_user(4002, noted)
    first.chmod(0o755)
    assert said.startswith(f"['{other.name}'] note: skipped: {first} may not be read by this user"), said


class Tower:
    """A text encoder that counts its calls."""

    def __init__(self, weights: str, value: float = 1.0) -> None:
        self.weights, self.value, self.calls = weights, value, 0

    def fingerprint(self) -> str:
        return self.weights

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        self.calls += 1
        return np.full((len(texts), 2), self.value, dtype=np.float32)


def test_embeddings_are_computed_once(tmp_path: Path) -> None:
    tower, store = Tower("w"), Store(tmp_path)
    first = embed_texts(tower, ["a", "b"], "de", store)
    np.testing.assert_array_equal(embed_texts(tower, ["a", "b"], "de", store), first)
    assert tower.calls == 1


@pytest.mark.parametrize(
    ("weights", "texts", "lang"), [("other", ["a", "b"], "de"), ("w", ["ab", ""], "de"), ("w", ["a", "b"], "fr")]
)
def test_new_weights_texts_or_language_are_new_embeddings(tmp_path: Path, weights: str, texts: list[str], lang: str) -> None:
    store = Store(tmp_path)
    embed_texts(Tower("w"), ["a", "b"], "de", store)
    other = Tower(weights, 2.0)
    assert embed_texts(other, texts, lang, store)[0, 0] == 2.0
    assert other.calls == 1


def test_embeddings_that_are_not_finite_are_refused_and_not_stored(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="NaN or infinity for 2 of 2 items"):
        embed_texts(Tower("w", np.nan), ["a", "b"], "de", Store(tmp_path))
    assert leftovers(tmp_path) == []
