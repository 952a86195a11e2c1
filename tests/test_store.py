"""Entries of the store appear whole or not at all, and embeddings are found by what they were made of."""

import errno
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from harness.api import Floats, HarnessError
from harness.embeddings import embed_texts
from harness.store import Store, disk_is_full, new_file, new_folder, sweep


def leftovers(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if "locks" not in path.parts)


def test_a_folder_appears_whole(tmp_path: Path) -> None:
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


def test_what_a_library_writes_beside_a_new_file_goes_with_it(tmp_path: Path) -> None:
    """safetensors does so, and a run that is killed meanwhile leaves both."""
    with new_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
        (temporary.parent / ".tmp1").touch()
        shutil.copytree(temporary.parent, temporary.parent.with_name(f"{temporary.parent.name}-killed"))
    assert len(leftovers(tmp_path)) == 4, "the file, and the two of the killed run in their folder"
    sweep(tmp_path / "file")
    assert leftovers(tmp_path) == [tmp_path / "file"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
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
def test_libraries_tell_of_a_full_disk_in_words(tmp_path: Path, words: str) -> None:
    assert disk_is_full(tmp_path / "x", OSError(words))
    assert not disk_is_full(tmp_path / "x", OSError("something else"))


def test_an_error_that_tells_nothing_on_a_full_disk_is_put_down_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    assert disk_is_full(tmp_path / "x", RuntimeError("something else"))


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file, not a folder")
    with pytest.raises(HarnessError, match="cannot be written"), new_file(tmp_path / "store" / "x" / "y"):
        raise AssertionError("not reached")


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


def test_embeddings_that_are_not_finite_are_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="NaN or infinity for 2 of 2 items"):
        embed_texts(Tower("w", np.nan), ["a", "b"], "de", Store(tmp_path))
    assert leftovers(tmp_path) == []
