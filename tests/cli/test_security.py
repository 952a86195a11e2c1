"""Untrusted files can neither run code nor fill memory and disk, and no command uses the network without a request."""

from __future__ import annotations

import ast
import gzip
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import Request

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.core.builtins import load_encoder, load_translator
from harness.core.config import ExecutorConfig
from harness.core.data import Download
from harness.core.errors import HarnessError
from harness.core.plugins import load_plugins, without_code
from harness.evaluation.data_folders import data_folder
from harness.evaluation.executors.ray import RAY_ENVIRONMENT, connected, on_ray
from harness.readers.bitext import load_bitext_file
from harness.readers.text_files import read_text
from harness.runtime.console import Console, plain_table
from harness.runtime.markup import escape_controls, escape_formula, escape_json, escape_latex, escape_markdown
from harness.runtime.terminal import Terminal, plain_text
from harness.statistics.matching import weighs_entities
from harness.storage import archives as bombs
from harness.storage.addresses import WebRedirects
from harness.storage.downloads import fetch_file
from harness.storage.packs import MANIFEST, open_pack, write_pack
from harness.storage.store import DamagedError, Store, report_damaged
from harness.tasks.entities.corpus import read_annotation
from harness.tasks.flickr30k import Flickr30k
from harness.tasks.readers.picture_decoding import MAX_PIXELS
from harness.tasks.readers.pictures import Pictures
from harness.tasks.readers.shards import Blob, index_shards
from tests.support.open_clip_models import write_model as write_open_clip
from tests.support.transformers_models import write_mclip
from tests.support.transformers_models import write_model as write_hugging_face
from tests.support.translators import small as write_translator

ROOT = Path(__file__).parents[2]
TASK = Flickr30k()
GERMAN = TASK.language("de")
FOLDERS = ("harness", "tasks", "encoders", "leaderboards")


# every reader


def test_mutated_files_are_read_right_or_refused_in_one_line(tmp_path: Path) -> None:
    """This is a small round. `python -m tests.fuzz 20000` is a large one."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "1000"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"1,0\d\d inputs for \d\d readers", done.stdout)


# addresses

COMMAND = "pipe:touch pwned ://x"
ADDRESSES = [
    COMMAND,
    "pipe:touch pwned://x",
    "file:///etc/passwd",
    "ftp://host/x",
    "gs://x' ; touch pwned '",
    "-o://x",
    "://x",
    "data://,x",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_other_scheme_is_read(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "store")
    monkeypatch.setenv("FLICKR30K_ROOT", address)
    for data in (address, None):
        with pytest.raises(
            HarnessError, match=r"has a scheme that is not allowed: expected one of https://, http://, s3://"
        ) as told:
            data_folder(TASK, "flickr30k", data, store)
        assert "\n" not in str(told.value)
    with pytest.raises(HarnessError, match="expected one of https://, http://, or a path"):
        fetch_file(Download("x.txt", address, "multi30k", "none stated"), tmp_path)
    assert not list(tmp_path.rglob("pwned*"))


DESIGN = """
    lang = "de"
    pairs = ["all"]
    {line}
    [[arms]]
    objective = "kd-mse"
    [[arms]]
    objective = "ot-token"
