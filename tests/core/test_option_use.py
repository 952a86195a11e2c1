"""The options that each part of a distillation reads, against the code that reads them, and what follows for a tower's digest."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from harness.core.builtins import INITIALIZERS, OBJECTIVES, load_initializer, register_objective
from harness.core.config import DistillConfig, validated
from harness.core.data import Bitext, TokenStates
from harness.core.errors import HarnessError
from harness.core.option_use import (
    ALWAYS_READ,
    INITIALIZER_READS,
    OBJECTIVE_READS,
    OPTIONS,
    SEARCH_READS,
    TRAINER_READS,
    check_options,
    initializer_reads,
    objective_reads,
)
from harness.core.protocols import Encoder
from harness.distill import recipe as recipes
from harness.distill.data.bitext import MonolingualText
from harness.distill.data.leakage import GuardedBitext
from harness.distill.model.tower import Encoded
from harness.distill.recipe import Recipe
from harness.distill.tuning import search_trials
from tests.support.students import Teacher, Training, pairs

pytestmark = pytest.mark.filterwarnings("ignore::harness.distill.transport.problem.NotConverged")

READ: set[str] = set()


class RecordedConfig(DistillConfig):
    """Options that record which of them are read."""

    def __getattribute__(self, name: str) -> object:
        if name in DistillConfig.model_fields:
            READ.add(name)
        return super().__getattribute__(name)


class RecordedText(MonolingualText):
    """Monolingual text that records that it is read."""

    def __getattribute__(self, name: str) -> object:
        if name in ("english", "foreign"):
            READ.add("unpaired")
        return super().__getattribute__(name)


@pytest.fixture(autouse=True)
def _nothing_is_read_yet() -> Iterator[None]:
    READ.clear()
    yield
    READ.clear()


def encoded(seed: int, entities: float) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.tensor([5, 3, 4])[:, None]
    states = torch.randn(3, 5, 6, generator=generator) * mask[:, :, None]
    return Encoded(states, mask, torch.randn(3, 6, generator=generator), torch.full((3, 5), entities))


@pytest.mark.parametrize("objective", OBJECTIVES.builtin_names())
def test_an_objective_declares_the_options_that_its_loss_reads(objective: str) -> None:
    loss = OBJECTIVES.load(objective)
    for solver in ("sinkhorn", "ipot", "exact"):
        for diagonal in ("keep", "remove"):
            for sentence_weight in (0.0, 1.0):
                choices = {"solver": solver, "diagonal": diagonal, "sentence_weight": sentence_weight}
                config = RecordedConfig(objective=objective, **choices)  # type: ignore[arg-type]
                READ.discard("objective")
                loss(encoded(0, torch.nan), encoded(1, 1.0), config)
    assert set(OBJECTIVES.find(objective).reads) == READ


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("solver", ("sinkhorn", "ipot", "exact")),
        ("eps", (0.1, 0.5)),
        ("rho", (1.0, 0.1)),
        ("sentence_weight", (1.0, 0.3)),
        ("entity_weight", (2.0, 7.0)),
        ("temperature", (0.05, 0.5)),
        ("diagonal", ("keep", "remove")),
        ("alpha", (0.5, 0.9)),
        ("batch_eps", (0.15, 0.6)),
        ("batch_iterations", (5, 1)),
    ],
)
def test_an_option_changes_the_losses_that_declare_it_and_no_other(option: str, values: tuple[object, ...]) -> None:
    teacher = replace(encoded(1, 0.0), entities=torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]]))
    for name in OBJECTIVES.builtin_names():
        # The plan over the batch is soft enough for its iterations to differ.
        configs = [DistillConfig(**{"batch_eps": 1.0} | {option: value}) for value in values]  # type: ignore[arg-type]
        losses = [OBJECTIVES.load(name)(encoded(0, torch.nan), teacher, config) for config in configs]
        assert (len({float(loss) for loss in losses}) > 1) == (option in OBJECTIVES.find(name).reads), name


class Located(Teacher):
    """A teacher that tells where its tokens stand, and gives their states."""

    def locate_tokens(self, texts: Sequence[str], _: str) -> list[tuple[tuple[int, int], ...]]:
        return [((0, 0), (0, 0)) for _ in texts]

    def encode_texts(self, texts: Sequence[str], _: str) -> np.ndarray:
        return np.zeros((len(texts), 8), dtype=np.float32)

    def encode_tokens(self, texts: Sequence[str], _: str) -> TokenStates:
        lengths = np.full(len(texts), 2)
        return TokenStates(np.ones((2 * len(texts), 8), np.float32), lengths, np.zeros((len(texts), 8), np.float32))


ARGUMENTS = {"simalign": "simalign:argmax"}


@pytest.mark.parametrize("init", [ARGUMENTS.get(name, name) for name in INITIALIZERS.builtin_names() if name != "hf"])
def test_an_initializer_declares_the_options_that_it_reads(init: str) -> None:
    text = RecordedText(("Another sentence .",), ("noch ein hund",))
    for spelling in (0.0, 1.0):
        config = RecordedConfig(init=init, spelling=spelling)
        READ.clear()
        initializer = load_initializer(init)
        initializer.student(cast(Encoder, Located()), config, pairs(30), text)
    # Subwords depend on the sentences that the trainer reads.
    assert initializer_reads(init) == READ - {"seed", "english_side"}


def test_a_model_of_the_hub_reads_pooling_and_prefix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    initializer, donated = load_initializer("hf:bert"), Teacher().donate_layers()
    monkeypatch.setitem(vars(initializer), "folder", tmp_path)
    monkeypatch.setattr(type(initializer), "own_tokenizer", lambda _: cast(Tokenizer, None))
    monkeypatch.setattr(type(initializer), "donate_layers", lambda _: donated)
    config, text = RecordedConfig(init="hf:bert", prefix=""), RecordedText()
    READ.clear()
    initializer.student(cast(Encoder, Located()), config, pairs(30), text)
    assert {*INITIALIZERS.find("hf").reads, "seed"} == READ


def test_the_trainer_reads_what_is_declared(tmp_path: Path) -> None:
    training = Training("kd-mse", steps=4)
    tower = training.student()
    config = RecordedConfig(objective="kd-mse", steps=4, batch=16, held_out=8, patience=9)
    training.config = config
    recipe = Recipe(config, cast(Encoder, Located()), (GuardedBitext(pairs(40), 40, 0),), lambda bitext: bitext)
    searched = replace(recipe, config=RecordedConfig(tune=True, tune_vocabulary=(100, 200)))
    READ.clear()
    training.run(tower, tmp_path / "training.safetensors")
    assert search_trials(recipe) == []
    assert READ.isdisjoint(SEARCH_READS)
    assert len(search_trials(searched)) == 8
    assert {*SEARCH_READS} <= READ
    # Every new recipe checks whether its teacher serves --spelling.
    READ.difference_update(SEARCH_READS, ("spelling",))
    assert {*TRAINER_READS, "objective", "seed", "held_out"} <= READ | {"pairs"}
    assert {*TRAINER_READS, *ALWAYS_READ} >= READ
    tuned = Recipe(DistillConfig(tune=True, learning_rate=0.5), recipe.teacher, recipe.guarded, recipe.tag)
    assert 0.5 not in {attempt.recipe.config.learning_rate for attempt in search_trials(tuned)}


def test_every_option_has_a_reader() -> None:
    assert set(DistillConfig.model_fields) == OPTIONS
    parts = (ALWAYS_READ, SEARCH_READS, TRAINER_READS, OBJECTIVE_READS, INITIALIZER_READS)
    assert sum(map(len, parts)) == len(OPTIONS), "no option has readers of two kinds"


def test_a_sum_reads_what_its_terms_read() -> None:
    assert objective_reads("kd-mse + 0.5*ot-unbalanced + kd-contrastive") == {"eps", "rho", "sentence_weight", "temperature"}
    assert objective_reads("none") == objective_reads("ridge") == frozenset()


def test_a_plug_in_reads_what_it_declares_or_everything(tmp_path: Path) -> None:
    lines = "def declared(s, t, c): ...\n\n\ndeclared.reads = ('eps',)\n\n\ndef silent(s, t, c): ...\n"
    path = tmp_path / "mine.py"
    path.write_text(lines + "\n\ndef wrong(s, t, c): ...\n\n\nwrong.reads = ('epsilon',)\n")
    assert objective_reads(f"{path}:declared") == {"eps"}
    assert objective_reads(f"{path}:silent") == {*OBJECTIVE_READS} - {"entity_weight"}
    with pytest.raises(HarnessError, match=r"wrong declares that it reads 'epsilon', which is no option .*: did you mean .*eps"):
        objective_reads(f"{path}:wrong")
    check_options(DistillConfig(eps=0.2, rho=2.0), [f"{path}:silent"])
    with pytest.raises(HarnessError, match=r"^--rho 2\.0 has no use with .*:declared: ot-unbalanced reads it$"):
        check_options(DistillConfig(eps=0.2, rho=2.0), [f"{path}:declared"])


def test_a_registered_objective_may_be_a_function_without_the_attribute() -> None:
    register_objective("test-silent-loss", lambda student, *_: student.pooled.sum())
    assert "temperature" in objective_reads("test-silent-loss")


def test_an_unknown_initializer_is_answered_with_the_nearest() -> None:
    with pytest.raises(HarnessError, match=r"^no initializer is called 'ot-sentence': did you mean ot-sentences"):
        initializer_reads("ot-sentence")
    with pytest.raises(HarnessError, match=r"takes no argument: leave ':x' out of --init"):
        load_initializer("random:x")
    with pytest.raises(HarnessError, match=r"expected --init hf:NAME-or-FOLDER"):
        load_initializer("hf")


@pytest.mark.parametrize(
    ("choices", "objectives", "line"),
    [
        (
            {"eps": 0.2},
            ("kd-mse",),
            "--eps 0.2 has no use with kd-mse: ot-token, ot-entity and ot-unbalanced read it",
        ),
        (
            {"solver": "ipot"},
            ("ot-unbalanced", "kd-mse"),
            "--solver ipot has no use with ot-unbalanced and kd-mse: ot-token and ot-entity read it",
        ),
        ({"size": "tiny"}, ("kd-mse",), "--size tiny has no use with kd-mse: --init scratch reads it"),
        (
            {"spelling": 10, "init": "scratch"},
            ("kd-mse",),
            "--spelling 10.0 has no use with kd-mse@scratch: --init association, ibm1, ot-vocabulary, ot-sentences, "
            "ot-contexts, ot-teacher-tokens and ibm1-teacher-tokens read it",
        ),
        (
            {"patience": 2},
            ("kd-mse",),
            "--patience 2 has no use with kd-mse: it counts validations, so keep pairs for them with --held-out",
        ),
        (
            {"tune": True, "learning_rate": 0.5},
            ("kd-mse",),
            "--learning-rate 0.5 has no use with kd-mse: --tune chooses the learning rate",
        ),
        (
            {"tune": True},
            ("none", "ridge"),
            "--tune has no use with none and ridge: only objectives that are trained read it",
        ),
        ({"steps": 3}, (), "--steps 3 has no use: nothing is distilled without --arms"),
    ],
)
def test_an_option_that_nothing_reads_is_refused_in_one_line(
    choices: dict[str, object], objectives: tuple[str, ...], line: str
) -> None:
    with pytest.raises(HarnessError) as caught:
        check_options(validated(DistillConfig, **choices), objectives)
    assert str(caught.value) == line


def test_an_option_that_one_objective_reads_is_accepted() -> None:
    config = DistillConfig(eps=0.2, steps=30, held_out=4, patience=2)
    check_options(config, ["kd-mse", "none", "kd-mse + 0.5*ot-token"])
    assert config.for_arm("none") == DistillConfig(objective="none", held_out=4)
    assert config.for_arm("kd-mse") == DistillConfig(steps=30, held_out=4, patience=2)


class Fingerprinted:
    """A teacher of which only the digest is needed."""

    name = "teacher"

    def fingerprint(self) -> str:
        return "teacher"

    def locate_tokens(self, texts: Sequence[str], lang: str) -> object:
        raise NotImplementedError


def digest(folder: Path, monkeypatch: pytest.MonkeyPatch, **choices: object) -> str:
    """The digest's first half of a tower of twelve pairs."""
    rows = range(12)
    sides = (tuple(f"{word} {row} ." for row in rows) for word in ("Sentence", "Satz"))
    bitext = Bitext("de", "test", "human translation", *sides, tuple(f"image {row}" for row in rows))
    # A new trainer renames all towers, the declared options none.
    monkeypatch.setattr(recipes, "TRAINER_VERSION", 2)
    (folder / "bert").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / "bert" / name).write_text(name)
    monkeypatch.chdir(folder)
    config = DistillConfig(**choices)  # type: ignore[arg-type]

    def tagged(bitext: Bitext) -> Bitext:
        return replace(bitext, english_entities=(((0, 8),),) * len(bitext), foreign_entities=(None,) * len(bitext))

    teacher = cast(Encoder, Fingerprinted())
    return Recipe(config.for_arm(config.objective), teacher, (GuardedBitext(bitext, 12, 0),), tagged).digest[:16]


