"""The Hugging Face hub's cache: complete copies, incomplete copies, and requests. There is no network here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.core.builtins import load_encoder
from harness.core.errors import HarnessError
from harness.encoders.hub import hub_folder, missing_files, partial_downloads
from harness.encoders.hugging_face.text_tower_pairs import TextTowerPair, module_files

REPO = "someone/model"
CHOICES = (("config.json", "model*.safetensors"), ("config.json", "pytorch_model*.bin"))
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A repository in a cache of the hub, with an empty snapshot; no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--someone--model"
    for part in ("refs", "blobs", "snapshots/0123"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123")
    return folder


def put(place: Path, name: str, content: str = "{}") -> Path:
    """A file of the snapshot: a link to its blob."""
    blob = place / "blobs" / f"blob-of-{name.replace('/', '-')}"
    blob.write_text(content)
    link = place / "snapshots" / "0123" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(blob)
    return blob


def find() -> Path:
    return hub_folder(REPO, CHOICES, f"hf:{REPO}")


def refused(words: str) -> None:
    with pytest.raises(HarnessError) as caught:
        find()
    assert words in str(caught.value)
    assert f"complete it with: hf download {REPO}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_whole_copy_is_used(place: Path) -> None:
    put(place, "config.json")
    put(place, "model.safetensors")
    assert find() == place / "snapshots" / "0123"


@pytest.mark.parametrize("kept", SHARDS)
def test_a_missing_shard_is_named(place: Path, kept: str) -> None:
    put(place, "config.json")
    put(place, "model.safetensors.index.json", json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}))
    put(place, kept)
    (lost,) = set(SHARDS) - {kept}
    refused(f"incomplete: {lost} is missing")
    put(place, lost)
    assert find().is_dir()


def test_an_index_of_weights_that_nobody_asked_for_promises_nothing(place: Path) -> None:
    put(place, "config.json")
    put(place, "model.safetensors")
    index = json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}})
    put(place, "pytorch_model.bin.index.json", index)
    put(place, "model.safetensors.index.json", json.dumps({"weight_map": {"a": SHARDS[0]}}))
    assert find().is_dir()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer_config.json"])
def test_a_link_without_its_end_is_named(place: Path, name: str) -> None:
    blobs = {each: put(place, each) for each in ("config.json", "model.safetensors", "tokenizer_config.json", "flax.msgpack")}
    blobs["flax.msgpack"].unlink()  # nothing that is read
    assert find().is_dir()
    blobs[name].unlink()
    refused(f"incomplete: {name} is missing")


def test_a_download_that_was_broken_off_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place, "config.json")
    (place / "blobs" / "abc.0011.incomplete").write_bytes(b"half")
    refused("incomplete: blobs/abc.0011.incomplete is unfinished")
    put(place, "model.safetensors")
    refused("or delete it if it belongs to a file that is not needed")
    monkeypatch.setattr("harness.encoders.hub.hub_answers", lambda _: True)
    assert find().is_dir(), "the hub has looked for what is needed"
    monkeypatch.undo()
    (place / "blobs" / "abc").write_bytes(b"whole")  # a later download brought it
    assert partial_downloads(place / "snapshots" / "0123") == []


def test_what_the_network_completes_is_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place, "config.json")
    asked: list[bool] = []

    def download(*_: str, local_files_only: bool, **options: list[str]) -> str:
        assert list(options) == ["allow_patterns"]
        asked.append(local_files_only)
        if not local_files_only:
            put(place, "model.safetensors")
        return str(place / "snapshots" / "0123")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert find().is_dir()
    assert asked == [True, True, False]


def test_what_the_hub_s_own_list_lacks_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = pytest.importorskip("huggingface_hub.errors")
    if not hasattr(errors, "IncompleteSnapshotError"):
        pytest.skip("this huggingface_hub keeps no list of files")
    words = (
        "The cached snapshot is incomplete: 2 file(s) are missing (model.safetensors, vocab.txt). Outgoing traffic is disabled"
    )

    def download(*_: str, **__: Any) -> str:
        raise errors.IncompleteSnapshotError(words, snapshot_path=str(place))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    refused("incomplete: model.safetensors (and 1 more) is missing")


def test_missing_files_of_patterns(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").symlink_to(tmp_path / "nowhere")
    assert missing_files(tmp_path, ["1_Pooling/*"]) == ["1_Pooling/config.json"]
    assert missing_files(tmp_path, ["2_Dense/*"]) == []


def modules(*paths: str) -> str:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize", "0_T": "Transformer"}
    return json.dumps([{"path": path, "type": f"sentence_transformers.models.{kinds[path]}"} for path in paths])


def test_sentence_transformers_towers_are_asked_for_with_the_weights_of_their_root(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(modules("", "1_Pooling", "2_Dense", "3_Normalize"))
    within = ("modules.json", "1_Pooling/*", "2_Dense/*")
    assert module_files(tmp_path) == [(*within, "model*.safetensors"), (*within, "pytorch_model*.bin")]
    (tmp_path / "modules.json").write_text(modules("0_T", "1_Pooling"))
    assert module_files(tmp_path) == [("modules.json", "0_T/*", "1_Pooling/*", "modules.json")]


def test_a_cached_tower_without_its_root_s_weights_is_not_taken_for_whole(place: Path) -> None:
    put(place, "modules.json", modules("", "1_Pooling", "3_Normalize"))
    put(place, "1_Pooling/config.json")
    tower = load_encoder(f"text:{REPO}+sample", "cpu")
    assert isinstance(tower, TextTowerPair)
    with pytest.raises(HarnessError, match=f"text:{REPO}: its files are not on this machine"):
        _ = tower.folder
    put(place, "model.safetensors")
    assert load_encoder(f"text:{REPO}+sample", "cpu").folder == place / "snapshots" / "0123"  # type: ignore[attr-defined]