"""
PLACES = (
    ["run", "--lang", "de", "--dry-run", "--data"],
    ["run", "--lang", "de", "--dry-run", "--bitext"],
    ["run", "--lang", "de", "--dry-run", "--unpaired", "9", "--text"],
    ["run", "--lang", "de", "--dry-run", "--translations"],
    ["run", "--lang", "de", "--dry-run", "--tower"],
    ["run", "--lang", "de", "--dry-run", "--encoder"],
    ["distill", "--lang", "de", "--data"],
    ["distill", "--lang", "de", "--teacher"],
    ["study", "--dry-run"],
    ["study", "sample", "--dry-run", "--data"],
    ["data", "check", "--data"],
    ["data", "pack", "--out", "packed", "--data"],
    ["check", "sample", "--data"],
    ["compare", "ot-token", "kd-mse", "--records"],
    ["towers", "show"],
)


def told_by_harness(*words: str) -> str:
    """Return the standard error of a command that fails."""
    from typer.testing import CliRunner

    from harness.cli.app import app

    done = CliRunner().invoke(app, words)
    assert done.exit_code, (words, done.output)
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
    return done.stderr


@pytest.mark.parametrize("words", PLACES, ids=" ".join)
def test_an_address_runs_nothing_wherever_it_is_given(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_STORE", str(tmp_path / "store"))
    spellings = [COMMAND, f"features:{COMMAND}", f"local-dir:{COMMAND}"] if words[-1] in ("--encoder", "--teacher") else [COMMAND]
    for spelling in spellings:
        told = told_by_harness(*words, spelling).splitlines()
        assert told, spelling
        assert told[-1].startswith("error: "), told
    assert not list(tmp_path.rglob("pwned*"))


@pytest.mark.parametrize("key", ["data", "bitext", "encoder", "text"])
def test_a_study_of_somebody_else_runs_nothing(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_STORE", str(tmp_path / "store"))
    (tmp_path / "theirs.toml").write_text(DESIGN.format(line=f'{key} = "{COMMAND}"'), encoding="utf-8")
    told = told_by_harness("study", "theirs.toml", "--dry-run")
    assert re.fullmatch(r"error: theirs\.toml: .*\n", told)
    assert not list(tmp_path.rglob("pwned*"))


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "FILE:/etc/passwd", "gopher://x/", "data:,x", "pipe:touch pwned"]
)
def test_no_redirect_leads_off_the_web(target: str, tmp_path: Path) -> None:
    class Redirecting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{listening.server_address[1]}/x"
        with pytest.raises(HarnessError, match=r"redirects to .*, which is not followed"):
            open_pack(address, Store(tmp_path / "store"))
        with pytest.raises(HarnessError, match=r"redirects to .*, which is not followed"):
            fetch_file(Download("x.txt", address, "multi30k", "none stated"), tmp_path)
        listening.shutdown()


def test_no_redirect_leaves_https() -> None:
    headers = Message()
    headers["Location"] = "http://host/x"
    with pytest.raises(HarnessError, match="expected https://"):
        WebRedirects().http_error_302(Request("https://host/x"), io.BytesIO(), 302, "Found", headers)  # type: ignore[arg-type]


def test_no_code_of_ours_gives_text_to_a_shell_or_opens_addresses_elsewhere() -> None:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    assert not re.search(
                        r"\b(gopen|urlopen|urlretrieve|os\.system|popen|ShardWriter|getoutput)$", called(node)
                    ), path
                    assert not any(word.arg == "shell" for word in node.keywords), path


# code named in files

EVIL = "from pathlib import Path\nPath('pwned').touch()\nclass X: pass\n"


@pytest.mark.parametrize(
    "line",
    [
        'encoder = "./evil.py:X"',
        'encoder = "fast:evil.py:X:y"',
        'encoder = "text:tower+evil.py:X"',
        'task = "evil.py:X"',
        'chunker = "evil.py:X"',
        '[[arms]]\n objective = "0.5*./evil.py:X + kd-mse"',
    ],
)
def test_a_study_runs_no_code_that_was_not_named_by_its_user(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "theirs.toml").write_text(DESIGN.format(line=line), encoding="utf-8")
    told = told_by_harness("study", "theirs.toml", "--dry-run", "--store", "store")
    assert re.fullmatch(
        r"error: theirs\.toml names code, (\./)?evil\.py: if you trust it, name it yourself with --plugin .*\n", told
    )
    assert not (tmp_path / "pwned").exists()


def test_code_that_the_user_named_may_be_named_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class X: pass\n")
    spec = f"{tmp_path / 'mine.py'}:X"
    with pytest.raises(HarnessError, match="a card names code"):
        without_code(spec, "a card")
    load_plugins([tmp_path / "mine.py"])
    assert without_code(spec, "a card") == spec


def test_comparing_records_runs_no_code_that_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    assert not weighs_entities("./evil.py:X")
    assert weighs_entities("kd-mse + ot-entity")
    assert not (tmp_path / "pwned").exists()


# printed text

MARKED = "a[/b][link=https://x]b[/link]:dog:\x1b]52;c;eA==\x07\x1b[2J\x9b31m\u202e\u2066\r\x08\udce9\n|$x$"
TEXTS = st.text(st.characters(codec=None), max_size=60)


def obeyed(text: str) -> list[str]:
    """Return the characters of a text that control a terminal, except line feeds."""
    controls = [letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs") and letter != "\n"]
    return controls + re.findall("[\u202a-\u202e\u2066-\u2069]", text)


def printed(*what: object, live: bool = False) -> str:
    out = io.StringIO()
    Terminal(file=out, width=200, force_terminal=live, color_system=None).print(*what)
    return out.getvalue()


@settings(deadline=None, max_examples=30)
@given(TEXTS)
def test_every_text_is_shown_and_none_obeyed(text: str) -> None:
    from rich.table import Table
    from rich.text import Text

    assert not obeyed(escape_controls(text))
    assert escape_controls(escape_controls(text)) == escape_controls(text)
    table = Table(text, title=text, caption=text)
    table.add_row(text, Text(text))
    table.add_row(plain_text(text), text)
    assert not obeyed(printed(text, Text(text), table).replace("\n", ""))
    in_json = escape_json(json.dumps(text, ensure_ascii=False))
    cells = [escape_markdown(text), escape_latex(text), str(escape_formula(text)), in_json]
    assert not any(map(obeyed, cells))
    assert not any("\n" in cell for cell in cells)
    assert json.loads(cells[-1]) == text


def test_marks_of_rich_are_shown() -> None:
    assert printed(MARKED.replace("\n", "")) == (
        r"a[/b][link=https://x]b[/link]:dog:\x1b]52;c;eA==\x07\x1b[2J\x9b31m\u202e\u2066\r\x08\udce9|$x$" + "\n"
    )
    assert "[/b]" in printed(plain_table(MARKED, [MARKED], [[MARKED]]))


def test_a_bar_of_progress_shows_marks() -> None:
    console = Console()
    console.err = Terminal(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    with console.stage(f"reads {MARKED}", 2, MARKED) as advance:
        advance(1, MARKED)
    told = console.err.file.getvalue()  # type: ignore[attr-defined]
    assert "]52;c" not in told.replace(r"\x1b]52;c", "")
    assert r"\x1b]52;c" in told
    assert "[/b]" in told


def test_errors_and_notes_are_one_line_that_obeys_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_damaged(DamagedError(MARKED))
    told = capsys.readouterr().err
    assert not obeyed(told)
    assert told.count("\n") == 1
    told = told_by_harness("data", "check", "--data", f"{tmp_path}/\x1b]52;c;x\x07\n[/b]")
    assert rf"{tmp_path}/\x1b]52;c;x\x07\n[/b] does not exist" in told
    assert told.count("\n") == 1


def test_a_store_whose_name_closes_a_mark_keeps_its_table(tmp_path: Path) -> None:
    store = tmp_path / "[" / "b]"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HARNESS_STORE": str(store)}
    words = ["run", "--lang", "de", "--encoder", "random", "--objectives", "", "--resamples", "100"]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"Records: {store}/records" in done.stdout


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "＝", "x;=", " ="])
def test_no_cell_is_a_formula(start: str) -> None:
    cell = escape_formula(f"{start}cmd|'/C calc'!A0")
    assert not re.search(r"(^|;)\s*[=+\-@＝\t\r]", str(cell))


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_numbers_stay_numbers(number: float) -> None:
    assert escape_formula(number) == number
    assert escape_formula(f"{number:.3f}") == f"{number:.3f}"
    assert escape_formula(repr(number)) == repr(number)


def test_one_escaper_a_format() -> None:
    written = escape_markdown("a|b](https://x)<b>`www.x.y` $x$ R@1 a@b.c")
    assert written == r"a\|b\](https\://x)\<b\>\`www\.x.y\` \$x\$ R@1 a\@b.c"
    assert escape_latex("%\n\\input{x}[−]") == r"\%\textbackslash{}n\textbackslash{}input\{x\}{[}$-${]}"


# pickle


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_no_code_of_ours_reads_a_pickle() -> None:
    calls = [
        (path, node)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert not [
        path for path, node in calls if re.fullmatch(r"(pickle|joblib|shelve|marshal)\.loads?|torch\.jit\.load", called(node))
    ]
    for function, keyword, value in (("np.load", "allow_pickle", False), ("torch.load", "weights_only", True)):
        found = [node for _, node in calls if called(node) == function]
        assert found, function
        for node in found:
            (given,) = [word.value for word in node.keywords if word.arg == keyword]
            assert isinstance(given, ast.Constant)
            assert given.value is value


class Harmful:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def poisoned(path: Path, mark: Path, weights: dict[str, Any]) -> None:
    torch.save({**weights, "_extra": Harmful(mark)}, path)


def open_clip_checkpoint(folder: Path, mark: Path) -> str:
    from safetensors.torch import load_file

    write_open_clip(folder, "clip")
    poisoned(folder / "open_clip_pytorch_model.bin", mark, load_file(folder / "open_clip_model.safetensors"))
    (folder / "open_clip_model.safetensors").unlink()
    return f"local-dir:{folder}"


def hugging_face_checkpoint(folder: Path, mark: Path) -> str:
    from safetensors.torch import load_file

    write_hugging_face(folder, "clip")
    poisoned(folder / "pytorch_model.bin", mark, load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    return f"hf:{folder}"


def mclip_checkpoint(folder: Path, mark: Path) -> str:
    folder.mkdir()
    write_mclip(folder)
    poisoned(folder / "pytorch_model.bin", mark, torch.load(folder / "pytorch_model.bin", weights_only=True))
    return f"text:{folder}+sample"


@pytest.mark.parametrize("write", [open_clip_checkpoint, hugging_face_checkpoint, mclip_checkpoint])
def test_a_checkpoint_that_would_run_code_is_refused_and_the_command_given_converts_it(
    write: Callable[[Path, Path], str], tmp_path: Path
) -> None:
    mark = tmp_path / "it ran"
    spec = write(tmp_path / "model", mark)
    with pytest.raises(HarnessError, match="would run code from the file") as caught:
        load_encoder(spec, "cpu").encode_texts(["a dog"], "en")
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    command = str(caught.value).partition("use the result: ")[2]
    assert command.startswith('python -c "import torch')
    # The harmful object is removed, because only tensors can be converted.
    weights = {name: value for name, value in torch.load(old(command), weights_only=False).items() if name != "_extra"}
    torch.save(weights, old(command))
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True, cwd=tmp_path)
    old(command).unlink()
    assert np.isfinite(load_encoder(spec, "cpu").encode_texts(["a dog"], "en")).all()


def test_a_translator_that_would_run_code_is_refused_too(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder, mark = tmp_path / "model", tmp_path / "it ran"
    spec = write_translator(folder, "pair")
    poisoned(folder / "pytorch_model.bin", mark, load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(HarnessError, match="would run code from the file") as caught:
        load_translator(spec, "cpu").translate(["ein Hund"], "de")
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def old(command: str) -> Path:
    found = re.search(r"torch\.load\('([^']+)'", command)
    assert found
    return Path(found[1])


WATCH = """
import sys

