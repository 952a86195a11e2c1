"""The leakage guard, nested subsets, subwords, the student, and a training that can be broken off."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.core.config import LARGEST_SEED, Config, DistillConfig, ExecutorConfig, RunConfig, validated
from harness.core.data import Bitext, HeldOut
from harness.core.errors import HarnessError
from harness.distill.checkpoint import load_tower, save_tower
from harness.distill.data.bitext import joined, subset
from harness.distill.data.leakage import Guarded, compared, guard
from harness.distill.data.monolingual import unpaired
from harness.distill.data.subwords import END, START, tokenize, train_tokenizer
from harness.distill.model.student import new_student
from harness.distill.model.tower import TOKENS_A_CHUNK, TextTower
from harness.distill.pipeline import loss_curve, recent_loss
from harness.distill.trainer import batches
from harness.distill.transport.problem import Solver
from harness.retrieval.ranking import rank
from tests.support.students import SHAPE, Teacher, Training, pairs


def test_guard_drops_by_image_id_and_counts() -> None:
    guarded = guard(pairs(10), HeldOut(frozenset({"img3", "img7", "other"}), frozenset()))
    assert (guarded.offered, guarded.dropped, len(guarded.bitext)) == (10, 2, 8)
    assert not {"img3", "img7"} & set(guarded.bitext.image_ids)


@pytest.mark.parametrize("ids", [False, True])
def test_guard_drops_by_either_sentence_whether_or_not_a_pair_has_an_id(ids: bool) -> None:
    given = pairs(10, ids)
    own = next(text for text in given.foreign if given.foreign.count(text) == 1)
    row = given.foreign.index(own)
    english = f"SENTENCE number {(row + 1) % 10}"
    held_out = HeldOut(frozenset({"img3"} - {f"img{row}"}), frozenset({english, "..."}), frozenset({f"{own.upper()} !", ""}))
    guarded = guard(given, held_out)
    lost = {row, (row + 1) % 10, *([3] if ids else [])}
    assert [place - 1 for place in guarded.bitext.places] == sorted({*range(10)} - lost)
    assert (guarded.offered, guarded.dropped) == (10, len(lost))
    assert "by English sentence" in guarded.bitext.notes[-1]
    assert "by de sentence" in guarded.bitext.notes[-1]


def test_guard_says_how_many_each_reason_dropped() -> None:
    given = Bitext("sw", "own", "unstated", ("a", "b", "c", "d", "e"), ("v", "w", "x", "y", "z"), ("1", "2", "3", "", ""))
    held_out = HeldOut(frozenset({"1"}), frozenset({"A", "B"}), frozenset({"W", "Y"}))
    guarded = guard(given, held_out)
    assert guarded.bitext.english == ("c", "e")
    note = "the leakage guard dropped 3 pairs of own (sw): 1 by image id, 1 by English sentence, 1 by sw sentence"
    assert guarded.bitext.notes == (note,)
    assert guard(given, HeldOut(frozenset({"1"}), frozenset())).bitext.notes == ()


def test_guard_ignores_empty_sentences() -> None:
    given = Bitext("sw", "own", "unstated", ("", "..."), ("!", ""), ("", ""))
    assert guard(given, HeldOut(frozenset(), frozenset({"", "?"}), frozenset({"", "."}))).dropped == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Two dogs ,  running .", "two dogs, running", True),
        ("A man doesn't run", "a man does n't run .", True),
        ("一只狗在草地上跑。", "一 只 狗 在 草地 上 跑", True),
        ("ＡＢＣ dog", "abc dog", True),
        ("लड़का खेल रहा है", "लड़की खेल रही है", False),
        ("two dogs", "two dog s and", False),
    ],
)
def test_sentences_are_compared_without_case_punctuation_and_spaces(one: str, other: str, same: bool) -> None:
    assert (compared(one) == compared(other)) == same


def test_guard_can_refuse() -> None:
    with pytest.raises(HarnessError, match=r"1 of 10 pairs .* belong to evaluation images \(1 by image id\)"):
        guard(pairs(10), HeldOut(frozenset({"img3"}), frozenset()), refuse=True)


def test_guard_refuses_to_leave_nothing() -> None:
    with pytest.raises(HarnessError, match="no pair"):
        guard(pairs(1), HeldOut(frozenset({"img0"}), frozenset()))


@given(small=st.integers(2, 50), large=st.integers(2, 50), seed=st.integers(0, 99))
def test_smaller_subsets_lie_inside_larger_ones(small: int, large: int, seed: int) -> None:
    bitext = pairs(50)
    small, large = sorted((small, large))
    assert subset(bitext, small, seed).english == subset(bitext, large, seed).english[:small]


def test_more_pairs_than_there_are_is_an_error() -> None:
    with pytest.raises(HarnessError, match=r"--pairs 51 asked for, but test has 50 usable pairs"):
        subset(pairs(50), 51, seed=0)


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        *((DistillConfig, option) for option in ("vocabulary", "batch", "steps", "seed")),
        (RunConfig, "resamples"),
        (ExecutorConfig, "workers"),
    ],
)
def test_a_size_that_no_memory_holds_is_refused(kind: type[Config], option: str) -> None:
    with pytest.raises(HarnessError, match=rf"^--{option} {10**24}: Input should be less than or equal to \d+$"):
        validated(kind, **{option: 10**24, "lang": "de"} if kind is RunConfig else {option: 10**24})


@pytest.mark.parametrize("size", [50, 10**24])
def test_sizes_that_the_pairs_bound_are_refused_by_them(size: int) -> None:
    with pytest.raises(HarnessError, match="--held-out"):
        joined([pairs(40)], size)
    with pytest.raises(HarnessError, match="--pairs"):
        subset(pairs(40), size, 0)
    with pytest.raises(HarnessError, match="--unpaired"):
        unpaired([Guarded(pairs(40), 40, 0)], size, None, 0)


def test_the_largest_vocabulary_takes_no_more_than_its_texts_have() -> None:
    assert train_tokenizer(pairs(50).foreign, 1_000_000).get_vocab_size() < 100
    torch.manual_seed(LARGEST_SEED)
    np.random.default_rng([LARGEST_SEED, 1])


def test_tokens_are_framed_and_cut_texts_keep_their_end() -> None:
    tokenizer = train_tokenizer(pairs(50).foreign, 200)
    start, end = (tokenizer.token_to_id(name) for name in (START, END))
    rows = tokenize(tokenizer, ["ein hund", "ein hund läuft im schnee die frau spielt gitarre", ""], 5)
    assert all(row[0] == start and row[-1] == end for row in rows)
    assert [len(row) for row in rows] == [4, 5, 2]


def test_an_apostrophe_stays_inside_its_word() -> None:
    tokenizer = train_tokenizer(["p'acha p'acha p'acha , p'acha"] * 5, 100)
    assert "▁p'acha" in tokenizer.encode("p'acha").tokens


def test_the_same_texts_give_the_same_tokenizer() -> None:
    texts = pairs(200).foreign
    assert train_tokenizer(texts, 120).to_str() == train_tokenizer(texts, 120).to_str()


def test_a_student_from_the_teacher_keeps_its_layers_and_framing_tokens() -> None:
    tokenizer, teacher = train_tokenizer(pairs(50).foreign, 200), Teacher()
    student = new_student(teacher, tokenizer, DistillConfig(init="teacher"), pairs(50))
    weights = teacher.tower.state_dict()
    for name, value in student.state_dict().items():
        if name != "token_embedding.weight":
            torch.testing.assert_close(value, weights[name], atol=0, rtol=0)
    embedding = student.token_embedding.weight
    torch.testing.assert_close(embedding[tokenizer.token_to_id(START)], weights["token_embedding.weight"][38])
    torch.testing.assert_close(embedding[tokenizer.token_to_id(END)], weights["token_embedding.weight"][39])


@pytest.mark.parametrize("init", ["teacher", "scratch"])
def test_the_seed_decides_the_student(init: str) -> None:
    tokenizer = train_tokenizer(pairs(50).foreign, 200)

    def embedding(seed: int) -> torch.Tensor:
        return new_student(Teacher(), tokenizer, DistillConfig(init=init, seed=seed), pairs(50)).token_embedding.weight

    torch.testing.assert_close(embedding(0), embedding(0), atol=0, rtol=0)
    assert not torch.equal(embedding(0), embedding(1))


def test_a_batch_gives_what_each_text_gives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOKENS_A_CHUNK, "cpu", 5)
    torch.manual_seed(0)
    tower = TextTower(SHAPE.model_copy(update={"causal": False, "norm": "post"})).eval()
    texts = [[1, 2, 3, 4, 5], [6], [7, 8, 9], [10, 11]]
    together = tower.encode(texts)
    for row, text in enumerate(texts):
        alone = tower.encode([text])
        torch.testing.assert_close(together.pooled[row], alone.pooled[0], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(together.states[row, : len(text)], alone.states[0], atol=1e-6, rtol=1e-5)
        assert not together.states[row, len(text) :].any()


def test_each_pass_sees_every_pair_once() -> None:
    config = DistillConfig(batch=4)
    assert sorted(row for rows in batches(12, config, 3, 0) for row in rows) == list(range(12))
    assert list(batches(12, config, 9, 0))[5:] == list(batches(12, config, 9, 5))


@pytest.mark.parametrize("objective", ["kd-mse", "ot-token"])
def test_training_lowers_the_loss(objective: str, tmp_path: Path) -> None:
    training = Training(objective, learning_rate=1e-2, steps=80)
    losses = training.run(training.student(), tmp_path / "checkpoint")
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])


def test_a_training_broken_off_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    training = Training()
    whole, broken, resumed = training.student(), training.student(), training.student()
    losses = training.run(whole, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        training.run(broken, tmp_path / "b", interrupt_at=5)
    assert training.run(resumed, tmp_path / "b") == losses
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_training_off_the_main_thread_works(tmp_path: Path) -> None:
    training, losses = Training(), []
    thread = threading.Thread(target=lambda: losses.extend(training.run(training.student(), tmp_path / "a")))
    thread.start()
    thread.join()
    assert len(losses) == 12


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    training = Training("kd-mse", batch=2, seed=3)
    bad = next(batches(len(training.texts), training.config, 12, 4))
    training.teacher.pooled[bad[0]] = np.inf
    named = ", ".join(str(place + 1) for place in sorted(bad))
    with pytest.raises(
        HarnessError, match=rf"the loss became inf at step 5, on the bitext's pairs {named}; .* learning rate"
    ) as caught:
        training.run(training.student(), tmp_path / "checkpoint")
    assert f"kept in {tmp_path / 'checkpoint'}" in str(caught.value)


def test_the_checkpoint_of_a_stopped_training_is_the_last_good_one(tmp_path: Path) -> None:
    training = Training("kd-mse", batch=2)
    stopped, right = training.student(), training.student()
    (bad,) = set(next(batches(len(training.texts), training.config, 12, 4))[:1])
    good = training.teacher.pooled[bad].clone()
    training.teacher.pooled[bad] = np.nan
    with pytest.raises(HarnessError, match="the loss became nan"):
        training.run(stopped, tmp_path / "checkpoint")
    training.teacher.pooled[bad] = good
    resumed = training.student()
    assert training.run(resumed, tmp_path / "checkpoint") == training.run(right, tmp_path / "whole")


def test_a_gradient_that_is_not_finite_stops_training_and_changes_nothing(tmp_path: Path) -> None:
    training = Training("kd-mse")
    tower = training.student()
    before = tower.projection.weight.detach().clone()
    tower.projection.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(HarnessError, match=r"the gradient became (inf|nan) at a loss of .* no gradient there"):
        training.run(tower, tmp_path / "checkpoint")
    assert torch.equal(tower.projection.weight, before)


def test_validation_keeps_the_best_weights_and_trains_on_none_of_its_pairs(tmp_path: Path) -> None:
    training = Training("kd-mse", held_out=10, steps=40, learning_rate=3e-2)
    training.teacher.pooled.normal_(generator=torch.Generator().manual_seed(1))
    tower = training.student()
    state = training.state(tower, tmp_path / "a")
    assert [step for step, _ in state.validations] == list(range(2, 41, 2))
    best = max(score for _, score in state.validations)
    # The weights that the tower ends with are those that the best score was given to.
    embeddings = tower.encode(training.texts[30:]).pooled.detach().numpy()
    ranks = rank(training.teacher.pooled[30:].numpy(), embeddings, np.arange(10))
    assert 50 * ((1 / ranks.t2i).mean() + (1 / ranks.i2t).mean()) == pytest.approx(best)
    training.teacher.pooled[30:] = np.nan
    assert np.isfinite(Training("kd-mse", held_out=10, steps=1).run(training.student(), tmp_path / "b")).all()


def test_a_broken_off_training_with_validation_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    training = Training("kd-mse", held_out=10, steps=40)
    whole, broken, resumed = training.student(), training.student(), training.student()
    undisturbed = training.state(whole, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        training.run(broken, tmp_path / "b", interrupt_at=23)
    assert training.state(resumed, tmp_path / "b").validations == undisturbed.validations
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_patience_ends_a_training_that_gets_no_better(tmp_path: Path) -> None:
    training = Training("kd-mse", held_out=10, steps=40, patience=3, learning_rate=1e-9)
    state = training.state(training.student(), tmp_path / "a")
    assert state.step < 40
    assert state.since_best == 3


def test_training_in_half_precision_keeps_float32_weights_and_comes_close(tmp_path: Path) -> None:
    training = Training("ot-token", learning_rate=1e-2, steps=20)
    half = Training("ot-token", learning_rate=1e-2, steps=20, precision="bfloat16")
    tower = half.student()
    losses = half.run(tower, tmp_path / "half")
    assert {value.dtype for value in tower.state_dict().values()} == {torch.float32}
    exact = training.run(training.student(), tmp_path / "exact")
    assert losses != exact
    np.testing.assert_allclose(losses, exact, rtol=0.05)


def test_transport_that_does_not_converge_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training("ot-token", steps=2)
    assert training.state(training.student(), tmp_path / "a").unconverged == 0
    monkeypatch.setattr(Solver, "limit", 1)
    assert training.state(training.student(), tmp_path / "b").unconverged == 2 * 8


def test_languages_that_share_a_tower_hold_out_as_many_pairs_each() -> None:
    parts = [replace(pairs(20), lang=lang) for lang in ("de", "fr")]
    whole = joined(parts, 7)
    assert (whole.lang, len(whole)) == ("de,fr", 40)
    assert sorted(whole.english) == sorted(parts[0].english + parts[1].english)
    assert [whole.english[33:].count(text) for text in parts[0].english[-4:]] == [1, 2, 2, 2]
    with pytest.raises(HarnessError, match="--held-out 39 of the 40 pairs that are left leaves nothing to train on"):
        joined(parts, 39)


def test_a_tower_survives_the_disk(tmp_path: Path) -> None:
    training = Training()
    tower = training.student().eval()
    save_tower(tmp_path, tower, training.tokenizer)
    loaded, tokenizer = load_tower(tmp_path)
    assert tokenizer.to_str() == training.tokenizer.to_str()
    torch.testing.assert_close(loaded.encode(training.texts).pooled, tower.encode(training.texts).pooled, atol=0, rtol=0)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=450))
def test_the_loss_that_is_said_is_the_loss_of_the_card(losses: list[float]) -> None:
    assert recent_loss(losses) == loss_curve(losses)[-1]
