"""Encoders, tasks and objectives of others: by file, by installed package, by Python; and what of them is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from harness.api import HarnessError, Language
from harness.config import DistillConfig
from harness.distill.tower import Encoded
from harness.phrases import chunked
from harness.plugins import fingerprint, load_file
from harness.registry import ENCODERS, Registry, load_encoder, load_objective, objective_sources, reads_entities

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
PACKAGE = EXAMPLES / "package"


def harness(*words: str, store: Path, path: tuple[Path, ...] = (), plugins: str = "") -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name not in ("FLICKR30K_ROOT", "HARNESS_PLUGINS")}
    environment = known | {
        "HARNESS_STORE": str(store),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path))),
        **({"HARNESS_PLUGINS": plugins} if plugins else {}),
    }
    command = [sys.executable, "-m", "harness", *words]
    return subprocess.run(command, cwd=store, env=environment, capture_output=True, text=True, timeout=300, check=False)


def squeezed(text: str) -> str:
    return " ".join(text.split())


def write(path: Path, code: str) -> Path:
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


def install(folder: Path, name: str, points: dict[str, dict[str, str]]) -> Path:
    """What an installer leaves of a package: its entry points."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items()) for group, entries in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def package(tmp_path: Path) -> tuple[Path, Path]:
    """The example package as if it were installed: its code, and what an installer makes of its pyproject.toml."""
    import tomllib

    points = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["entry-points"]
    return PACKAGE, install(tmp_path / "site", "harness-brightness", points)


class First:
    """A first encoder."""


class Second:
    """A second one."""


def test_a_name_from_two_sources_is_an_error_that_names_both() -> None:
    registry: Registry[type] = Registry("encoder", {"sample": "harness.encoders.open_clip:sample"})
    registry.register("mine", First)
    with pytest.raises(HarnessError, match=r"two encoders are called 'mine', of test_plugins:First and of test_plugins:Second"):
        registry.register("mine", Second)
    with pytest.raises(HarnessError, match=r"built in \(harness.encoders.open_clip:sample\) and of test_plugins:First"):
        registry.register("sample", First)
    assert registry.load("mine") is First
    assert registry.origin("sample").startswith("built in")


def test_a_cell_of_a_notebook_can_be_run_again() -> None:
    registry: Registry[type] = Registry("encoder", {})
    registry.register("mine", First)
    again = type("First", (), {"__module__": First.__module__, "__qualname__": "First"})
    registry.register("mine", again)
    assert registry.load("mine") is again


@pytest.mark.parametrize("name", ["", "a:b", "a b", "kd + mse", "mine.py", "-x"])
def test_a_name_that_cannot_be_typed_is_refused(name: str) -> None:
    with pytest.raises(HarnessError, match="cannot name a plug-in encoder"):
        Registry[type]("encoder", {}).register(name, First)


def test_packages_that_claim_a_name_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one-package", "other-package"):
        points = {"harness.encoders": {"theirs": f"{name}:X", "sample": "x:Y"}}
        monkeypatch.syspath_prepend(str(install(tmp_path / name, name, points)))
    registry: Registry[type] = Registry("encoder", {"sample": "a:b", "quiet": "c:d"}, group="harness.encoders")
    with pytest.raises(HarnessError, match=r"(?s)'theirs'.*package o\w+-package 1.0 .*package o\w+-package 1.0"):
        registry.load("theirs")
    with pytest.raises(HarnessError, match=r"built in \(a:b\) and of package"):
        registry.origin("sample")
    assert registry.origin("quiet") == "built in (c:d)"


def test_a_file_is_loaded_once_and_its_things_say_where_they_are_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "mine.py", "class Mine:\n    pass\n")
    module = load_file(Path("mine.py"))
    assert load_file(path) is module
    registry: Registry[type] = Registry("encoder", {})
    registry.register("mine", module.Mine)
    assert registry.origin("mine") == f"{path}:Mine"
    assert registry.load("mine.py:Mine") is module.Mine


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import numpy\nx = numpyy\n", r"broken.py cannot be loaded: NameError: name 'numpyy' is not defined.* \(line 2\)"),
        ("def f(:\n", r"broken.py cannot be loaded: SyntaxError: .* \(line 1\)"),
        ("raise SystemExit(3)\n", r"broken.py cannot be loaded: SystemExit: 3 \(line 1\)"),
        ("import nowhere_to_be_found\n", r"ModuleNotFoundError: No module named 'nowhere_to_be_found' \(line 1\)"),
    ],
)
def test_a_broken_file_says_what_and_where(tmp_path: Path, code: str, message: str) -> None:
    path = write(tmp_path / "broken.py", code)
    with pytest.raises(HarnessError, match=message):
        load_file(path)
    assert str(path) not in sys.modules