def watch(event, arguments):
    if event in ("pickle.find_class", "socket.connect", "socket.getaddrinfo", "os.system"):
        raise RuntimeError(f"{event} {arguments}")

# What numba has compiled it keeps pickled, beside the package: as much a file of others as Python's own bytecode is.
sys.modules["numba"] = None
sys.addaudithook(watch)
from harness.cli.app import main

main()
"""


def test_a_run_reads_no_pickle_and_asks_nothing_of_the_network(flickr30k_folder: Path, tmp_path: Path) -> None:
    hidden = ("FLICKR30K_ROOT", "HF_HUB_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"PYTHONPATH": str(ROOT), "HARNESS_STORE": str(tmp_path)}
    given = ["--data", str(flickr30k_folder), "--encoder", f"local-dir:{ROOT / 'encoders' / 'sample'}"]
    words = ["run", "--lang", "de", *given, "--objectives", "ot-token", "--steps", "2", "--pairs", "2", "--batch", "2"]
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *words], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "ot-token" in done.stdout
    tower = next(tmp_path.glob("towers/*"))
    assert {path.suffix for path in tower.iterdir()} <= {".json", ".safetensors", ".npy"}
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads((tower / "tower.safetensors").read_bytes())


# tar files


def tar(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "leads outside": [("/tmp/11.jpg", b"x"), ("../11.jpg", b"x"), ("a/../../11.jpg", b"x")],
    "is a link": [special("11.jpg", tarfile.SYMTYPE, "/etc/passwd"), special("11.jpg", tarfile.LNKTYPE, "12.jpg")],
    "is not a regular file": [special("11.jpg", tarfile.CHRTYPE), special("11.jpg", tarfile.FIFOTYPE)],
    "is too long": [("a" * 300 + ".jpg", b"x")],
}


@pytest.mark.parametrize(("problem", "member"), [(problem, member) for problem, members in HOSTILE.items() for member in members])
def test_members_that_reach_beyond_their_tar_are_refused(problem: str, member: Any, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    tar(shards / "a.tar", ("11.jpg", b"x"), member)
    with pytest.raises(HarnessError, match=rf"a\.tar: the member .* {problem}"):
        index_shards(shards)


@pytest.mark.parametrize(("problem", "member"), [(problem, members[0]) for problem, members in HOSTILE.items()])
def test_texts_of_a_pack_stay_inside_it(problem: str, member: Any, flickr30k_folder: Path, tmp_path: Path) -> None:
    pack = packed(flickr30k_folder, tmp_path, lambda texts: tar(texts, ("a.txt", b"x"), member))
    with pytest.raises(HarnessError, match=rf"texts\.tar: the member .* {problem}"):
        open_pack(str(pack), Store(tmp_path / "store"))
    assert not list((tmp_path / "store").rglob("a.txt"))


def test_texts_of_a_pack_write_over_nothing(flickr30k_folder: Path, tmp_path: Path) -> None:
    """The shards of an opened local pack are links. A text with the name of a shard would be written into the shard itself."""
    names = ["shards/flickr30k-000000.tar", "texts.tar"]
    for name in names:
        folder = tmp_path / name.replace("/", " ")
        pack = packed(flickr30k_folder, folder, lambda texts, name=name: tar(texts, (name, b"x")))
        before = (pack / "shards" / "flickr30k-000000.tar").read_bytes()
        with pytest.raises(HarnessError, match="occurs twice"):
            open_pack(str(pack), Store(folder / "store"))
        assert (pack / "shards" / "flickr30k-000000.tar").read_bytes() == before


def packed(data: Path, folder: Path, write_texts: Callable[[Path], object]) -> Path:
    """Return a pack with other texts and a manifest that matches them."""
    from harness.storage.packs import _part

    write_pack(TASK.contents(data), data, "flickr30k", folder / "pack", 10, lambda _: None)
    write_texts(folder / "pack" / "texts.tar")
    manifest = json.loads((folder / "pack" / MANIFEST).read_text())
    try:
        part = _part(folder / "pack" / "texts.tar").model_dump()
    except HarnessError:
        import hashlib

        data_ = (folder / "pack" / "texts.tar").read_bytes()
        part = {"name": "texts.tar", "samples": 1, "bytes": len(data_), "sha256": hashlib.sha256(data_).hexdigest()}
    (folder / "pack" / MANIFEST).write_text(json.dumps(manifest | {"texts": part}))
    return folder / "pack"


def test_a_compressed_tar_is_no_shard(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(gzip.compress(tar(tmp_path / "plain", ("11.jpg", b"x" * 1000)).read_bytes()))
    with pytest.raises(HarnessError, match=r"a\.tar is not a complete tar file"):
        index_shards(tmp_path)


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    info = special("11.jpg", tarfile.REGTYPE)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(1 << 50),
        "GNU.sparse.name": "11.jpg",
    }
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info.size = 512
        archive.addfile(info, io.BytesIO(b"1\n0\n0\n".ljust(512, b"\0")))
    with pytest.raises(HarnessError, match="is not a regular file"):
        index_shards(tmp_path)


@pytest.mark.parametrize(
    "name", ["shards/x'; touch pwned; '.tar", "-o/x.tar", "shards/../x.tar", "a/b/c.tar", "shards/é.tar", "shards/"]
)
def test_names_in_a_manifest_are_plain(name: str, flickr30k_folder: Path, tmp_path: Path) -> None:
    write_pack(TASK.contents(flickr30k_folder), flickr30k_folder, "flickr30k", tmp_path / "pack", 10, lambda _: None)
    manifest = json.loads((tmp_path / "pack" / MANIFEST).read_text())
    (tmp_path / "pack" / MANIFEST).write_text(json.dumps(manifest | {"shards": [manifest["shards"][0] | {"name": name}]}))
    with pytest.raises(HarnessError, match="expected a path inside the pack"):
        open_pack(str(tmp_path / "pack"), Store(tmp_path / "store"))


# bombs


def test_gzip_bombs_are_not_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "x.tsv.gz"
    bomb.write_bytes(gzip.compress(bytes(4 * bombs.MIN_UNPACKED_BYTES)))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(HarnessError, match=r"x\.tsv\.gz is not unpacked: it holds more than 16,777,216 bytes in [\d,]+"):
        read_text(bomb)
    body = b"<tmx><body><tu><tuv><seg>" + b"a" * (2 * bombs.MIN_UNPACKED_BYTES)
    (tmp_path / "x.tmx.gz").write_bytes(gzip.compress(body))
    with pytest.raises(HarnessError, match=r"x\.tmx\.gz is not unpacked"):
        load_bitext_file(tmp_path / "x.tmx.gz", GERMAN)


def test_honest_gzip_files_of_any_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compression shrinks real text only a few times, so text of any length passes the limit."""
    monkeypatch.setattr(bombs, "MIN_UNPACKED_BYTES", 1 << 10)
    words = np.random.default_rng(0).choice(["dog", "cat", "runs", "sits", "grass"], 50_000)
    text = " ".join(words)
    (tmp_path / "x.gz").write_bytes(gzip.compress(text.encode()))
    assert read_text(tmp_path / "x.gz") == text


