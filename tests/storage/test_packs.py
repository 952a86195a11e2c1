"""Packs of shards, texts and a manifest: read from folders and addresses, refused if anything is missing or duplicated."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import webdataset

from harness.core.errors import HarnessError
from harness.evaluation.data_folders import data_folder
from harness.storage.packs import MANIFEST, Manifest, is_pack, open_pack, write_pack
from harness.storage.store import Store
from harness.tasks.flickr30k import Flickr30k
from tests.support.flickr30k_folders import captions_of

TASK = Flickr30k()


@pytest.fixture
def pack(flickr30k_folder: Path, tmp_path: Path) -> Path:
    """A pack of six images in three shards."""
    out = tmp_path / "pack"
    write_pack(TASK.contents(flickr30k_folder), flickr30k_folder, "flickr30k", out, 2, lambda _: None)
    return out


@pytest.fixture
def address(pack: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(pack.parent))) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}/{pack.name}"
        listening.shutdown()


def rewritten(pack: Path, **changes: object) -> None:
    path = pack / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# round trips


def test_a_manifest_counts_and_digests(pack: Path) -> None:
    manifest = Manifest.model_validate_json((pack / MANIFEST).read_text())
    assert (manifest.task, manifest.samples, [shard.samples for shard in manifest.shards]) == ("flickr30k", 6, [2, 2, 2])
    with tarfile.open(pack / "texts.tar") as tar:
        assert {"dataset_flickr30k.json", "multi30k/data/task1/raw/val.de"} <= set(tar.getnames())
    assert all(len(part.sha256) == 64 for part in (*manifest.shards, manifest.texts))


def test_packing_twice_gives_the_same_bytes(pack: Path, flickr30k_folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_pack(TASK.contents(flickr30k_folder), flickr30k_folder, "flickr30k", again, 2, lambda _: None)
    assert (again / MANIFEST).read_bytes() == (pack / MANIFEST).read_bytes()


def test_shards_are_read_by_webdataset(flickr30k_folder: Path, tmp_path: Path) -> None:
    contents, out = TASK.contents(flickr30k_folder), tmp_path / "100%d: new"
    write_pack(contents, flickr30k_folder, "flickr30k", out, 10, lambda _: None)
    samples = list(webdataset.WebDataset([str(out / "shards" / "flickr30k-000000.tar")], shardshuffle=False))
    assert {f"{sample['__key__']}.jpg": sample["jpg"] for sample in samples} == {
        name: read() for name, read in contents.pictures.items()
    }


def same_problem(opened: Path, folder: Path) -> None:
    for lang in ("en", "de", "qu"):
        ours, theirs = TASK.load(opened, lang, "test"), TASK.load(folder, lang, "test")
        assert captions_of(ours) == captions_of(theirs)
        assert (ours.images.digest(), ours.texts_digest()) == (theirs.images.digest(), theirs.texts_digest())
    assert TASK.load_bitext(opened, "de").digest() == TASK.load_bitext(folder, "de").digest()


def test_a_pack_in_a_folder_equals_its_source(pack: Path, flickr30k_folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    opened = data_folder(TASK, "flickr30k", str(pack), store)
    same_problem(opened, flickr30k_folder)
    assert data_folder(TASK, "flickr30k", str(pack), store) == opened
    assert data_folder(TASK, "flickr30k", str(flickr30k_folder), store) == flickr30k_folder
    assert all(path.is_symlink() for path in (opened / "shards").iterdir()), "shards are linked"


def test_a_pack_at_an_address_equals_its_source(address: str, flickr30k_folder: Path, tmp_path: Path) -> None:
    assert is_pack(address)
    store = Store(tmp_path / "store")
    opened = open_pack(address, store)
    same_problem(opened, flickr30k_folder)
    assert open_pack(address + "/", store) == opened


@pytest.mark.usefixtures("pack")
def test_s3_is_read_by_the_aws_command(flickr30k_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aws = tmp_path / "bin" / "aws"
    aws.parent.mkdir()
    aws.write_text(f'#!/bin/sh\n[ "$1 $2 $4" = "s3 cp -" ] && exec cat "{tmp_path}/${{3#s3://bucket/}}"\n')
    aws.chmod(0o755)
    monkeypatch.setenv("PATH", f"{aws.parent}{os.pathsep}{os.environ['PATH']}")
    same_problem(open_pack("s3://bucket/pack", Store(tmp_path / "store")), flickr30k_folder)


@pytest.mark.usefixtures("pack")
def test_errors_of_aws_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aws = tmp_path / "bin" / "aws"
    aws.parent.mkdir()
    aws.write_text("#!/bin/sh\necho fatal: no such >&2\necho bucket >&2\nexit 1\n")
    aws.chmod(0o755)
    monkeypatch.setenv("PATH", f"{aws.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(HarnessError, match=r"status 1: fatal: no such bucket\): check the address") as caught:
        open_pack("s3://bucket/$(touch pwned)", Store(tmp_path / "store"))
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HarnessError, match=r"cannot be read \(.*'aws'"):
        open_pack("s3://bucket/pack", Store(tmp_path / "store"))


# what is refused


def test_a_shard_named_twice_is_refused_and_overwrites_nothing(pack: Path, tmp_path: Path) -> None:
    """Writing through the link to the first shard would have emptied the pack's own shard."""
    first = json.loads((pack / MANIFEST).read_text())["shards"][0]
    rewritten(pack, shards=[first, first], samples=4)
    before = (pack / first["name"]).read_bytes()
    with pytest.raises(HarnessError, match=r"names shards/flickr30k-000000\.tar more than once"):
        open_pack(str(pack), Store(tmp_path / "store"))
    assert (pack / first["name"]).read_bytes() == before