# Computed before objectives and initializers declared their options: no tower that was trained then is trained again.
DIGESTS: list[tuple[str, dict[str, object]]] = [
    ("67a12cdd03ff249c", {}),
    ("40f285059fcb41ed", {"objective": "kd-cosine", "pairs": 5, "seed": 3, "held_out": 2}),
    ("ddea26c36143deb4", {"objective": "kd-contrastive", "temperature": 0.1, "pooling": "last"}),
    ("e6b8d923565a75da", {"objective": "kd-relation", "temperature": 0.1, "diagonal": "remove"}),
    ("040be3ec0f79aaab", {"objective": "ot-token", "eps": 0.2, "sentence_weight": 0.0}),
    ("824f172ebc2731a4", {"objective": "ot-token", "solver": "ipot", "init": "ot-sentences", "spelling": 10}),
    ("f6d9c7c6d1476dc7", {"objective": "ot-unbalanced", "eps": 0.05, "rho": 3.0, "sentence_weight": 2.0}),
    ("97d482072563190b", {"objective": "ot-entity", "entity_weight": 3.0, "solver": "exact"}),
    (
        "15f4228e52385233",
        {
            "objective": "ot-batch",
            "temperature": 0.07,
            "diagonal": "remove",
            "alpha": 0.3,
            "batch_eps": 0.2,
            "batch_iterations": 9,
        },
    ),
    ("4ee23478c865186b", {"objective": "ot-token+0.50*kd-relation", "eps": 0.2, "temperature": 0.1}),
    ("ac0e2552db25c69c", {"objective": "none", "init": "association", "unpaired": 2, "pairs": 4, "vocabulary": 300}),
    ("98ad275f79320600", {"objective": "ridge", "init": "ibm1", "pooling": "attention", "held_out": 2}),
    ("1c75833a890cc942", {"objective": "kd-mse", "init": "ot-contexts", "unpaired": 2, "pairs": 4, "vocabulary": 3000}),
    ("9460f87f614147c9", {"objective": "kd-mse", "init": "ot-vocabulary", "spelling": 2.5}),
    ("0f8924a175865da7", {"objective": "kd-mse", "init": "scratch", "size": "tiny"}),
    # Computed since pretrained students are trained from a fitted projection, which makes other towers.
    ("688d25fac2879842", {"objective": "kd-mse", "init": "hf:bert", "pooling": "last"}),
    (
        "45498b14f09f7e0e",
        {
            "objective": "kd-mse",
            "steps": 50,
            "batch": 8,
            "learning_rate": 0.003,
            "weight_decay": 0.1,
            "warmup": 0.2,
            "held_out": 2,
            "patience": 3,
            "precision": "bfloat16",
            "accumulate": 2,
            "checkpointing": True,
        },
    ),
    ("e92ee2017c0ef4f7", {"objective": "kd-mse", "tune": True}),
]
UNREAD: list[tuple[dict[str, object], str, dict[str, object]]] = [
    ({"eps": 0.2}, "16a582614e9905e8", {}),
    ({"objective": "ot-unbalanced", "solver": "ipot"}, "f0a7d2c2d27cf03f", {"objective": "ot-unbalanced"}),
    ({"objective": "none", "steps": 50, "tune": True}, "7c2fd516cc35d785", {"objective": "none"}),
    ({"init": "hf:bert", "vocabulary": 300}, "c4cfd4fc9897103d", {"init": "hf:bert"}),
    ({"tune": True, "learning_rate": 3e-3}, "6d8b76db77ed4143", {"tune": True}),
    ({"objective": "ridge", "precision": "bfloat16"}, "48de696f2d196ad7", {"objective": "ridge"}),
]


