"""Commands on towers: distil, show, export, and measure by `run --tower`."""

from __future__ import annotations

import json
import shutil
import threading
import xml.etree.ElementTree as ET
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from harness.core.builtins import load_encoder
from harness.core.config import DistillConfig
from harness.core.data import HeldOut
from harness.core.errors import HarnessError
from harness.core.protocols import Encoder
from harness.distill import tuning
from harness.distill.checkpoint import save_tower
from harness.distill.data.leakage import GuardedBitext, count_leaked, hash_keys, leakage_keys
from harness.distill.distributed import ALONE
from harness.distill.initializers.scratch import draw_weights
from harness.distill.model.tower import TextTower, TowerConfig
from harness.distill.recipe import Recipe
from harness.encoders.open_clip.export import write_open_clip
from harness.records.schema import TowerCard, Trial
from harness.records.towers import load_card
from harness.storage.seals import seal_folder
from harness.storage.store import Store
from tests.support.command_line import harness
from tests.support.students import pairs

SMALL = ("--pairs", "300", "--steps", "10", "--batch", "32")
TEXTS = ["ein Mann läuft", "zwei rote Hunde spielen vor dem Haus", "Wasser"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with a validated tower and a tower that open_clip can represent."""
    folder = tmp_path_factory.mktemp("store")
    for more in (("--objective", "ot-token", "--held-out", "40"), ("--objective", "kd-mse", "--pooling", "last")):
        done = harness("distill", "--lang", "de", *SMALL, *more, store=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def fresh(store: Path, tmp_path: Path) -> Path:
    """Return a store without towers that shares the sample, embeddings and teacher states of the first store."""
    for shared in ("samples", "embeddings", "teacher"):
        (store / shared).mkdir(exist_ok=True)
        (tmp_path / shared).symlink_to(store / shared)
    return tmp_path


def tower(store: Path, objective: str) -> Path:
    (found,) = [path for path in (store / "towers").iterdir() if load_card(path).config.objective == objective]
    return found


def test_a_tower_is_listed_and_shown_with_all_that_made_it(store: Path, tmp_path: Path) -> None:
    listed = harness("towers", "list", store=store).stdout
    folder = tower(store, "ot-token")
    assert folder.name[:12] in listed
    picture = tmp_path / "curves.svg"
    shown = harness("towers", "show", folder.name[:10], "--svg", str(picture), store=store)
    assert shown.returncode == 0, shown.stderr
    for piece in (
        "300 pairs of 4,500",
        "leakage guard",
        "training loss",
        "validation: mean reciprocal rank",
        "held out",
        "commit",
    ):
        assert piece in shown.stdout, piece
    titles = " ".join(element.text or "" for element in ET.parse(picture).iter() if element.tag.endswith("text"))
    assert "training loss" in titles
    assert "validation" in titles
    assert len(load_card(folder).validations) == 10
    assert len(load_card(folder).losses) == 10


def test_a_training_without_progress_is_noted_once_and_on_the_card(fresh: Path) -> None:
    done = harness("distill", "--lang", "de", *SMALL, "--learning-rate", "10", store=fresh)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: the training made no progress: ") == 1
    (found,) = (fresh / "towers").iterdir()
    (note,) = load_card(found).notes
    assert "a learning rate that is too high (10: " in note
    shown = harness("towers", "show", found.name, store=fresh).stdout
    assert "the training made no progress" in shown
    assert "with the teacher on training pairs" in shown
    # Cards of earlier versions have neither field.
    card = json.loads((found / "card.json").read_text())
    earlier = {name: value for name, value in card.items() if name not in ("agreement", "notes")}
    assert TowerCard.model_validate(earlier).notes == ()
    assert TowerCard.model_validate(earlier).agreement is None


def test_a_student_of_both_sides_is_another_tower_that_reads_english(fresh: Path) -> None:
    choices = ("--english-side", "--objective", "ot-entity", "--accumulate", "2")
    done = harness("distill", "--lang", "de", *SMALL, *choices, store=fresh)
    assert done.returncode == 0, done.stderr
    (found,) = (fresh / "towers").iterdir()
    assert load_card(found).config.english_side
    tokenizer = json.loads((found / "tokenizer.json").read_text())
    assert "▁the" in tokenizer["model"]["vocab"]
    refused = harness("distill", "--lang", "de", *SMALL[:2], "--english-side", "--objective", "none", store=fresh)
    assert "--english-side has no use with none: only objectives that are trained read it" in refused.stderr


def test_distilling_again_does_nothing(store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (store / "towers").rglob("*")}
    again = harness("distill", "--lang", "de", *SMALL, "--objective", "ot-token", "--held-out", "40", store=store)
    assert again.returncode == 0
    assert again.stderr == ""
    assert {path: path.stat().st_mtime_ns for path in (store / "towers").rglob("*")} == before


def test_seeds_and_languages_each_make_a_tower_and_shared_ones_one(fresh: Path) -> None:
    short = ("--pairs", "100", "--steps", "2", "--batch", "16", "--objective", "kd-mse")
    assert harness("distill", "--lang", "de,Welsh", "--seeds", "2", *short, store=fresh).returncode == 0
    cards = [load_card(path) for path in (fresh / "towers").iterdir()]
    assert sorted((card.lang, card.config.seed) for card in cards) == [("cy", 0), ("cy", 1), ("de", 0), ("de", 1)]
    shared = harness("distill", "--lang", "de,cy", "--shared", *short, store=fresh)
    assert shared.returncode == 0, shared.stderr
    (card,) = [load_card(path) for path in (fresh / "towers").iterdir() if "," in load_card(path).lang]
    assert (card.lang, card.bitext.used, card.bitext.offered) == ("de,cy", 200, 9000)
    # One tower is measured on both languages.
    for lang in ("de", "cy"):
        measured = harness("run", "--lang", lang, "--tower", card.digest[:10], "--resamples", "200", store=fresh)
        assert measured.returncode == 0, measured.stderr
        assert f"kd-mse {card.digest[:8]}" in measured.stdout


def test_tuning_tries_each_rate_and_takes_the_best(fresh: Path) -> None:
    words = ("distill", "--lang", "de", "--pairs", "200", "--steps", "12", "--batch", "32", "--tune", "--objective", "kd-mse")
    assert harness(*words, store=fresh).returncode == 0
    (folder,) = (fresh / "towers").iterdir()
    card = load_card(folder)
    assert [trial.learning_rate for trial in card.tuning] == [1e-4, 3e-4, 1e-3, 3e-3]
    assert card.config.learning_rate == max(card.tuning, key=lambda trial: trial.score).learning_rate
    assert card.steps == 12
    assert len(list((fresh / "trials").iterdir())) == 4


def test_the_search_tries_every_combination_at_full_length(fresh: Path) -> None:
    words = ("distill", "--lang", "de", "--pairs", "200", "--batch", "32", "--objective", "kd-mse", "--tune")
    grid = ("--tune-rates", "1e-3,1e-2", "--tune-vocabulary", "150,300", "--tune-steps", "2,6")
    done = harness(*words, *grid, store=fresh)
    assert done.returncode == 0, done.stderr
    (folder,) = (fresh / "towers").iterdir()
    card = load_card(folder)
    tried = [(trial.steps, trial.vocabulary, trial.learning_rate) for trial in card.tuning]
    assert tried == list(product((2, 6), (150, 300), (1e-3, 1e-2)))
    assert all(trial.seconds is not None and trial.seconds > 0 for trial in card.tuning)
    best = max(card.tuning, key=lambda trial: trial.score)
    assert (card.config.steps, card.config.vocabulary, card.config.learning_rate) == (
        best.steps,
        best.vocabulary,
        best.learning_rate,
    )
    assert card.steps == best.steps
    # What the search chose is not part of the question: a tower of another seed is of the same arm.
    asked = {"tune_rates": (1e-3, 1e-2), "tune_vocabulary": (150, 300), "tune_steps": (2, 6)}
    assert card.requested == DistillConfig(pairs=200, batch=32, tune=True, learning_rate=1e-3, **asked)
    shown = harness("towers", "show", folder.name, store=fresh)
    assert f"learning rate 0.01, 300 subwords, 6 steps: {card.tuning[-1].score:.2f}" in " ".join(shown.stdout.split())


def test_an_arm_without_new_subwords_is_searched_without_vocabularies() -> None:
    asked = DistillConfig(tune=True, tune_vocabulary=(100, 200, 400), tune_rates=(1e-3, 1e-4))
    arms = [asked.for_arm(arm) for arm in ("kd-mse", "kd-mse@keep-tokenizer", "none")]
    recipes = [Recipe(arm, cast(Encoder, None), (GuardedBitext(pairs(40), 40, 0),), lambda bitext: bitext) for arm in arms]
    counts = [
        len({(each.vocabulary, each.learning_rate) for each in (trial.recipe.config for trial in trials)})
        for trials in map(tuning.search_trials, recipes[:2])
    ]
    assert counts == [6, 2]
    assert tuning.search_trials(recipes[2]) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--tune-steps", "5,10"), "--tune-steps 5,10 has no use with kd-mse: it lists values for --tune"),
        (("--tune", "--tune-steps", "5,10", "--steps", "5"), "--steps 5 has no use with kd-mse: --tune chooses the steps"),
        (("--tune", "--tune-rates", "0"), "--tune-rates"),
        (
            ("--tune", "--tune-vocabulary", "200,400", "--init", "keep-tokenizer"),
            "--tune-vocabulary 200,400 has no use with kd-mse@keep-tokenizer: --init random",
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused(fresh: Path, words: tuple[str, ...], line: str) -> None:
    done = harness("distill", "--lang", "de", "--pairs", "200", "--objective", "kd-mse", *words, store=fresh)
    assert done.returncode == 1
    assert line in " ".join(done.stderr.split())
    assert not (fresh / "towers").exists()


def test_a_rate_that_another_process_is_trying_is_left_for_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tried, held, others_done = Store(tmp_path), list[str](), threading.Event(), threading.Event()

    def attempt(rate: float) -> SimpleNamespace:
        return SimpleNamespace(digest=str(rate), recipe=SimpleNamespace(config=DistillConfig(learning_rate=rate)))

    def try_rate(attempt: SimpleNamespace, *_: object) -> Trial:
        tried.append(attempt.digest)
        if len(tried) == 2:
            others_done.set()
        return Trial(learning_rate=float(attempt.digest), score=float(attempt.digest))

    def hold() -> None:
        with Store(tmp_path).claim(store.trial("0.1")):
            held.set()
            others_done.wait(60)

    monkeypatch.setattr(tuning, "search_trials", lambda _: [attempt(rate) for rate in (0.1, 0.2, 0.3)])
    monkeypatch.setattr(tuning, "run_trial", try_rate)
    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(60)
    found = tuning.tune(None, "cpu", store, None, ALONE)  # type: ignore[arg-type]
    other.join()
    assert tried == ["0.2", "0.3", "0.1"]
    assert [(trial.learning_rate, trial.score) for trial in found] == [(0.1, 0.1), (0.2, 0.2), (0.3, 0.3)]


def test_a_student_that_is_not_trained_has_no_rate_to_tune(fresh: Path) -> None:
    done = harness("distill", "--lang", "de", "--pairs", "200", "--tune", "--objective", "none", store=fresh)
    assert done.returncode == 1
    assert "--tune has no use with none: only objectives that are trained read it" in done.stderr
    config, guarded = DistillConfig(objective="none", tune=True), (GuardedBitext(pairs(40), 40, 0),)
    untrained = Recipe(config, cast(Encoder, None), guarded, lambda bitext: bitext)
    assert tuning.search_trials(untrained) == []


def test_a_tower_is_measured_like_one_that_run_distils(store: Path) -> None:
    folder = tower(store, "ot-token")
    distilled = harness(
        "run", "--lang", "de", *SMALL, "--objectives", "ot-token", "--held-out", "40", "--resamples", "200", store=store
    )
    given = harness("run", "--lang", "de", "--tower", folder.name[:10], "--resamples", "200", store=store)
    assert distilled.returncode == given.returncode == 0, given.stderr
    records = [json.loads(path.read_text()) for path in store.glob("records/*/record.json")]
    # The same cell gives the same record.
    assert sum(record["text_tower"] == "ot-token" for record in records) == 1
    assert " ".join(given.stdout.replace(folder.name[:8], "").split()) == " ".join(distilled.stdout.split())


def test_a_tower_from_elsewhere_is_known_by_what_it_is(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tower(store, "ot-token"), folder)
    before = len(list(store.glob("records/*")))
    measured = harness("run", "--lang", "de", "--tower", str(folder), "--resamples", "200", store=store)
    assert measured.returncode == 0, measured.stderr
    assert len(list(store.glob("records/*"))) > before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda card: card | {"teacher_fingerprint": "0" * 64, "teacher": "open_clip:A/b"}, "was distilled from open_clip:A/b"),
        (None, "has no seen.npy"),
        ("leak", "was distilled from 1 of this folder's evaluation images"),
    ],
)
def test_a_tower_that_cannot_be_measured_honestly_is_refused(store: Path, tmp_path: Path, spoil: object, message: str) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tower(store, "ot-token"), folder)
    if spoil == "leak":
        (sample,) = (store / "samples").iterdir()
        images = json.loads((sample / "dataset_flickr30k.json").read_text())["images"]
        image = next(entry["filename"].removesuffix(".jpg") for entry in images if entry["split"] == "test")
        np.save(folder / "seen.npy", hash_keys(leakage_keys([image])))
    elif callable(spoil):
        card = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps(spoil(card)))
    else:
        (folder / "seen.npy").unlink()
    seal_folder(folder, json.loads((folder / "card.json").read_text())["digest"])  # as a forger of a tower would do
    refused = harness("run", "--lang", "de", "--tower", str(folder), store=store)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_what_was_seen_is_told_by_image_and_by_either_sentence() -> None:
    held_out = HeldOut(frozenset({"7"}), frozenset({"A dog runs .", "..."}), frozenset({"Ein Hund läuft ."}))
    assert count_leaked(hash_keys(leakage_keys(["7"], ["Two cats ."], ["EIN HUND läuft"])), held_out) == 2
    assert count_leaked(hash_keys(leakage_keys(["9"], ["a dog runs"], ["Zwei Katzen ."])), held_out) == 1
    assert count_leaked(hash_keys(leakage_keys(["9", ""], ["Two cats .", ""], ["Zwei Katzen .", "!"])), held_out) == 0


def test_a_tower_made_before_foreign_sentences_were_compared_is_still_known() -> None:
    held_out = HeldOut(frozenset({"7"}), frozenset({"A dog runs ."}), frozenset({"Ein Hund läuft ."}))
    assert count_leaked(hash_keys(["image 7", "sentence a dog runs", "image 9", "sentence two cats"]), held_out) == 2


@pytest.mark.parametrize(("words", "message"), [
    (("towers", "show", "zzz"), "neither a folder with a card.json nor the beginning of a digest"),
    (("distill", "--lang", "en"), "English is the source of distillation"),
    (("distill", "--lang", "de", "--patience", "2"), "--patience 2 has no use with kd-mse: "),
    (("distill", "--lang", "de", "--pairs", "20", "--held-out", "19"), "leaves nothing to train on"),
    (("distill", "--lang", "de", "--init", "hf:here", "--unpaired", "9"), "--unpaired 9 has no use with kd-mse@hf:here"),
    (("distill", "--lang", "de", "--text", "."), "--text holds monolingual text: set with --unpaired how many"),
    (("distill", "--lang", "de", "--init", "wrong"), "no initializer is called 'wrong'"),
    (("distill", "--lang", "de", "--init", "hf:/nowhere/at/all"), "hf:/nowhere/at/all"),
])  # fmt: skip
def test_errors_are_one_line(words: tuple[str, ...], message: str, store: Path) -> None:
    done = harness(*words, store=store)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_exported_tower_is_read_by_open_clip_itself(store: Path, tmp_path: Path) -> None:
    import open_clip

    out = tmp_path / "exported"
    folder = tower(store, "kd-mse")
    exported = harness("towers", "export", folder.name[:10], "--out", str(out), store=store)
    assert exported.returncode == 0, exported.stderr
    again = harness("towers", "export", folder.name[:10], "--out", str(out), store=store)
    assert "is there already" in again.stderr
    moved = out.rename(tmp_path / "moved")
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{moved}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{moved}")
    with torch.inference_mode():
        texts = model.eval().encode_text(tokenizer(TEXTS)).numpy()
    ours = load_encoder(f"local-dir:{moved}", "cpu")
    distilled = embed(folder)
    np.testing.assert_allclose(texts, distilled, atol=1e-5)
    np.testing.assert_allclose(ours.encode_texts(TEXTS, "de"), distilled, atol=1e-5)


def embed(folder: Path) -> np.ndarray:
    from harness.distill.distilled_tower import DistilledTower

    return DistilledTower(folder, "cpu").encode_texts(TEXTS, "de")


def test_a_tower_that_open_clip_has_no_form_for_says_so(store: Path, tmp_path: Path) -> None:
    refused = harness("towers", "export", tower(store, "ot-token").name[:10], "--out", str(tmp_path / "x"), store=store)
    assert refused.returncode == 1
    assert "open_clip has no pre-norm causal text tower with mean pooling" in refused.stderr
    assert not (tmp_path / "x").exists()


def test_a_tower_of_berts_make_becomes_a_hugging_face_one(tmp_path: Path) -> None:
    import open_clip

    from harness.distill.data.subwords import train_tokenizer

    tokenizer = train_tokenizer(TEXTS * 3, 120)
    size = tokenizer.get_vocab_size()
    shape = TowerConfig(
        vocab_size=size, width=32, layers=2, heads=2, mlp_width=64, joint_dim=128, max_length=20, norm="post", norm_eps=1e-12
    )
    student = TextTower(shape)
    draw_weights(student, torch.Generator().manual_seed(0))
    (folder := tmp_path / "tower").mkdir()
    save_tower(folder, student, tokenizer)
    write_open_clip(folder, load_encoder("sample", "cpu"), tmp_path / "out", "me/mine")
    config = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["hf_model_name"] == "me/mine"
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": str(tmp_path / "out")}
    (tmp_path / "out" / "open_clip_config.json").write_text(json.dumps(config))
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    with torch.inference_mode():
        texts = model.eval().encode_text(open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(TEXTS)).numpy()
    np.testing.assert_allclose(texts, embed(folder), atol=1e-5)


def test_a_student_starts_from_a_hugging_face_model(fresh: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import processors

    from harness.distill.data.subwords import train_tokenizer

    tokenizer = train_tokenizer([*TEXTS, "ein blaues Auto steht auf der Straße"] * 3, 150)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save(str(tmp_path / "bert" / "tokenizer.json"))
    words = ("distill", "--lang", "de", "--pairs", "60", "--steps", "2", "--batch", "16", "--init", f"hf:{tmp_path / 'bert'}")
    done = harness(*words, "--objective", "kd-mse", store=fresh)
    assert done.returncode == 0, done.stderr
    (folder,) = (fresh / "towers").iterdir()
    shape = json.loads((folder / "shape.json").read_text())
    assert (shape["width"], shape["layers"], shape["norm"], shape["joint_dim"]) == (32, 2, "post", 128)
    # Without training, the token states are the model's own.
    from harness.encoders.hugging_face.initial_models import HuggingFaceInitializer, with_projection

    start = HuggingFaceInitializer(str(tmp_path / "bert"))
    student = with_projection(start.donate_layers(), 128, DistillConfig(), torch.Generator().manual_seed(0)).eval()
    ids = start.own_tokenizer().encode(TEXTS[1]).ids
    with torch.inference_mode():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(student.encode([ids]).states[0], student.projection(hidden), atol=1e-5, rtol=1e-4)


def test_another_model_under_the_same_name_makes_another_tower(tmp_path: Path) -> None:
    from harness.core.builtins import load_initializer

    (folder := tmp_path / "model").mkdir()
    prints = []
    for weights in (b"one", b"two"):
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_bytes(weights)
        start = load_initializer(f"hf:{folder}")
        prints.append(start.fingerprint())
    assert prints[0] != prints[1]
    (folder / "tokenizer.json").unlink()
    missing = load_initializer(f"hf:{folder}")
    with pytest.raises(HarnessError, match=r"has no tokenizer\.json"):
        missing.fingerprint()