def test_a_pipe_in_a_pack_is_refused(pack: Path, tmp_path: Path) -> None:
    (pack / "texts.tar").unlink()
    os.mkfifo(pack / "texts.tar")
    with pytest.raises(HarnessError, match=r"texts\.tar is a FIFO: expected a plain file"):
        open_pack(str(pack), Store(tmp_path / "store"))


def linked_out(folder: Path, name: str, elsewhere: Path) -> None:
    shutil.move(folder / name, elsewhere)
    (folder / name).symlink_to(elsewhere)


@pytest.mark.parametrize("name", ["dataset_flickr30k.json", "flickr30k-images/31.jpg", "flickr30k-images", "multi30k"])
def test_links_that_lead_outside_are_refused(name: str, flickr30k_folder: Path, tmp_path: Path) -> None:
    linked_out(flickr30k_folder, name, tmp_path / "private")
    with pytest.raises(
        HarnessError, match=rf"is a link to {re.escape(str(tmp_path))}/private.*, outside of .*: replace it by the file"
    ) as told:
        write_pack(TASK.contents(flickr30k_folder), flickr30k_folder, "flickr30k", tmp_path / "out", 10, lambda _: None)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_links_inside_the_folder_are_followed(flickr30k_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = write_pack(TASK.contents(flickr30k_folder), flickr30k_folder, "flickr30k", tmp_path / "plain", 10, lambda _: None)
    linked_out(flickr30k_folder, "flickr30k-images/31.jpg", flickr30k_folder / "31.jpg")
    (tmp_path / "link").symlink_to(flickr30k_folder)
    monkeypatch.chdir(tmp_path)
    data = Path("link")
    assert write_pack(TASK.contents(data), data, "flickr30k", tmp_path / "linked", 10, lambda _: None) == plain


def test_a_pipe_in_a_folder_is_not_packed(flickr30k_folder: Path, tmp_path: Path) -> None:
    contents = TASK.contents(flickr30k_folder)
    (flickr30k_folder / "flickr30k-images" / "31.jpg").unlink()
    os.mkfifo(flickr30k_folder / "flickr30k-images" / "31.jpg")
    with pytest.raises(HarnessError, match=r"31\.jpg is not a regular file"):
        write_pack(contents, flickr30k_folder, "flickr30k", tmp_path / "out", 10, lambda _: None)


def test_an_opened_pack_can_be_packed_again(pack: Path, flickr30k_folder: Path, tmp_path: Path) -> None:
    """The shards of an opened pack are links that lead outside its folder."""
    opened = open_pack(str(pack), Store(tmp_path / "store"))
    again = write_pack(TASK.contents(opened), opened, "flickr30k", tmp_path / "again", 10, lambda _: None)
    assert again == write_pack(TASK.contents(flickr30k_folder), flickr30k_folder, "flickr30k", tmp_path / "b", 10, lambda _: None)


def test_a_missing_address_is_a_one_line_error(address: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"nowhere/manifest\.json cannot be read .*check the address") as caught:
        open_pack(address + "/nowhere", Store(tmp_path / "store"))
    assert "\n" not in str(caught.value)


def test_a_missing_truncated_or_changed_shard_is_named(pack: Path, tmp_path: Path) -> None:
    shard = pack / "shards" / "flickr30k-000001.tar"
    whole = shard.read_bytes()
    for spoilt in (whole[:-512], whole[:100] + b"x" + whole[101:]):
        shard.write_bytes(spoilt)
        with pytest.raises(HarnessError, match=rf"{re.escape(str(shard))} differs from the manifest"):
            open_pack(str(pack), Store(tmp_path / "store"))
    shard.unlink()
    with pytest.raises(HarnessError, match=rf"{re.escape(str(shard))} cannot be read"):
        open_pack(str(pack), Store(tmp_path / "store"))
    assert not list((tmp_path / "store").rglob("*.tar")), "no pack is partly opened"


def test_a_dropped_sample_is_found_even_after_the_pack_was_opened(pack: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    open_pack(str(pack), store)
    shard = pack / "shards" / "flickr30k-000000.tar"
    with tarfile.open(shard) as tar:
        first = tar.getmembers()[0]
        content = tar.extractfile(first)
        assert content is not None
        with tarfile.open(tmp_path / "less.tar", "w") as less:
            less.addfile(first, content)
    shutil.copy(tmp_path / "less.tar", shard)
    with pytest.raises(HarnessError, match=r"flickr30k-000000\.tar holds 1 samples, its manifest says 2"):
        open_pack(str(pack), store)


def test_a_duplicated_sample_is_found(pack: Path, tmp_path: Path) -> None:
    manifest = json.loads((pack / MANIFEST).read_text())
    shutil.copy(pack / "shards" / "flickr30k-000000.tar", pack / "shards" / "copy.tar")
    rewritten(pack, shards=[*manifest["shards"], manifest["shards"][0] | {"name": "shards/copy.tar"}], samples=8)
    with pytest.raises(HarnessError, match=r"holds 2 samples more than once, \d\d first"):
        open_pack(str(pack), Store(tmp_path / "store"))


def test_a_manifest_with_other_counts_is_refused(pack: Path, tmp_path: Path) -> None:
    rewritten(pack, samples=7)
    with pytest.raises(HarnessError, match="holds 6 samples, its manifest says 7"):
        open_pack(str(pack), Store(tmp_path / "store"))
    manifest = json.loads((pack / MANIFEST).read_text())
    rewritten(pack, texts=manifest["texts"] | {"name": "../texts.tar"})
    with pytest.raises(HarnessError, match=r"names '\.\./texts\.tar': expected a path inside the pack"):
        open_pack(str(pack), Store(tmp_path / "other"))
    rewritten(pack, samples="many")
    with pytest.raises(HarnessError, match=r"manifest\.json is not a pack's manifest: samples: "):
        open_pack(str(pack), Store(tmp_path / "store"))


def test_an_existing_folder_is_not_overwritten(flickr30k_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="exists: name a new folder"):
        write_pack(TASK.contents(flickr30k_folder), flickr30k_folder, "flickr30k", tmp_path, 2, lambda _: None)
    shutil.rmtree(flickr30k_folder / "flickr30k-images")
    with pytest.raises(HarnessError, match="has no images to pack"):
        write_pack(TASK.contents(flickr30k_folder), flickr30k_folder, "flickr30k", tmp_path / "p", 2, lambda _: None)


def test_files_of_entities_are_packed_too(flickr30k_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(flickr30k_folder, tmp_path / "data")
    names = ["Annotations/1.xml", "Sentences/1.txt", "Sentences_de/1.txt", "UNRELATED_CAPTIONS", "proposals/1.json"]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x", encoding="utf-8")
    assert set(names) <= set(Flickr30k().contents(folder).texts)
