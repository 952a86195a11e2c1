"""`check` finds each way in which an encoder can be wrong, and explains it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.core.builtins import ENCODERS
from harness.core.data import Floats, Spans, TokenStates
from harness.core.digests import digest_strings
from harness.core.errors import HarnessError
from harness.core.registry import Registry
from harness.evaluation.encoder_checks import EncoderCheck, check_encoder
from harness.tasks.flickr30k import Flickr30k


class Good:
    """Equal rows for the image and the captions of one id, which the made-up data contain."""

    name = "good"

    def fingerprint(self) -> str:
        return digest_strings(["good", self.name])

    def encode_images(self, images: Sequence[Image.Image]) -> Any:
        return rows([image.getpixel((0, 0))[0] for image in images])

    def encode_texts(self, texts: Sequence[str], lang: str) -> Any:
        shade = {"21": 60, "31": 90, "32": 120, "33": 150}
        return rows([next((value for name, value in shade.items() if name in text), len(text)) for text in texts])

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:
        pooled = self.encode_texts(texts, lang)
        return TokenStates(np.repeat(pooled, 2, axis=0), np.full(len(texts), 2), pooled)

    def encode_patches(self, images: Sequence[Image.Image]) -> TokenStates:
        pooled = self.encode_images(images)
        return TokenStates(np.repeat(pooled, 3, axis=0), np.full(len(images), 3), pooled)


def rows(seeds: Sequence[int]) -> Floats:
    # JPEG files change the shades a little.
    return np.stack([np.random.default_rng(round(seed / 10)).standard_normal(8, dtype=np.float32) for seed in seeds])


@pytest.fixture
def trials(flickr30k_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, EncoderCheck]]:
    """Return a function that checks a good encoder with some members replaced."""

    def check(make: Callable[[], Any] = Good, lang: str = "en", **members: Any) -> dict[str, EncoderCheck]:
        registry: Registry[Any] = Registry("encoder", {})
        kind = type("Changed", (make,), members) if members else make
        registry.register("changed", lambda argument, device: kind())
        monkeypatch.setattr("harness.core.builtins.ENCODERS", registry)
        retrieval = Flickr30k().load(flickr30k_folder, lang, "test")
        return {trial.what: trial for trial in check_encoder("changed", retrieval, "cpu")}

    return check


def test_a_good_encoder_passes(trials: Callable[..., dict[str, EncoderCheck]]) -> None:
    found = trials()
    assert [trial for trial in found.values() if trial.verdict == "failed"] == []
    assert list(found) == [
        "fingerprint",
        *(f"{side}{trial}" for side in ("images", "texts") for trial in ("", ", again", ", batches", ", odd ones")),
        "texts, capitals",
        "one space",
        "as a teacher",
        "patches",
        "memory",
    ]
    assert found["one space"].verdict == "ok"
    assert "to the bit" in found["texts, batches"].detail
    assert "2.0 a text, no positions (locate_tokens), which ot-entity needs; no layers" in found["as a teacher"].detail
    assert found["patches"].verdict == "ok"
    assert found["patches"].detail == "patch states, 3.0 a picture"


turn = itertools.count()


def drawn(self: Any, images: Sequence[Any]) -> Floats:
    return np.random.default_rng(next(turn)).standard_normal((len(images), 8), dtype=np.float32)


def normed_by_batch(self: Any, images: Sequence[Any]) -> Floats:
    given = Good().encode_images(images)
    return given - given.mean(0) + 0.1


def shuffled(self: Any, images: Sequence[Any]) -> Floats:
    given = Good().encode_images(images)
    return given[np.argsort(given[:, 0])]


def half(self: Any, images: Sequence[Any]) -> Any:
    return Good().encode_images(images).astype(np.float16)


def refuses_empty(self: Any, texts: Sequence[str], lang: str) -> Floats:
    if "" in texts:
        raise ValueError("empty text")
    return Good().encode_texts(texts, lang)


def cannot_tell(self: object, texts: Sequence[str], lang: str) -> list[Spans]:
    raise HarnessError("a T does not tell")


@pytest.mark.parametrize(
    ("members", "what", "verdict", "words"),
    [
        ({"fingerprint": lambda self: str(next(turn))}, "fingerprint", "failed", "it changes between calls or objects"),
        ({"fingerprint": lambda self: None}, "fingerprint", "failed", "it is None; expected a text"),
        (
            {"fingerprint": lambda self: "my encoder, version 1"},
            "fingerprint",
            "note",
            "'my encoder, version 1' is a constant, so",
        ),
        ({"fingerprint": lambda self: self.name}, "fingerprint", "note", "'good' is the encoder's name, so outdated embeddings"),
        ({"fingerprint": lambda self: f"{self.name} 1"}, "fingerprint", "note", "'good 1' has 6 characters, too few"),
        ({"encode_images": lambda self, x: sys.exit(3)}, "images", "failed", "it raised SystemExit: 3"),
        ({"encode_images": lambda self, x: torch.ones(len(x), 8)}, "images", "failed", r"torch.Tensor; .*return x.float\(\).cpu"),
        (
            {"encode_images": lambda self, x: Good().encode_images(x)[0]},
            "images",
            "failed",
            r"it returned shape \(8,\) for 3 images",
        ),
        ({"encode_images": lambda self, x: np.ones((len(x), 8), int)}, "images", "failed", "it returned int64"),
        ({"encode_images": lambda self, x: np.full((len(x), 8), np.nan)}, "images", "failed", "3 of 3 rows have NaN"),
        ({"encode_images": lambda self, x: np.ones((len(x), 8))}, "images", "failed", "all 3 images have the same embedding"),
        (
            {"encode_images": lambda self, x: np.eye(len(x), 8) * (np.arange(8) > 0)},
            "images",
            "failed",
            "1 of 3 embeddings are zero",
        ),
        ({"encode_images": drawn}, "images, again", "failed", r"randomness is on \(call model.eval\(\)\)"),
        ({"encode_images": normed_by_batch}, "images, batches", "failed", "a single input has another embedding"),
        ({"encode_images": shuffled}, "images, batches", "failed", "in the order of the inputs"),
        ({"encode_images": half}, "images", "note", "but float16"),
        ({"encode_texts": refuses_empty}, "texts, odd ones", "failed", "it raised ValueError: empty text"),
        (
            {"encode_texts": lambda self, x, lang: Good().encode_texts(x, lang)[:, :4]},
            "one space",
            "failed",
            "8 dimensions and texts 4",
        ),
        ({"encode_texts": lambda self, x, lang: Good().encode_texts(x[::-1], lang)[::-1] * 1}, "texts", "ok", "none zero"),
        (
            {"encode_texts": lambda self, x, lang: -Good().encode_texts(x, lang)},
            "one space",
            "note",
            "not score clearly higher than others",
        ),
        (
            {"encode_tokens": lambda self, x, lang: TokenStates(np.ones((2, 8)), np.array([1, 1]), np.ones((2, 8)))},
            "as a teacher",
            "failed",
            "expected 1 or more for each input",
        ),
        (
            {"encode_tokens": lambda self, x, lang: TokenStates(np.ones((3, 8)), np.ones(3, int), np.ones((3, 8)))},
            "as a teacher",
            "failed",
            "`pooled` of encode_tokens differs from encode_texts",
        ),
        (
            {"locate_tokens": lambda self, x, lang: [((0, 0), (0, 1))] * len(x)},
            "as a teacher",
            "note",
            "with their positions; no layers",
        ),
        (
            {"locate_tokens": lambda self, x, lang: [((0, 1),)] * len(x)},
            "as a teacher",
            "failed",
            "different numbers of tokens",
        ),
        (
            {"locate_tokens": lambda self, x, lang: [((0, 1), (2, 99))] * len(x)},
            "as a teacher",
            "failed",
            r"returned a span outside the text '.*': characters count from 0 to",
        ),
        ({"locate_tokens": cannot_tell}, "as a teacher", "note", r"no positions \(a T does not tell\)"),
        (
            {"encode_patches": lambda self, x: TokenStates(np.ones((3, 5)), np.ones(3, int), np.ones((3, 8)))},
            "patches",
            "failed",
            "states have 5 dimensions and embeddings 8: project both into one space",
        ),
        (
            {"encode_patches": lambda self, x: TokenStates(np.full((3, 8), np.nan), np.ones(3, int), np.ones((3, 8)))},
            "patches",
            "failed",
            "3 of 3 rows have NaN",
        ),
    ],
)
def test_each_problem_is_reported(
    trials: Callable[..., dict[str, EncoderCheck]], members: dict[str, Any], what: str, verdict: str, words: str
) -> None:
    import re

    trial = trials(**members)[what]
    assert trial.verdict == verdict, trial
    assert re.search(words, trial.detail), trial.detail


def test_an_encoder_without_token_states_can_be_measured(trials: Callable[..., dict[str, EncoderCheck]]) -> None:
    class Plain:
        name, fingerprint = "plain", Good.fingerprint
        encode_images, encode_texts = Good.encode_images, Good.encode_texts

    found = trials(Plain)
    for what, words in (("as a teacher", "nothing can be distilled from it"), ("patches", "--scorer maxsim needs")):
        assert found[what].verdict == "note"
        assert words in found[what].detail


def test_the_command_checks_the_sample_encoder(flickr30k_folder: Path, tmp_path: Path) -> None:
    """Grey squares give a note about pairs and no failure. A wrong encoder gives exit status 1."""
    from tests.support.plugin_files import harness

    words = ("--data", str(flickr30k_folder), "--split", "test", "--lang", "de")
    done = harness("check", "sample", *words, store=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "over 3 captions in de" in " ".join(done.stdout.split()) or "not score clearly higher" in done.stdout
    assert "layers for students" in done.stdout
    (tmp_path / "bad.py").write_text(
        "class Bad:\n    name = 'bad'\n    def __init__(self, argument, device): pass\n    def fingerprint(self): return ''\n"
        "    def encode_images(self, images): return [0]\n    def encode_texts(self, texts, lang): return None\n"
    )
    bad = harness("check", "bad.py:Bad", *words, store=tmp_path)
    assert bad.returncode == 1
    assert "3 of 3 checks failed" in bad.stdout
    assert "it returned builtins.list; expected a numpy array" in bad.stdout


def test_the_registry_is_unchanged() -> None:
    assert "changed" not in ENCODERS.names()


@pytest.mark.real
def test_the_real_teacher_passes(real_folder: Path) -> None:
    retrieval = Flickr30k().load(real_folder, "en", "val")
    found = {trial.what: trial for trial in check_encoder(f"local-dir:{real_folder / 'teacher'}", retrieval, "cpu")}
    assert {trial.verdict for trial in found.values()} == {"ok"}, found