@pytest.mark.parametrize(("expected", "choices"), DIGESTS)
def test_a_tower_of_options_that_are_read_keeps_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: str, choices: dict[str, object]
) -> None:
    assert digest(tmp_path, monkeypatch, **choices) == expected


def test_the_default_learning_rate_is_the_initializer_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"teacher": 1e-3, "scratch": 1e-3, "./mine.py:Mine": 1e-3, "hf:bert": 1e-4}
    assert {init: DistillConfig(init=init).peak_learning_rate for init in rates} == rates
    digests = []
    for number, (init, rate) in enumerate([("teacher", None), ("teacher", 1e-3), ("hf:bert", None), ("hf:bert", 1e-4)]):
        (tmp_path / str(number)).mkdir()
        digests.append(digest(tmp_path / str(number), monkeypatch, init=init, learning_rate=rate))
    assert digests[0] == digests[1] != digests[2] == digests[3]
    teacher, guarded = cast(Encoder, Fingerprinted()), (GuardedBitext(pairs(40), 40, 0),)
    for init in ("teacher", "hf:bert"):
        recipe = Recipe(DistillConfig(init=init, tune=True), teacher, guarded, lambda bitext: bitext)
        tried = [trial.recipe.config.learning_rate for trial in search_trials(recipe)]
        assert recipe.config.peak_learning_rate in tried
        assert len(tried) == 4


@pytest.mark.parametrize(("choices", "former", "same"), UNREAD)
def test_options_that_nothing_reads_make_no_other_tower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choices: dict[str, object], former: str, same: dict[str, object]
) -> None:
    found = digest(tmp_path, monkeypatch, **choices)
    (tmp_path / "again").mkdir()
    assert found == digest(tmp_path / "again", monkeypatch, **same) != former
