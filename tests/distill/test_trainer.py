"""The student, and a training that can be interrupted and resumed."""

import importlib.util
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from harness.core.arms import load_objective
from harness.core.config import DistillConfig
from harness.core.errors import HarnessError
from harness.distill.agreement import agreement, agreement_note
from harness.distill.checkpoint import load_tower, save_tower
from harness.distill.data.subwords import END, START
from harness.distill.entity_marks import EntityMarks
from harness.distill.model.compact_vocabulary import compact_vocabulary
from harness.distill.model.low_rank import ADAPTED, low_rank_adapters, require_peft
from harness.distill.model.student import new_student
from harness.distill.model.teacher import TeacherStates
from harness.distill.model.tower import TOKENS_A_CHUNK, TextTower, Tokens
from harness.distill.student_training import loss_curve, recent_loss
from harness.distill.trainer import EnglishSide, batch_rows, learning_rate
from harness.distill.trainer import Training as Trainer
from harness.distill.transport.problem import Solver
from harness.retrieval.ranking import mean_reciprocal_rank, rank
from tests.support.students import SHAPE, Teacher, Training, pairs


def test_a_student_from_the_teacher_keeps_its_layers_and_framing_tokens() -> None:
    teacher = Teacher()
    student, tokenizer = new_student(teacher, DistillConfig(init="random", vocabulary=200), pairs(50))
    weights = teacher.tower.state_dict()
    for name, value in student.state_dict().items():
        if name != "token_embedding.weight":
            torch.testing.assert_close(value, weights[name], atol=0, rtol=0)
    embedding = student.token_embedding.weight
    torch.testing.assert_close(embedding[tokenizer.token_to_id(START)], weights["token_embedding.weight"][38])
    torch.testing.assert_close(embedding[tokenizer.token_to_id(END)], weights["token_embedding.weight"][39])


@pytest.mark.parametrize("init", ["random", "scratch"])
def test_the_seed_decides_the_student(init: str) -> None:
    def embedding(seed: int) -> torch.Tensor:
        return new_student(Teacher(), DistillConfig(init=init, seed=seed), pairs(50)).tower.token_embedding.weight

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
    assert sorted(row for rows in batch_rows(12, config, 3, 0) for row in rows) == list(range(12))
    assert list(batch_rows(12, config, 9, 0))[5:] == list(batch_rows(12, config, 9, 5))


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


def test_where_all_subwords_occur_a_training_is_the_plain_one_of_all_embeddings(tmp_path: Path) -> None:
    training = Training("ot-token + kd-contrastive")
    parts = np.array_split(np.random.default_rng(0).permutation(training.tokenizer.get_vocab_size()), len(training.texts))
    training.texts = [part.tolist() for part in parts]
    every, compact = training.student(), training.student()
    plain = Trainer(every.train(), training.texts, training.teacher, training.config, training.bitext.places)
    for rows in batch_rows(40, training.config, 12, 0):
        plain.step(rows, learning_rate(training.config, plain.state.step, 12))
    assert training.run(compact, tmp_path / "checkpoint") == plain.state.losses
    for name, value in every.state_dict().items():
        assert torch.equal(value, compact.state_dict()[name]), name


def test_embeddings_have_the_same_gradients_whether_or_not_those_that_no_text_uses_are_there() -> None:
    training = Training()
    every, tower = training.student(), training.student()
    rest = training.teacher, training.config, training.bitext.places
    Trainer(every, training.texts, *rest).compute_gradient([0, 1, 2])
    with compact_vocabulary(tower, training.texts) as texts:
        Trainer(tower, texts, *rest).compute_gradient([0, 1, 2])
        found = {name: each.grad for name, each in tower.named_parameters()}
    expected = {name: each.grad for name, each in every.named_parameters()}
    used = sorted({each for text in training.texts for each in text})
    embedding = expected.pop("token_embedding.weight")
    assert torch.equal(found.pop("token_embedding.weight"), embedding[used])
    assert np.count_nonzero(embedding.any(1)) <= len(used) < len(embedding)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_embeddings_that_no_text_uses_keep_their_values_and_are_in_no_checkpoint(tmp_path: Path) -> None:
    training = Training(weight_decay=0.5, held_out=10)
    tower = training.student()
    before = tower.token_embedding.weight.detach().clone()
    with pytest.raises(KeyboardInterrupt):
        training.run(tower, tmp_path / "checkpoint", interrupt_at=5)
    unused = torch.ones(len(before), dtype=torch.bool)
    unused[sorted({each for text in training.texts for each in text})] = False
    changed = (tower.token_embedding.weight != before).any(1)
    assert torch.equal(changed, ~unused)
    stored = load_file(tmp_path / "checkpoint")
    rows = {value.shape for name, value in stored.items() if name.endswith("token_embedding.weight")}
    assert rows == {(int((~unused).sum()), SHAPE.width)}
    moments = [value.shape for name, value in stored.items() if name.startswith("optimiser.")]
    assert before.shape not in moments
    training.run(tower, tmp_path / "checkpoint")
    assert torch.equal(tower.token_embedding.weight[unused], before[unused])