def test_what_a_spec_can_get_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", "class Empty:\n    def __init__(self, argument, device): pass\n\nclass Other: pass\n")
    with pytest.raises(HarnessError, match=r"defines no Missing: it has Empty, Other"):
        load_encoder(f"{path}:Missing", "cpu")
    with pytest.raises(HarnessError, match=r"is no encoder: .*mine.py:Empty lacks name, encode_images, encode_texts, f"):
        load_encoder(f"{path}:Empty", "cpu")
    with pytest.raises(HarnessError, match=r"mine.py is a file: name the encoder in it, as .*mine.py:NAME"):
        load_encoder(str(path), "cpu")
    with pytest.raises(HarnessError, match=r"nowhere.py is not there"):
        load_encoder("nowhere.py:X", "cpu")


def test_an_encoder_of_a_file_gets_its_argument(tmp_path: Path) -> None:
    code = """
        class Mine:
            def __init__(self, argument, device):
                self.name, self.device = f"mine:{argument}", device
            encode_images = encode_texts = fingerprint = None
    """
    path = write(tmp_path / "mine.py", code)
    encoder = load_encoder(f"{path}:Mine:a:b/c", "cuda:1")
    assert (encoder.name, encoder.device) == ("mine:a:b/c", "cuda:1")  # type: ignore[attr-defined]
    assert load_encoder(f"{path}:Mine", "cpu").name == "mine:"


def test_the_fingerprint_follows_weights_code_and_settings(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"1")
    code = write(tmp_path / "mine.py", "class Mine: pass\n")
    seen = {fingerprint(load_file(code).Mine, weights, "float32")}
    seen.add(fingerprint(load_file(code).Mine, weights, "float16"))
    (weights / "a.bin").write_bytes(b"2")
    seen.add(fingerprint(load_file(code).Mine, weights, "float32"))
    (weights / "a.bin").rename(weights / "b.bin")
    seen.add(fingerprint(load_file(code).Mine, weights, "float32"))
    code.write_text("class Mine: pass  # another way\n")
    seen.add(fingerprint(load_file(code).Mine, weights, "float32"))
    assert len(seen) == 5
    with pytest.raises(HarnessError, match="no such file"):
        fingerprint(tmp_path / "nowhere")
    with pytest.raises(HarnessError, match="put its code into a file"):
        fingerprint(len)


