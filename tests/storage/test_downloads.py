"""Downloads from a server on this machine: they resume, are checked and listed, and report a missing network."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from harness.core.data import Download
from harness.core.errors import HarnessError
from harness.storage.downloads import LEDGER, fetch_all, fetch_file
from harness.tasks.caption_sources import catalogue
from harness.tasks.flickr30k import Flickr30k
from harness.tasks.xtd import xtd
from tests.support.command_line import ROOT, environment

BODY = b"eine Zeile\n" * 9_000


@dataclass
class Server:
    """Serves every path with one body. It sends half of it while `breaks` lasts, and records the requests."""

    url: str = ""
    body: bytes = BODY
    etag: str = '"one"'
    breaks: int = 0
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            if self.path == "/gone":
                self.send_error(404)
                return
            start = 0
            if asked and self.headers.get("If-Range") == state.etag:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
            else:
                self.send_response(200)
            rest = state.body[start:]
            self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            if state.breaks:
                state.breaks -= 1
                rest = rest[: len(rest) // 2]
            self.wfile.write(rest)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        state.url = f"http://127.0.0.1:{listening.server_address[1]}"
        Thread(target=listening.serve_forever, daemon=True).start()
        yield state
        listening.shutdown()


def file_of(server: Server, path: str = "multi30k/train.de", sha256: str | None = None, page: str = "/train.de") -> Download:
    return Download(path, server.url + page, "multi30k", "none stated", sha256)


def test_a_file_is_downloaded_once_and_listed(server: Server, tmp_path: Path) -> None:
    counted: list[int] = []
    assert fetch_all([file_of(server)], tmp_path, counted.append) == 1
    assert (tmp_path / "multi30k" / "train.de").read_bytes() == BODY
    assert fetch_all([file_of(server)], tmp_path, counted.append) == 0
    assert (server.asked, counted) == ([None], [1, 1])
    entry = json.loads((tmp_path / LEDGER).read_text())["multi30k/train.de"]
    assert entry.pop("fetched")
    assert entry == {
        "url": server.url + "/train.de",
        "sha256": hashlib.sha256(BODY).hexdigest(),
        "bytes": len(BODY),
        "licence": "none stated",
    }
    assert sorted(path.name for path in tmp_path.rglob("*")) == [LEDGER, "multi30k", "train.de"]


def test_a_broken_download_resumes(server: Server, tmp_path: Path) -> None:
    server.breaks = 2
    for _ in range(2):
        with pytest.raises(HarnessError, match=r"broke off"):
            fetch_file(file_of(server), tmp_path)
        assert not (tmp_path / "multi30k" / "train.de").exists()
    assert fetch_file(file_of(server), tmp_path)
    assert (tmp_path / "multi30k" / "train.de").read_bytes() == BODY
    half = len(BODY) // 2
    assert server.asked == [None, f"bytes={half}-", f"bytes={half + (len(BODY) - half) // 2}-"]


def test_a_file_that_changed_on_the_server_starts_over(server: Server, tmp_path: Path) -> None:
    server.breaks = 1
    with pytest.raises(HarnessError, match="broke off"):
        fetch_file(file_of(server), tmp_path)
    server.body, server.etag = BODY[::-1], '"two"'
    fetch_file(file_of(server), tmp_path)
    assert (tmp_path / "multi30k" / "train.de").read_bytes() == BODY[::-1]


def test_a_published_checksum_is_enforced(server: Server, tmp_path: Path) -> None:
    right, wrong = hashlib.sha256(BODY).hexdigest(), "0" * 64
    with pytest.raises(HarnessError, match=rf"sent a file of SHA-256 {right}, expected {wrong}: it was deleted"):
        fetch_file(file_of(server, sha256=wrong), tmp_path)
    assert not list((tmp_path / "multi30k").iterdir())
    assert fetch_file(file_of(server, sha256=right), tmp_path)


def test_a_locally_changed_file_is_named(server: Server, tmp_path: Path) -> None:
    fetch_file(file_of(server), tmp_path)
    target = tmp_path / "multi30k" / "train.de"
    target.write_bytes(b"edited")
    with pytest.raises(HarnessError, match=rf"{re.escape(str(target))} differs from the file of .*: delete it"):
        fetch_file(file_of(server), tmp_path)


def test_a_refusal_and_a_lost_connection_are_one_line_errors(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"/gone: the server answers 404 Not Found; see `list sources`"):
        fetch_file(file_of(server, page="/gone"), tmp_path)
    nobody = Download("a/b.txt", "http://127.0.0.1:9/b.txt", "multi30k", "none stated")
    with pytest.raises(
        HarnessError, match=r"no network, or it broke off: http://127\.0\.0\.1:9/b\.txt .*put the file at .*b\.txt y"
    ):
        fetch_file(nobody, tmp_path)


# what can be downloaded


def paths(*languages: str, source: str | None = None) -> set[str]:
    return {item.path for item in Flickr30k().downloads(languages or None, source)}


def test_a_language_includes_the_lists_and_english_that_it_needs() -> None:
    quechua = paths("qu", source="multiscript30k")
    assert quechua == {
        *(f"multiscript30k/multi30k-dataset-en-qu/{split}.qu" for split in ("train", "val", "test_2016_flickr")),
        *(f"multi30k/data/task1/image_splits/{split}.txt" for split in ("train", "val", "test_2016_flickr")),
        *(f"multi30k/data/task1/raw/{split}.en.gz" for split in ("train", "val", "test_2016_flickr")),
    }
    assert {"flickr30k-200/filenames.txt", "flickr30k-200/eng_captions.txt", "flickr30k-200/swh_Latn.txt"} == paths("sw")
    assert "multi30k/data/task2/raw/test_2016.5.de.gz" in paths("de")
    assert len(paths(source="flickr30k-200")) == 203
    assert {item.path for item in xtd().downloads(["ja"], "xtd10-stair")} == {
        "XTD10/test_image_names.txt",
        "STAIR/test_1kcaptions_jp.txt",
    }


def test_xtd10_is_downloaded_from_its_publisher() -> None:
    """The publisher moved English from MIC/ to XTD10/. German and French stayed, and Japanese is in STAIR/."""
    found = {item.path: item.url.partition("/HEAD/")[2] for item in xtd().downloads(None) if "XTD10/HEAD" in item.url}
    seven = {f"XTD10/test_1kcaptions_{code}.txt" for code in ("en", "es", "it", "ko", "pl", "ru", "tr", "zh")}
    older = {"MIC/test_1kcaptions_de.txt", "MIC/test_1kcaptions_fr.txt", "STAIR/test_1kcaptions_jp.txt"}
    assert set(found) == seven | older | {"XTD10/test_image_names.txt"}
    assert all(path == address for path, address in found.items())
    assert {item.path for item in xtd().downloads(["es"], "xtd10")} == {
        "XTD10/test_image_names.txt",
        "XTD10/test_1kcaptions_en.txt",
        "XTD10/test_1kcaptions_es.txt",
    }


def test_every_address_is_complete_and_every_path_stays_in_the_folder() -> None:
    for task in (Flickr30k(), xtd()):
        for item in task.downloads(None):
            assert item.url.startswith("https://")
            assert not re.search(r"[{}]", item.url + item.path)
            assert ".." not in Path(item.path).parts
            assert item.licence


def test_downloads_are_the_files_that_readers_expect() -> None:
    for source in catalogue().sources.values():
        own = {item.path.removesuffix(".gz") for item in source.downloads}
        assert not own or source.files in own, source.name


def test_the_command_lists_its_downloads_and_reports_a_missing_network(tmp_path: Path) -> None:
    import subprocess
    import sys

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = environment(tmp_path) | {"https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
        command = [sys.executable, "-m", "harness", "data", "fetch", "--data", str(tmp_path / "data"), *words]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    dry = run("--lang", "qu", "--source", "multiscript30k", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert re.search(r"multiscript30k +3 +0 +none stated +https://", dry.stdout)
    assert not (tmp_path / "data").exists()
    offline = run("--lang", "tr", "--source", "xflickrco")
    assert offline.returncode == 1
    assert re.fullmatch(r"error: no network, or it broke off: https://.*\n", offline.stderr)
    assert "nothing to fetch is named" in run().stderr
    assert "the source 'karpathy' has no downloads" in run("--source", "karpathy").stderr