def test_a_training_off_the_main_thread_works(tmp_path: Path) -> None:
    training, losses = Training(), []
    thread = threading.Thread(target=lambda: losses.extend(training.run(training.student(), tmp_path / "a")))
    thread.start()
    thread.join()
    assert len(losses) == 12


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    training = Training("kd-mse", batch=2, seed=3)
    bad = next(batch_rows(len(training.texts), training.config, 12, 4))
    training.teacher.pooled[bad[0]] = np.inf
    named = ", ".join(str(place + 1) for place in sorted(bad))
    with pytest.raises(
        HarnessError, match=rf"the loss became inf at step 5, on the bitext's pairs {named}; .* learning rate"
    ) as caught:
        training.run(training.student(), tmp_path / "checkpoint")
    assert f"are in {tmp_path / 'checkpoint'}" in str(caught.value)


def test_the_checkpoint_of_a_stopped_training_is_the_last_good_one(tmp_path: Path) -> None:
    training = Training("kd-mse", batch=2)
    stopped, right = training.student(), training.student()
    (bad,) = set(next(batch_rows(len(training.texts), training.config, 12, 4))[:1])
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
    # The final weights of the tower are those with the best score.
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


def test_adapters_are_merged_into_the_weights_that_they_adapt() -> None:
    training = Training("kd-mse", lora=2)
    tower = training.student()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    with low_rank_adapters(tower, 2, seed=0):
        torch.testing.assert_close(tower.embed(training.texts), training.student().embed(training.texts), atol=0, rtol=0)
        trainer = Trainer(tower, training.texts, training.teacher, training.config, training.bitext.places)
        names = {name for name, each in tower.named_parameters() if each.requires_grad}
        for rows in batch_rows(40, training.config, 12, 0):
            trainer.step(rows, 1e-2)
        adapted = tower.embed(training.texts)
    assert {name for name in names if "lora_" not in name} == {"token_embedding.weight", "projection.weight"}
    assert len({name for name in names if "lora_" in name}) == 2 * 4 * SHAPE.layers
    torch.testing.assert_close(tower.embed(training.texts), adapted, atol=1e-5, rtol=1e-4)
    after = tower.state_dict()
    assert list(after) == list(before)
    assert all(each.requires_grad for each in tower.parameters())
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    matrices = {f"blocks.{block}.{part}.weight" for block in range(SHAPE.layers) for part in ADAPTED}
    assert changed == {"token_embedding.weight", "projection.weight", *matrices}
    for name in matrices:
        change = (after[name] - before[name]).double()
        assert np.linalg.matrix_rank(change.numpy(), tol=1e-3 * float(change.norm())) == 2, name


def test_adapters_are_trained_resumed_and_validated_like_other_weights(tmp_path: Path) -> None:
    training = Training("kd-mse", held_out=10, steps=40, lora=2, learning_rate=1e-2, pooling="attention")
    whole, broken, resumed = training.student(), training.student(), training.student()
    undisturbed = training.state(whole, tmp_path / "a")
    assert np.mean(undisturbed.losses[-5:]) < np.mean(undisturbed.losses[:5])
    with pytest.raises(KeyboardInterrupt):
        training.run(broken, tmp_path / "b", interrupt_at=23)
    assert list(broken.state_dict()) == list(whole.state_dict())
    assert training.state(resumed, tmp_path / "b").validations == undisturbed.validations
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    ranks = rank(training.teacher.pooled[30:].numpy(), whole.embed(training.texts[30:]).numpy(), np.arange(10))
    assert max(score for _, score in undisturbed.validations) == pytest.approx(mean_reciprocal_rank(ranks), rel=1e-3)


def test_the_seed_decides_the_adapters_and_leaves_other_random_numbers_alone() -> None:
    training, states = Training("kd-mse"), []
    for seed in (0, 0, 1):
        tower = training.student()
        torch.manual_seed(7)
        with low_rank_adapters(tower, 2, seed):
            states.append([each.detach().clone() for name, each in tower.named_parameters() if "lora_A" in name])
        states[-1].append(torch.rand(3))
    first, second, third = states
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0], third[0])
    assert torch.equal(first[-1], third[-1])


