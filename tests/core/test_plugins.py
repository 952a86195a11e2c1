"""Encoders, tasks and objectives of others: by file, by installed package, by Python; and what of them is broken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.core.arms import load_objective, objective_code_digests, reads_entities
from harness.core.builtins import ENCODERS, load_encoder, load_translator
from harness.core.config import DistillConfig, ExecutorConfig, RunConfig
from harness.core.data import Floats, Language
from harness.core.digests import digest_strings
from harness.core.errors import HarnessError
from harness.core.plugins import fingerprint, load_file
from harness.core.registry import Registry
from harness.distill.model.tower import Encoded
from harness.evaluation.planning import make_plans
from harness.evaluation.runner import check_record_encoder, measure_plan, measure_plans
from harness.evaluation.translate_test import MachineTranslations
from harness.records.schema import Record
from harness.retrieval.phrases import chunk_phrases
from harness.runtime.console import Console
from harness.storage.embeddings import embed_captions, embed_images
from harness.storage.store import Store
from tests.support.plugin_files import ROOT, harness, install, squeezed, write

EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
PACKAGE = EXAMPLES / "package"


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
    registry: Registry[type] = Registry("encoder", {"sample": "harness.encoders.open_clip.models:sample_encoder"})
    registry.register("mine", First)
    with pytest.raises(HarnessError, match=r"two encoders are called 'mine', of test_plugins:First and of test_plugins:Second"):
        registry.register("mine", Second)
    with pytest.raises(
        HarnessError, match=r"built in \(harness.encoders.open_clip.models:sample_encoder\) and of test_plugins:First"
    ):
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
    with pytest.raises(HarnessError, match=r"nowhere.py does not exist"):
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


# which encoder a number is of

# What each says of itself is the same. `shift` moves the pictures, so that other captions find them.
ALIKE = """
    from dataclasses import dataclass
    from functools import partial

    import numpy as np
    from harness import fingerprint, register_encoder

    class Mine:
        shift = 0
        name = "mine"

        def __init__(self, argument, device):
            self.argument = argument

        def fingerprint(self):
            return fingerprint(Mine)

        def encode_images(self, images):
            shades = [round(image.getpixel((0, 0))[0] / 30) for image in images]
            return np.eye(8, dtype=np.float32)[[(shade + self.shift) % 8 for shade in shades]]

        def encode_texts(self, texts, lang):
            return np.eye(8, dtype=np.float32)[[{"31": 3, "32": 4, "33": 5}[text.strip(".").split()[-1]] for text in texts]]

    class Derived(Mine):
        shift = 1

    class Other(Mine):
        shift = 2

    def make(argument, device):
        return Mine(argument, device)

    lambda_ = lambda argument, device: Mine(argument, device)
    part = partial(Mine)
    other_part = partial(Mine)

    def maker(size):
        def make(argument, device):
            return Mine(argument, device)
        return make

    one, two = maker(1), maker(2)
    kept = Mine("", "")

    def keeper(argument, device):
        return kept

    @dataclass(frozen=True)
    class Frozen:
        argument: str
        device: str
        name = "mine"
        encode_images = encode_texts = None
        def fingerprint(self):
            return "frozen"

    @dataclass(frozen=True, slots=True)
    class Slotted:
        argument: str
        device: str
        name = "mine"
        encode_images = encode_texts = None
        def fingerprint(self):
            return "slotted"

    class Moody(Mine):
        def fingerprint(self):
            raise OSError("no weights there")

    class Empty(Mine):
        def fingerprint(self):
            return ""
