"""Arms that a teacher does not serve are refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.builtins import INITIALIZERS
from harness.core.config import DistillConfig
from harness.core.errors import HarnessError
from harness.core.protocols import Encoder
from harness.distill.teachers import UnservedArmError, check_model, check_teacher, initializer_needs
from tests.support.command_line import harness
from tests.support.students import Teacher

METHODS = ("encode_tokens", "donate_layers", "locate_tokens")
SHORT = ("--lang", "qu", "--pairs", "40", "--steps", "2", "--batch", "8", "--resamples", "100")
PLUG_IN = '''
from harness.encoders.open_clip.models import sample_encoder


class Lent:
    """The sample's encoder without the methods of OpenClip that a test leaves out."""

    def __init__(self, argument, device):
        self.inner = sample_encoder("", device)
        self.name = "own:" + argument

    def encode_images(self, images):
        return self.inner.encode_images(images)

    def encode_texts(self, texts, lang):
        return self.inner.encode_texts(texts, lang)

    def fingerprint(self):
        return self.inner.fingerprint()


class Tokens(Lent):
    def encode_tokens(self, texts, lang):
        return self.inner.encode_tokens(texts, lang)


class Stubborn(Tokens):
    def donate_layers(self):
        from harness.core.errors import HarnessError

        raise HarnessError("the text model has layer scales")


class OwnTokenizer(Tokens):
    def donate_layers(self):
        from dataclasses import replace

        return replace(self.inner.donate_layers(), tokenizer=None)
'''


def teacher(*methods: str) -> Encoder:
    """Return a teacher that has some of the optional methods."""
    return cast(Encoder, SimpleNamespace(name="mine", **{name: lambda *_: None for name in methods}))


@pytest.fixture
def plug_in(tmp_path: Path) -> Path:
    """Return a file of encoders that lend less than the sample's."""
    path = tmp_path / "mine.py"
    path.write_text(PLUG_IN)
    return path


@pytest.mark.parametrize("init", [name for name in INITIALIZERS.builtin_names() if name != "hf"])
def test_an_initializer_states_what_it_takes_from_the_teacher(init: str) -> None:
    spec = f"{init}:itermax" if init == "simalign" else init
    config, lends_nothing = DistillConfig(objective="none", init=spec), teacher("encode_tokens", "locate_tokens")
    if "layers" in initializer_needs(init):
        line = rf"^mine lends no layers \(donate_layers\), and {config.arm} starts from them: .* without are scratch, hf$"
        with pytest.raises(UnservedArmError, match=line):
            check_teacher(config, lends_nothing)
    else:
        check_teacher(config, lends_nothing)
    check_teacher(config, teacher(*METHODS))


@pytest.mark.parametrize(
    ("options", "methods", "line"),
    [
        ({}, ("donate_layers",), r"no token states .*kd-mse is trained .* none, ridge, ridge-english$"),
        (
            {"objective": "none", "init": "simalign:match"},
            ("donate_layers",),
            "no token states .* aligns them: initializers",
        ),
        ({"objective": "ot-entity"}, METHODS[:2], r"\(locate_tokens\), and ot-entity needs .*ot-token, ot-batch, ot-unbalanced$"),
        ({"init": "wechsel"}, METHODS[:2], r"\(locate_tokens\), and kd-mse@wechsel needs .* to find words: .*, ramen, focus"),
        ({"init": "ibm1", "spelling": 2.0}, METHODS[:2], r"\(locate_tokens\), and --spelling needs .* leave --spelling out$"),
    ],
)
def test_what_the_class_of_a_teacher_lacks_is_named(options: dict[str, Any], methods: tuple[str, ...], line: str) -> None:
    with pytest.raises(UnservedArmError, match=line):
        check_teacher(DistillConfig(**options), teacher(*methods))
    check_teacher(DistillConfig(**options), teacher(*METHODS))


def test_a_model_without_spans_is_found_by_asking_it() -> None:
    def refuse(*_: object) -> None:
        raise HarnessError("its tokenizer gives no spans")

    mine = Teacher()
    mine.locate_tokens = refuse  # type: ignore[attr-defined]
    plain, entities = DistillConfig(), DistillConfig(objective="ot-entity")
    found = check_model([plain, entities], cast(Encoder, mine))
    assert list(found) == [entities]
    assert str(found[entities]) == "ot-entity reads the places of tokens, but its tokenizer gives no spans"


def test_default_arms_that_cannot_be_had_are_left_out_and_the_encoder_is_measured(plug_in: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = harness("run", *SHORT, "--encoder", f"{plug_in}:Tokens", store=store)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "nothing is distilled into Quechua: own: lends no layers (donate_layers)" in said
    assert "English tower on Quechua" in said
    assert not (store / "towers").exists()


def test_default_arms_whose_tokenizer_cannot_be_kept_are_left_out(plug_in: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = harness("run", *SHORT, "--encoder", f"{plug_in}:OwnTokenizer", store=store)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "kd-mse@keep-tokenizer is left out: kd-mse@keep-tokenizer reads the tokenizer of own:" in said
    assert len(list((store / "towers").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Tokens", "own: lends no layers (donate_layers), and kd-mse@fvt starts from them: initializers without are scratch, hf"),
        ("Stubborn", "kd-mse@fvt starts from the layers of own:, but the text model has layer scales: initializers without are"),
        (
            "Lent",
            "own: gives no token states (encode_tokens), and kd-mse@scratch is trained on them: without them",
        ),
    ],
)
def test_named_arms_are_refused_before_training(plug_in: Path, tmp_path: Path, name: str, line: str) -> None:
    store = tmp_path / "store"
    done = harness("run", *SHORT, "--encoder", f"{plug_in}:{name}", "--arms", "kd-mse@scratch, kd-mse@fvt", store=store)
    assert done.returncode == 1
    assert line in " ".join(done.stderr.split())
    assert not (store / "towers").exists()
    assert not (store / "records").exists()