def test_without_peft_adapters_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(HarnessError, match=r"--lora needs peft: pip install 'flickr30k-harness\[lora\]'"):
        require_peft()


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("objective", ["kd-mse", "kd-contrastive", "ot-token", "ot-batch", "ot-entity"])
def test_with_the_english_side_the_loss_is_the_mean_of_both_sides(objective: str, accumulate: int) -> None:
    both = Training(objective, english_side=True, accumulate=accumulate)
    tower, plain, rows = both.student(), both.student(), [3, 1, 4, 15]
    assert both.english is not None
    foreign, english = (marks_of(texts, both.teacher, objective) for texts in (both.texts, both.english.texts))
    side = EnglishSide(both.english.texts, english)
    rest = both.teacher, both.config, both.bitext.places
    found = Trainer(tower, both.texts, *rest, foreign, english=side).compute_gradient(rows)
    loss, losses = load_objective(objective), []
    for texts, marks in ((both.texts, foreign), (both.english.texts, english)):
        student, teacher = plain.encode([texts[row] for row in rows]), both.teacher.batch(rows, torch.device("cpu"))
        losses.append(loss(*(marks.on(rows, student, teacher) if marks else (student, teacher)), both.config))
    expected = sum(losses) / 2
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, one), other in zip(tower.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4, msg=name)


def marks_of(texts: Tokens, teacher: TeacherStates, objective: str) -> EntityMarks | None:
    """Return marks of the second token of every text, if the objective reads them."""
    if objective != "ot-entity":
        return None
    student, english = (
        tuple((np.arange(length) == 1).astype(np.float32) for length in lengths) for lengths in (map(len, texts), teacher.lengths)
    )
    return EntityMarks(english, student)


def test_a_training_on_both_sides_is_resumed_to_the_bit_and_validated_on_the_foreign_side(tmp_path: Path) -> None:
    training = Training("kd-contrastive", held_out=10, steps=40, english_side=True)
    whole, broken, resumed = training.student(), training.student(), training.student()
    undisturbed = training.state(whole, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        training.run(broken, tmp_path / "b", interrupt_at=23)
    again = training.state(resumed, tmp_path / "b")
    assert (again.losses, again.validations) == (undisturbed.losses, undisturbed.validations)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    ranks = rank(training.teacher.pooled[30:].numpy(), whole.embed(training.texts[30:]).numpy(), np.arange(10))
    assert max(score for _, score in again.validations) == pytest.approx(mean_reciprocal_rank(ranks))


def test_subwords_are_learned_from_both_sides_if_the_student_reads_both() -> None:
    one, both = (new_student(Teacher(), DistillConfig(english_side=each), pairs(40)).tokenizer for each in (False, True))
    words = ["▁sentence", "▁number"]
    assert all(one.token_to_id(word) is None for word in words)
    assert all(both.token_to_id(word) is not None for word in words)


def test_the_english_side_is_given_exactly_if_it_is_asked_for(tmp_path: Path) -> None:
    training = Training("kd-mse", english_side=True)
    training.english = None
    with pytest.raises(ValueError, match="English side"):
        training.run(training.student(), tmp_path / "checkpoint")


@pytest.mark.parametrize("objective", ["kd-mse", "kd-contrastive", "ot-token", "ot-batch"])
def test_a_training_without_progress_is_one_whose_student_is_no_better_than_the_mean(objective: str, tmp_path: Path) -> None:
    healthy, destroyed = (Training(objective, steps=100, learning_rate=rate) for rate in (1e-2, 10.0))
    found = healthy.state(healthy.student(), tmp_path / "a").agreement
    assert agreement_note(found, 100, healthy.config) == ""
    found = destroyed.state(destroyed.student(), tmp_path / "b").agreement
    assert found is not None
    note = agreement_note(found, 100, destroyed.config)
    assert "the training made no progress" in note
    assert f"correlation {found:.2f}" in note
    assert "a learning rate that is too high (10: try a tenth with --learning-rate, or --tune)" in note
    assert "too few steps (100: try more with --steps)" in note
    tuned = destroyed.config.model_copy(update={"tune": True})
    assert agreement_note(found, 100, tuned).endswith("the likely cause is too few steps (100: try more with --steps)")


def test_a_student_that_is_not_trained_has_no_note() -> None:
    assert agreement_note(None, 0, DistillConfig(objective="none")) == ""


@given(st.integers(2, 30), st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_agreement_depends_on_no_length_offset_or_order(count: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    w, z = torch.randn(2, count, width, generator=generator)
    lengths, order = torch.rand(2, count, 1, generator=generator) + 0.1, torch.randperm(count, generator=generator)
    found = agreement(w, z)
    assert -1 <= found <= 1
    assert agreement((w * lengths[0])[order], (z * lengths[1])[order]) == pytest.approx(found, abs=1e-5)
    assert agreement(z, w) == pytest.approx(found, abs=1e-9)
    x, y = (side / side.norm(dim=1, keepdim=True) for side in (w.double(), z.double()))
    assert found == pytest.approx(np.corrcoef((x - x.mean(0)).flatten(), (y - y.mean(0)).flatten())[0, 1], abs=1e-6)


def test_embeddings_that_are_not_finite_agree_with_nothing() -> None:
    assert agreement(torch.full((3, 2), torch.nan), torch.eye(3, 2)) == 0
    assert agreement(torch.full((3, 2), torch.inf), torch.eye(3, 2)) == 0


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