"""


def test_encoders_of_one_file_share_no_fingerprint_whatever_they_say(tmp_path: Path) -> None:
    code = write(tmp_path / "alike.py", ALIKE)
    names = ("Mine", "Mine:1", "Derived", "Other", "make", "lambda_", "part", "other_part", "one", "two", "Frozen")
    found = {name: load_encoder(f"{code}:{name}", "cpu").fingerprint() for name in names}
    assert len(set(found.values())) == len(names)
    assert found == {name: load_encoder(f"{code}:{name}", "cuda").fingerprint() for name in names}, "told again"
    elsewhere = tmp_path / "elsewhere.py"
    shutil.copy(code, elsewhere)
    assert found == {name: load_encoder(f"{elsewhere}:{name}", "cpu").fingerprint() for name in names}, "contents, not places"
    elsewhere.write_text(f"{elsewhere.read_text()}\n# changed\n")
    changed = [load_encoder(f"{elsewhere}:{name}", "cpu").fingerprint() for name in names]
    assert not set(changed) & set(found.values())


def test_an_encoder_that_is_handed_out_twice_keeps_its_fingerprint(tmp_path: Path) -> None:
    spec = f"{write(tmp_path / 'alike.py', ALIKE)}:keeper"
    first, again = load_encoder(spec, "cpu"), load_encoder(spec, "cpu")
    assert first is again
    before = first.fingerprint()
    assert load_encoder(spec, "cpu").fingerprint() == before


def test_a_loop_that_registers_classes_of_one_name_makes_two_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last class is what its module has under that name."""
    code = """
        from harness import register_encoder

        for name in ("small", "large"):
            class Sized:
                name = "sized"
                encode_images = encode_texts = None
                def __init__(self, argument, device): pass
                def fingerprint(self): return "1"

            register_encoder(name, Sized)
    """
    registry: Registry[Any] = Registry("encoder", {})
    monkeypatch.setattr("harness.core.builtins.ENCODERS", registry)
    load_file(write(tmp_path / "loop.py", code))
    assert load_encoder("small", "cpu").fingerprint() != load_encoder("large", "cpu").fingerprint()


def test_built_in_encoders_keep_their_fingerprints() -> None:
    """Records and stores hang on them."""
    assert load_encoder("random:3", "cpu").fingerprint() == digest_strings(["random encoder 1", "3", "256"])
    sample = "59d7eef474fd76fa8984c98074151a139195e1a6d094434b4dc00c5eee49a0ff"
    assert load_encoder("sample", "cpu").fingerprint() == sample
    assert load_encoder("fast:sample", "cpu").fingerprint() == digest_strings([sample, "torch"])


def measured(spec: str, data: Path, store: Store) -> tuple[list[Floats], dict[str, float], Record]:
    """Embeddings of the test pictures and captions, and the scores and the record of a run."""
    config = RunConfig(lang="en", data=str(data), encoder=spec, device="cpu")
    ((plan,), _) = make_plans(config, store)
    (record,) = measure_plan(plan, store, Console(quiet=True))
    retrieval = plan.cells[0].retrieval
    images = embed_images(plan.encoder, retrieval.images, store, lambda _: None)
    return [images, embed_captions(plan.encoder, retrieval, store)], record.scores, record


def test_one_encoder_s_embeddings_and_records_are_never_another_s(flickr30k_folder: Path, tmp_path: Path) -> None:
    code, store = write(tmp_path / "alike.py", ALIKE), Store(tmp_path / "store")
    names = ("Mine", "Derived", "Other")
    found = {name: measured(f"{code}:{name}", flickr30k_folder, store) for name in names}
    shades = {name: rows[0].argmax(1).tolist() for name, (rows, _, _) in found.items()}
    assert shades == {"Mine": [3, 4, 5], "Derived": [4, 5, 6], "Other": [5, 6, 7]}
    scores = {name: scores["t2i_r1"] for name, (_, scores, _) in found.items()}
    assert scores == pytest.approx({"Mine": 100.0, "Derived": 0.0, "Other": 0.0})
    assert len(store.records()) == 3
    for name in names:
        again = measured(f"{code}:{name}", flickr30k_folder, store)
        assert again[1:] == found[name][1:]
        assert all((mine == before).all() for mine, before in zip(again[0], found[name][0], strict=True))
    assert len(store.records()) == 3