def test_zip_bombs_are_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("embedding.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 14, 1 << 10)})
        for _ in range(64):
            member.write(bytes(1 << 20))
    with pytest.raises(HarnessError, match=r"x\.npz is not unpacked: it holds 67,1\d\d,\d\d\d bytes"):
        load_encoder(f"features:{tmp_path / 'x.npz'}", "cpu").image_features(["1"])  # type: ignore[attr-defined]


def test_pictures_of_too_many_pixels_are_not_decoded(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (9_000, 100_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        (tmp_path / "11.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        )
        assert side * side > MAX_PIXELS
        with pytest.raises(HarnessError, match=r"11\.png is not decoded: "):
            Pictures(["11"], [Blob(str(tmp_path / "11.png"))]).open(0)


def test_a_png_whose_text_is_a_bomb_is_refused(tmp_path: Path) -> None:
    import zlib

    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    data = file.getvalue()
    body = b"zTXtx\0\0" + zlib.compress(bytes(64 << 20))
    text = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    (tmp_path / "11.png").write_bytes(data[:33] + text + data[33:])
    with pytest.raises(HarnessError, match=r"11\.png cannot be decoded"):
        Pictures(["11"], [Blob(str(tmp_path / "11.png"))]).open(0)


# XML

ENTITIES = '<!DOCTYPE a [<!ENTITY b "lol"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY c SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("head", [ENTITIES, OUTSIDE])
def test_xml_declares_no_entities(head: str, tmp_path: Path) -> None:
    (tmp_path / "1.xml").write_text(f"{head}<annotation><size><width>&c;</width></size></annotation>")
    with pytest.raises(HarnessError, match=r"1\.xml, line 1: not an XML file of Flickr30k Entities \(EntitiesForbidden"):
        read_annotation(tmp_path / "1.xml")
    unit = '<tu><tuv xml:lang="en"><seg>&c;</seg></tuv><tuv xml:lang="de"><seg>x</seg></tuv></tu>'
    (tmp_path / "x.tmx").write_text(f"{head}<tmx><body>{unit}</body></tmx>")
    with pytest.raises(HarnessError, match=r"x\.tmx is not a complete TMX file: EntitiesForbidden"):
        load_bitext_file(tmp_path / "x.tmx", GERMAN)


# plug-ins


def test_code_beside_the_data_is_not_run(flickr30k_folder: Path, tmp_path: Path) -> None:
    """Only code that a user names is run. Python files in the working folder, the data, or a model's folder are not."""
    work = tmp_path / "work"
    shutil.copytree(flickr30k_folder, work)
    for name in ("conftest.py", "tasks.py", "encoders.py", "sitecustomize_of_data.py", "open_clip_config.py", "plugin.py"):
        (work / name).write_text("raise SystemExit('code beside the data was run')")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HARNESS_STORE": str(tmp_path / "store")}
    words = ["data", "check", "--data", "."]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "code beside the data was run" not in done.stdout + done.stderr


# Ray


class FakeRay:
    """A fake Ray that listens at an address."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.asked: tuple[str, ...] = ()
        self.down = False

    def is_initialized(self) -> bool:
        return False

    def init(self, *words: str, **_: object) -> None:
        self.asked = words

    def nodes(self) -> list[dict[str, str]]:
        return [{"NodeManagerAddress": self.at}]

    def shutdown(self) -> None:
        self.down = True


@pytest.mark.parametrize(
    "address", ["pipe:touch pwned ://x", "os://x:1", "http://host:1", "local", "host", "host:1/x", "-host:1 x", "ray://host"]
)
def test_only_the_address_of_a_cluster_is_given_to_ray(address: str) -> None:
    ray = FakeRay("10.1.2.3")
    with pytest.raises(HarnessError, match=r"expected auto, HOST:PORT or ray://HOST:PORT$"), connected(ray, asking_ray(address)):
        pass
    assert ray.asked == ()


def asking_ray(address: str | None = None) -> ExecutorConfig:
    return ExecutorConfig(executor="ray", address=address)


@pytest.mark.parametrize("address", ["auto", "host:6379", "10.0.0.1:6379", "ray://host:10001", "[::1]:6379"])
def test_a_cluster_that_is_named_may_be_anywhere(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.evaluation.executors.ray.check_reachable", lambda _: None)
    ray = FakeRay("10.1.2.3")
    with connected(ray, asking_ray(address)):
        assert ray.asked == (address,)


def test_a_ray_that_is_started_here_listens_on_loopback_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(FakeRay("127.0.0.1"), asking_ray()):
        pass
    open_to_all = FakeRay("192.0.2.2")
    told = pytest.raises(HarnessError, match=r"listens at 192\.0\.2\.2, where other machines could send it code")
    with told, connected(open_to_all, asking_ray()):
        pytest.fail("it was used")
    assert open_to_all.down
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", *RAY_ENVIRONMENT):
        monkeypatch.setenv(name, "1")
    monkeypatch.setitem(sys.modules, "ray", open_to_all)
    with pytest.raises(HarnessError, match="listens at"), on_ray(asking_ray(), Store(tmp_path), Console()):
        pass
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