def test_an_objective_of_a_file_is_a_term_like_any_other_and_its_code_is_part_of_the_tower(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", (PACKAGE / "harness_brightness" / "objective.py").read_text())
    mask = torch.ones(2, 1, dtype=torch.bool)
    student, teacher = (Encoded(rows[:, None], mask, rows) for rows in (torch.eye(2), torch.zeros(2, 2)))
    assert load_objective(f"{path}:kd_l1 + 0.5*kd-mse")(student, teacher, DistillConfig()).item() == 1.5
    assert objective_sources("kd-mse + ot-token") == []
    assert not reads_entities(f"{path}:kd_l1")
    (before,) = objective_sources(f"{path}:kd_l1 + kd-mse")
    path.write_text(path.read_text().replace("abs()", "square()"))
    assert objective_sources(f"{path}:kd_l1") != [before]
    told = write(tmp_path / "told.py", "def told(student, teacher, config): ...\n\n\ntold.reads_entities = True\n")
    assert reads_entities(f"kd-mse + {told}:told")


def test_importing_the_doors_imports_nothing_heavy() -> None:
    code = (
        "import sys; from harness import fingerprint, register_chunker, register_encoder, register_objective, register_task; "
        "print([name for name in ('torch', 'numpy', 'pydantic', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_page_s_encoder_is_the_example_and_short() -> None:
    (block,) = re.findall(r"   ```python\n(.*?)\n   ```", PAGE, re.DOTALL)
    code = (EXAMPLES / "colours.py").read_text(encoding="utf-8")
    assert textwrap.dedent(block) + "\n" == code
    assert len(code.splitlines()) < 40


def test_the_walk_of_the_page(flickr30k_folder: Path, tmp_path: Path) -> None:
    """Its commands, word for word but for the data folder; the board is another page's to test."""
    (tmp_path / "colours.py").write_text((EXAMPLES / "colours.py").read_text())
    blocks = re.findall(r"   ```sh\n(.*?)   ```", PAGE, re.DOTALL)
    commands = [line.split()[3:] for block in blocks for line in block.splitlines()]
    assert [command[0] for command in commands] == ["check", "run", "list", "leaderboard"]
    tried, ran, listed = (
        harness(*words, *(() if words[0] == "list" else ("--data", str(flickr30k_folder))), store=tmp_path)
        for words in commands[:3]
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert "nothing stands against a run" in tried.stdout
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"flickr30k +en +test +colours +english +3 x 6", listed.stdout), listed.stdout


def test_the_page_s_model_with_weights(tmp_path: Path) -> None:
    from test_hugging_face import PICTURES, TEXTS, write_model

    (block,) = re.findall(r"\n```python\n(from functools.*?)```", PAGE, re.DOTALL)
    assert len(block.splitlines()) < 40
    write(tmp_path / "mine.py", block)
    folder = write_model(tmp_path / "clip", "clip")
    mine, built_in = load_encoder(f"{tmp_path / 'mine.py'}:MyClip:{folder}", "cpu"), load_encoder(f"hf:{folder}", "cpu")
    assert mine.encode_images(PICTURES) == pytest.approx(built_in.encode_images(PICTURES), abs=1e-5)
    assert mine.encode_texts(TEXTS, "en") == pytest.approx(built_in.encode_texts(TEXTS, "en"), abs=1e-5)


def test_the_page_s_chunker_is_the_package_s(tmp_path: Path) -> None:
    (block,) = re.findall(r"\n```python\n(import re\n.*?)```", PAGE, re.DOTALL)
    assert (PACKAGE / "harness_brightness" / "chunker.py").read_text().partition("def ")[2] in block
    code, _, rest = block.partition('register_chunker("')
    assert rest == 'capitals", capitals)\n'
    path = write(tmp_path / "mine.py", code)
    german = Language("de", "German", "Latn", 5, ())
    assert chunked(f"{path}:capitals", ["Ein Hund im Schnee ."], german) == [((0, 3), (4, 8), (12, 18))]


def test_a_package_s_encoder_task_objective_and_chunker_are_there_by_name(
    package: tuple[Path, Path], flickr30k_folder: Path, tmp_path: Path
) -> None:
    for what, name in (
        ("encoders", "brightness"),
        ("tasks", "flickr30k-first"),
        ("objectives", "kd-l1"),
        ("chunkers", "capitals"),
    ):
        listed = harness("list", what, store=tmp_path, path=package)
        row = next(line for line in listed.stdout.splitlines() if line.startswith(f" {name} "))
        assert "package harness-brightness 1.0" in row
        assert "BROKEN" not in listed.stdout
    words = ("run", "--lang", "en", "--task", "flickr30k-first", "--encoder", "brightness", "--data", str(flickr30k_folder))
    ran = harness(*words, store=tmp_path, path=package)
    assert ran.returncode == 0, ran.stderr
    assert "flickr30k-first · en" in ran.stdout
    assert "3 images, 3 captions" in ran.stdout


def test_a_broken_plug_in_is_listed_with_its_error_and_harms_nothing_else(flickr30k_folder: Path, tmp_path: Path) -> None:
    broken = write(tmp_path / "broken.py", "from harness import register_encoder\nregister_encoder('mine', Mine)\n")
    clashing = write(
        tmp_path / "clash.py", "from harness import register_encoder\nclass X: pass\nregister_encoder('sample', X)\n"
    )
    site = install(tmp_path / "site", "bad-package", {"harness.encoders": {"bad": "not_to_be_found:X"}})
    plugins = os.pathsep.join(map(str, (broken, clashing)))
    listed = harness("list", "encoders", store=tmp_path, path=(site,), plugins=plugins)
    assert listed.returncode == 0, listed.stderr
    table = squeezed(listed.stdout)
    assert "broken.py cannot be loaded: NameError: name 'Mine' is not defined (line 2)" in table
    assert "two encoders are called 'sample', of built in (harness.encoders.open_clip:sample) and of" in table
    assert "the encoder bad of package bad-package 1.0 (not_to_be_found:X) cannot be loaded: ModuleNotFoundError" in table
    assert "open_clip:sample)" in table
    words = ("run", "--lang", "en", "--encoder", "random", "--data", str(flickr30k_folder))
    ran = harness(*words, "--plugin", str(broken), store=tmp_path, path=(site,))
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.startswith("note: the plug-in")
    lost = harness("run", "--lang", "en", "--encoder", "mine", "--plugin", str(broken), store=tmp_path)
    assert lost.returncode == 1
    assert "no encoder is called 'mine'" in lost.stderr
    assert lost.stderr.count("NameError") == 2


def test_every_built_in_encoder_can_be_imported() -> None:
    for name in ENCODERS.names():
        assert callable(ENCODERS.load(name)), name