def test_a_record_of_another_encoder_is_refused(flickr30k_folder: Path, tmp_path: Path) -> None:
    mine, theirs = (load_encoder(f"{write(tmp_path / 'alike.py', ALIKE)}:{name}", "cpu") for name in ("Mine", "Derived"))
    *_, record = measured(f"{tmp_path / 'alike.py'}:Mine", flickr30k_folder, Store(tmp_path / "store"))
    assert check_record_encoder(record, mine, tmp_path) is record
    named = record.model_copy(update={"encoder": "derived"})
    for other, encoder in ((record, theirs), (named, mine)):
        with pytest.raises(HarnessError, match=r"is a record of the encoder \w+, not of mine: delete that folder to measure it"):
            check_record_encoder(other, encoder, tmp_path)
    random = load_encoder("random:1", "cpu")
    same = record.model_copy(update={"encoder": "by another path", "encoder_fingerprint": random.fingerprint()})
    assert check_record_encoder(same, random, tmp_path) is same, "a built-in encoder's fingerprint says all of it"


def test_translators_of_one_file_share_no_fingerprint(tmp_path: Path) -> None:
    code = """
        class One:
            name = "mine"
            def __init__(self, argument, device): pass
            def fingerprint(self): return "1"
            def translate(self, texts, lang): return list(texts)

        class Two(One):
            def translate(self, texts, lang): return [text.upper() for text in texts]
    """
    path = write(tmp_path / "mine.py", code)
    made = [load_translator(f"{path}:{name}", "cpu") for name in ("One", "Two", "Two:x")]
    assert len({translator.fingerprint() for translator in made}) == 3
    assert len({tuple(MachineTranslations(translator).cache_key_parts()) for translator in made}) == 3


SCORERS_ALIKE = """
    from harness.retrieval.scorers import CosineScorer

    class Mine(CosineScorer):
        name = "mine"

    class Usurper(CosineScorer):
        pass

    def one(argument, run):
        return lambda retrieval: Mine()

    def two(argument, run):
        return lambda retrieval: Mine()

    def usurper(argument, run):
        return lambda retrieval: Usurper()

    def bare(argument, run):
        return lambda retrieval: object()

    def none(argument, run):
        return None

    def raising(argument, run):
        return lambda retrieval: 1 / 0
"""


def test_scorers_of_one_file_share_no_record(flickr30k_folder: Path, tmp_path: Path) -> None:
    code, store = write(tmp_path / "scorers.py", SCORERS_ALIKE), Store(tmp_path / "store")

    def keys(scorer: str) -> list[str]:
        config = RunConfig(lang="en", data=str(flickr30k_folder), encoder="random", scorer=scorer, device="cpu")
        ((plan,), _) = make_plans(config, store)
        return [cell.key for cell in plan.cells]

    (plain,), one, two, argued = keys("plain"), keys(f"{code}:one"), keys(f"{code}:two"), keys(f"{code}:two:7")
    assert one[0] == two[0] == plain
    assert len({plain, one[1], two[1], argued[1]}) == 4
    with pytest.raises(HarnessError, match="the name plain of a built-in scorer: give it another name"):
        keys(f"{code}:usurper")
    with pytest.raises(HarnessError, match=r"bare is no scorer: .* lacks name, views, cache_key_parts, rank"):
        keys(f"{code}:bare")
    with pytest.raises(HarnessError, match=r"none is no scorer: .* lacks __call__"):
        keys(f"{code}:none")
    with pytest.raises(HarnessError, match=r"raising cannot be made: ZeroDivisionError: division by zero \(line "):
        keys(f"{code}:raising")


def test_a_variant_of_a_plug_in_s_own_class_is_refused(tmp_path: Path) -> None:
    code = "from harness.encoders.open_clip.models import OpenClip\n\nclass Mine(OpenClip):\n"
    code += "    def __init__(self, argument, device):\n        super().__init__('mine', lambda: None, device)\n"
    path = write(tmp_path / "mine.py", code)
    with pytest.raises(HarnessError, match="expected fast: and an open_clip model"):
        load_encoder(f"fast:{path}:Mine", "cpu")


