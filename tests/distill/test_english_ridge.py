"""The objective `ridge-english`: what it reads, what its tower depends on, and the map that it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers

from harness.core.config import DistillConfig, RunConfig
from harness.core.data import Bitext, Floats, HeldOut, TokenStates
from harness.core.errors import HarnessError, MissingError
from harness.core.languages import all_languages
from harness.core.option_use import check_options
from harness.core.protocols import Encoder
from harness.distill.data.leakage import GuardedBitext, hash_keys, leakage_keys, seen_hashes
from harness.distill.data.subwords import english_tokenizer
from harness.distill.distributed import ALONE
from harness.distill.recipe import Recipe
from harness.distill.student_training import train_student
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.runtime.console import Console
from harness.storage.store import Store
from tests.support.nllb_tokenizers import write_nllb

DIM = 6
Texts = tuple[tuple[str, ...], tuple[str, ...]]


class Embedding:
    """A teacher whose embedding of a text is random, decided by the text."""

    name = "teacher"

    def fingerprint(self) -> str:
        return "teacher"

    def encode_texts(self, texts: Sequence[str], _: str) -> Floats:
        return np.stack([np.random.default_rng(list(text.encode()) or [0]).normal(size=DIM) for text in texts]).astype(np.float32)

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:
        pooled = self.encode_texts(texts, lang)
        return TokenStates(pooled, np.ones(len(texts), np.int64), pooled)


def bitext(lang: str = "de", foreign: str = "hund") -> Bitext:
    rows = range(24)
    english = tuple(f"a dog runs {'on grass ' * (row % 3)}{'red ' * (row % 5)}cat" for row in rows)
    sides = (english, tuple(f"{foreign} {row}" for row in rows))
    return Bitext(lang, "test", "human translation", *sides, tuple(f"image {row}" for row in rows))


def recipe(folder: Path, given: Bitext | None = None, texts: Texts | None = None, **choices: object) -> Recipe:
    options = {"objective": "ridge-english", "init": f"hf:{folder}", "pairs": 16, **choices}
    config = DistillConfig(**options)  # type: ignore[arg-type]
    guarded = GuardedBitext(given or bitext(), 24, 0, texts)
    return Recipe(config.for_arm(config.objective), cast(Encoder, Embedding()), (guarded,), lambda bitext: bitext)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nllb")
    write_nllb(folder)
    return folder


def test_the_tower_depends_on_the_english_side_and_the_language_alone(folder: Path) -> None:
    whole = recipe(folder)
    assert whole.digest == recipe(folder, bitext(foreign="katze")).digest
    assert whole.bitext.foreign == ("",) * 16
    others = [recipe(folder, replace(bitext(), english=bitext().foreign)), recipe(folder, bitext("qu")), recipe(folder, seed=1)]
    assert len({whole.digest, *(each.digest for each in others)}) == 4
    seen = seen_hashes(whole.bitext, whole.text)
    used = whole.bitext
    np.testing.assert_array_equal(seen, hash_keys(leakage_keys(used.image_ids, used.english)))


def test_languages_share_the_tower_of_a_student_that_reads_them_alike(tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    one, other = recipe(tmp_path), recipe(tmp_path, bitext("qu"))
    assert one.digest == other.digest
    assert one.bitext.lang == "en"
    assert one.digest != recipe(tmp_path, pairs=15).digest


def test_a_language_without_bitext_has_the_english_side_of_another(tmp_path: Path) -> None:
    whole = bitext("cs", foreign="pes")
    held_out = HeldOut(frozenset({"image 3"}), frozenset(), frozenset({"pes 5"}))

    def load(_: Path, lang: str) -> Bitext:
        if lang != "cs":
            raise MissingError(f"no bitext in {lang}")
        return whole

    codes = ("ar", "cs", "en", "sw")
    task: Any = SimpleNamespace(load_bitext=load, languages=lambda: dict.fromkeys(codes), held_out=lambda *_: held_out)
    swahili = all_languages()["sw"]
    choices = RunConfig(lang="sw", clean=True)
    (guarded,) = load_guarded_bitext(task, tmp_path, [swahili], choices, english_alone=True)
    assert guarded.bitext.lang == "sw"
    assert guarded.bitext.english == tuple(text for row, text in enumerate(whole.english) if row != 3)
    assert not any(guarded.bitext.foreign)
    with pytest.raises(MissingError, match="no bitext in sw"):
        load_guarded_bitext(task, tmp_path, [swahili], choices)
    codes = ("ar", "sw")
    with pytest.raises(MissingError, match="no bitext in sw"):
        load_guarded_bitext(task, tmp_path, [swahili], choices, english_alone=True)


def test_monolingual_english_replaces_that_of_the_pairs(folder: Path) -> None:
    texts = (tuple(f"one cat {row}" for row in range(40)), tuple(f"eine {row}" for row in range(40)))
    many = recipe(folder, texts=texts, unpaired=30)
    assert set(many.bitext.english) < set(texts[0])
    assert len(many.bitext) == 30
    assert many.digest == recipe(folder, texts=(texts[0], texts[1][::-1]), unpaired=30).digest
    check_options(many.config, ["ridge-english"])
    with pytest.raises(HarnessError, match=r"--unpaired 30 has no use with ridge@hf:m: ridge-english, --init random, "):
        check_options(DistillConfig(init="hf:m", unpaired=30), ["ridge"])


def test_the_map_is_the_ridge_from_english_states_to_the_teacher_s_embeddings(folder: Path, tmp_path: Path) -> None:
    from sklearn.linear_model import RidgeCV

    from harness.distill.model.ridge import PENALTIES

    made = recipe(folder)
    student, tokenizer, state = train_student(made, "name", "cpu", Store.at(tmp_path), Console(quiet=True), ALONE)
    assert state.losses == []
    assert tokenizer.encode("a dog").tokens[0] == "deu_Latn"
    model = transformers.M2M100Model.from_pretrained(folder).eval()
    english = transformers.AutoTokenizer.from_pretrained(folder, src_lang="eng_Latn")
    with torch.inference_mode():
        states = [
            model.encoder(**english(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in made.bitext.english
        ]
    h, z = torch.stack(states).double().numpy(), made.teacher.encode_texts(made.bitext.english, "en")
    fitted = RidgeCV(PENALTIES * np.square(h).sum(1).mean(), fit_intercept=False).fit(h, z)
    np.testing.assert_allclose(student.projection.weight.detach().numpy(), fitted.coef_, rtol=1e-3, atol=1e-4)


def test_a_pretrained_student_is_trained_from_the_ridge_map(folder: Path, tmp_path: Path) -> None:
    weights = []
    for choices in ({"objective": "ridge"}, {"objective": "kd-mse", "steps": 1, "learning_rate": 1e-9}, {"objective": "none"}):
        made = recipe(folder, **choices)
        student, _, _ = train_student(made, "name", "cpu", Store.at(tmp_path), Console(quiet=True), ALONE)
        weights.append(student.projection.weight.detach().numpy())
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-6)
    assert np.abs(weights[0] - weights[2]).max() > 0.01


def test_english_text_is_read_behind_its_own_mark(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, src_lang="quy_Latn").backend_tokenizer
    assert tokenizer.encode("a dog").tokens[0] == "quy_Latn"
    theirs = transformers.AutoTokenizer.from_pretrained(folder, src_lang="eng_Latn")
    english = english_tokenizer(tokenizer)
    assert english.encode("a dog").ids == theirs("a dog")["input_ids"]
    assert tokenizer.encode("a dog").tokens[0] == "quy_Latn"
    assert english_tokenizer(english).encode("a dog").ids == theirs("a dog")["input_ids"]


def test_a_student_of_subwords_from_the_pairs_is_refused() -> None:
    for init in ("random", "ot-sentences", "scratch"):
        with pytest.raises(
            HarnessError, match=rf"ridge-english reads no sentence pair, and --init {init} makes .*--init hf:NAME"
        ):
            recipe(Path(), init=init)