# what raises

RAISING = """
    import sys

    class Panic(BaseException):
        pass

    class Raises:
        def __init__(self, argument, device):
            {raising}
"""


@pytest.mark.parametrize(
    ("raising", "words"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (line 9)"),
        ("sys.exit()", "SystemExit (line 9)"),
        ("sys.exit(0)", "SystemExit: 0 (line 9)"),
        ("raise Panic('a\\nb')", "Panic: a b (line 9)"),
    ],
)
def test_a_constructor_that_raises_is_one_line(tmp_path: Path, raising: str, words: str) -> None:
    spec = f"{write(tmp_path / 'mine.py', RAISING.format(raising=raising))}:Raises"
    with pytest.raises(HarnessError) as caught:
        load_encoder(spec, "cpu")
    assert str(caught.value) == f"the encoder {spec} cannot be made: {words}"
    with pytest.raises(HarnessError, match=f"the translator {re.escape(spec)} cannot be made: "):
        load_translator(spec, "cpu")


def test_a_file_or_package_that_panics_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "class Panic(BaseException): pass\n\nraise Panic('no')\n"
    path = write(tmp_path / "panics.py", code)
    with pytest.raises(HarnessError, match=r"panics.py cannot be loaded: Panic: no \(line 3\)"):
        load_file(path)
    assert str(path) not in sys.modules
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", "panics", {"harness.encoders": {"mine": "panics:X"}})))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry: Registry[type] = Registry("encoder", {}, group="harness.encoders")
    with pytest.raises(HarnessError, match=r"the encoder mine of package panics 1.0 .* cannot be loaded: Panic: no"):
        registry.load("mine")


def test_a_fingerprint_that_raises_or_is_none_is_one_line(tmp_path: Path) -> None:
    code = write(tmp_path / "alike.py", ALIKE)
    with pytest.raises(HarnessError, match=r"the fingerprint of .*:Moody cannot be had: OSError: no weights there \(line \d+\)"):
        load_encoder(f"{code}:Moody", "cpu").fingerprint()
    with pytest.raises(HarnessError, match=r"the fingerprint of .*:Empty is '': expected a text"):
        load_encoder(f"{code}:Empty", "cpu").fingerprint()
    with pytest.raises(HarnessError, match=r"is a Slotted, which takes no attributes: leave out its __slots__"):
        load_encoder(f"{code}:Slotted", "cpu")


@pytest.mark.parametrize(
    ("raising", "words"),
    [("raise KeyError('card')", "KeyError: 'card' (line 9)"), ("sys.exit()", "SystemExit (line 9)")],
)
def test_whatever_a_plug_in_raises_at_the_command_line_is_one_line(tmp_path: Path, raising: str, words: str) -> None:
    path = write(tmp_path / "mine.py", RAISING.format(raising=raising).replace("argument, device", ""))
    done = harness("run", "--lang", "de", "--task", f"{path}:Raises", store=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: the plug-in {path} raised {words}\n"


EXITS = """
    import sys
    import numpy as np
    from harness import fingerprint

    class Exits:
        name = "exits"

        def __init__(self, argument, device):
            self.word = argument

        def fingerprint(self):
            return fingerprint(Exits)

        def encode_images(self, images):
            return np.stack([np.asarray(image, dtype=np.float32).mean((0, 1)) for image in images])

        def encode_texts(self, texts, lang):
            if any(self.word in text for text in texts):
                sys.exit()
            return np.array([[len(text), len(set(text)), 1] for text in texts], dtype=np.float32)
"""


def test_an_encoder_that_exits_ends_its_cell_alone_and_the_status_is_1(flickr30k_folder: Path, tmp_path: Path) -> None:
    encoder = f"{write(tmp_path / 'exits.py', EXITS)}:Exits:qillqa"
    words = ("--data", str(flickr30k_folder), "--objectives", "", "--resamples", "100", "--encoder", encoder)
    done = harness("run", "--lang", "de,qu", *words, store=tmp_path)
    assert done.returncode == 1
    assert "English tower on German" in done.stdout
    assert re.search(r"Quechua +English tower on Quechua +SystemExit", done.stdout), done.stdout
    assert len(Store(tmp_path).records()) == 4, "all but the floor in Quechua"


def test_a_language_that_cannot_be_read_stops_no_other(flickr30k_folder: Path, tmp_path: Path) -> None:
    """Also where all of its cells fail for one reason that a user can put right, and it comes first."""
    code = EXITS.replace("sys.exit()", "raise HarnessError('no such script')")
    code = code.replace("from harness import", "from harness import HarnessError,")
    encoder, store = f"{write(tmp_path / 'picky.py', code)}:Exits", Store(tmp_path / "store")

    def ended(langs: str, word: str) -> list[tuple[str, str]]:
        spec = f"{encoder}:{word}"
        config = RunConfig(lang=langs, data=str(flickr30k_folder), encoder=spec, objectives=(), device="cpu")
        plans, _ = make_plans(config, store)
        plans = [replace(plan, cells=plan.cells[:1]) for plan in plans]
        done = measure_plans(plans, store, Console(quiet=True), ExecutorConfig())
        return [(plan.language.code, failed.reason if failed else "") for plan, failed in done]

    assert ended("de,qu", "Bildtext") == [("de", "no such script"), ("qu", "")]
    with pytest.raises(HarnessError, match=r"^no such script$"):
        ended("de,qu", "i")  # in both
    with pytest.raises(HarnessError, match=r"^no such script$"):
        ended("de", "Bildtext")


def test_an_objective_of_a_file_is_a_term_like_any_other_and_its_code_is_part_of_the_tower(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", (PACKAGE / "harness_brightness" / "objective.py").read_text())
    mask = torch.ones(2, 1, dtype=torch.bool)
    student, teacher = (Encoded(rows[:, None], mask, rows) for rows in (torch.eye(2), torch.zeros(2, 2)))
    assert load_objective(f"{path}:kd_l1 + 0.5*kd-mse")(student, teacher, DistillConfig()).item() == 1.5
    assert objective_code_digests("kd-mse + ot-token") == []
    assert not reads_entities(f"{path}:kd_l1")
    (before,) = objective_code_digests(f"{path}:kd_l1 + kd-mse")
    path.write_text(path.read_text().replace("abs()", "square()"))
    assert objective_code_digests(f"{path}:kd_l1") != [before]
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
    assert "all checks passed" in tried.stdout
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"flickr30k +en +test +colours +english +3 x 6", listed.stdout), listed.stdout


def test_the_page_s_model_with_weights(tmp_path: Path) -> None:
    from tests.support.transformers_models import PICTURES, TEXTS, write_model

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
    assert chunk_phrases(f"{path}:capitals", ["Ein Hund im Schnee ."], german) == [((0, 3), (4, 8), (12, 18))]


def test_the_page_s_scorer_runs(flickr30k_folder: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"\n```python\n(from harness import register_scorer.*?)```", PAGE, re.DOTALL)
    path = write(tmp_path / "mine.py", block)
    words = ("--plugin", str(path), "--encoder", "random", "--data", str(flickr30k_folder), "--scorer", "centred")
    ran = harness("run", "--lang", "en", *words, store=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "scorer: centred" in ran.stdout
    assert "English tower on English + centred" in ran.stdout
    listed = harness("list", "scorers", "--plugin", str(path), store=tmp_path)
    assert re.search(r"^ centred ", listed.stdout, re.MULTILINE), listed.stdout


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
    assert "two encoders are called 'sample', of built in (harness.encoders.open_clip.models:sample_encoder) and of" in table
    assert "the encoder bad of package bad-package 1.0 (not_to_be_found:X) cannot be loaded: ModuleNotFoundError" in table
    assert "models:sample_encoder)" in table
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
