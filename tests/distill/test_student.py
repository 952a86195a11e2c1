"""The student before its first step: a vocabulary aligned with the teacher's, shapes from scratch, and pooling."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import ot
import pytest
import torch
from scipy import sparse
from tokenizers import Tokenizer

from harness.core.arms import parse_objective, spell_objective
from harness.core.builtins import load_encoder
from harness.core.config import DistillConfig
from harness.core.data import Bitext, Floats
from harness.core.errors import HarnessError
from harness.core.option_use import check_options
from harness.distill.alignment.cooccurrence import association, balance, occurrences
from harness.distill.alignment.realignment import ROUNDS, realign, sharpen, token_transport_plan
from harness.distill.checkpoint import load_tower, save_tower
from harness.distill.data.subwords import END, START, train_tokenizer
from harness.distill.initializers.aligned import mix_embeddings
from harness.distill.model.ridge import PENALTIES, fit_projection, pooled_states
from harness.distill.model.student import new_student
from harness.distill.model.tower import TOKENS_A_CHUNK, DonatedLayers, TextTower, TowerConfig
from tests.support.alignments import alignment

WAYS = ("association", "ibm1", "ibm1-agreed", "ot-vocabulary", "ot-sentences", "ot-contexts")
WORDS = 60
SHAPE = TowerConfig(vocab_size=WORDS + 2, width=32, layers=2, heads=2, mlp_width=48, joint_dim=12, max_length=16)
ENGLISH = [f"e{i}" for i in range(WORDS)]


def foreign_words() -> list[str]:
    """Return words of random letters, so that each subword is a complete word."""
    rng = np.random.default_rng(1)
    words = dict.fromkeys("".join(rng.choice(list("abcdefghijklmnop"), size=5)) for _ in range(2 * WORDS))
    return list(words)[:WORDS]


FOREIGN = foreign_words()


def dictionary_bitext(pairs: int = 400) -> Bitext:
    """Return bitext in which each foreign word translates one English word.

    Words have Zipfian frequencies, and foreign sentences have a random word order. A word is often followed by its neighbour, so
    that co-occurrence alone does not identify translations.
    """
    rng = np.random.default_rng(0)
    share = 1 / np.arange(2, WORDS + 2)
    english, foreign = [], []
    for _ in range(pairs):
        ids = rng.choice(WORDS, size=rng.integers(2, 6), p=share / share.sum())
        ids = np.concatenate([ids, (ids[rng.random(len(ids)) < 0.6] + 1) % WORDS])
        english.append(" ".join(ENGLISH[i] for i in ids))
        foreign.append(" ".join(FOREIGN[i] for i in rng.permutation(ids)))
    return Bitext("xx", "test", "human translation", tuple(english), tuple(foreign), ("",) * pairs)


def english_ids(texts: Sequence[str]) -> list[list[int]]:
    return [[WORDS, *(ENGLISH.index(word) for word in text.split()), WORDS + 1] for text in texts]


class Teacher:
    """A text encoder that donates random layers."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.weights = TextTower(SHAPE).state_dict()

    def fingerprint(self) -> str:
        return "teacher"

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        return np.zeros((len(texts), SHAPE.joint_dim), dtype=np.float32)

    def donate_layers(self) -> DonatedLayers:
        return DonatedLayers(SHAPE, {k: v.clone() for k, v in self.weights.items()}, WORDS, WORDS + 1, english_ids)


class LendsNothing:
    """A text encoder that gives embeddings only and donates no layers."""

    def fingerprint(self) -> str:
        return "opaque"

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        return np.zeros((len(texts), 20), dtype=np.float32)


class RefusesToLend(LendsNothing):
    """A text encoder that refuses to donate layers, as SigLIP and CoCa do."""

    def donate_layers(self) -> DonatedLayers:
        raise HarnessError("the teacher's text tower has a class token after the text")


BITEXT = dictionary_bitext()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(BITEXT.foreign, 2000)


def start(tokenizer: Tokenizer, bitext: Bitext = BITEXT, **choices: object) -> TextTower:
    student = new_student(Teacher(), DistillConfig(vocabulary=2000, **choices), bitext)  # type: ignore[arg-type]
    assert bitext is not BITEXT or student.tokenizer.get_vocab() == tokenizer.get_vocab()
    return student.tower


def embedding(tokenizer: Tokenizer, bitext: Bitext = BITEXT, **choices: object) -> torch.Tensor:
    return start(tokenizer, bitext, **choices).token_embedding.weight.detach()


def random_kernel(rows: int, columns: int, density: float, seed: int = 0) -> sparse.csr_array:
    rng = np.random.default_rng(seed)
    return sparse.csr_array(rng.gamma(0.5, size=(rows, columns)) * (rng.random((rows, columns)) < density))


def test_association_is_dice_times_positive_pmi() -> None:
    foreign, english = [[0, 1], [0, 2, 2], [0, 1], [0]], [[0, 2], [1], [2, 0, 0], [0]]
    kernel = association(occurrences(foreign, 4), occurrences(english, 3)).toarray()
    expected = np.zeros((4, 3))
    for f in range(4):
        for e in range(3):
            of_f, of_e = sum(f in text for text in foreign), sum(e in text for text in english)
            both = sum(f in a and e in b for a, b in zip(foreign, english, strict=True))
            if both:
                expected[f, e] = 2 * both / (of_f + of_e) * max(np.log(4 * both / (of_f * of_e)), 0)
    np.testing.assert_allclose(kernel, expected, atol=1e-15)
    assert not kernel[0].any(), "a token of every pair is associated with none"


def test_balancing_reaches_the_sums() -> None:
    rng, kernel = np.random.default_rng(0), random_kernel(12, 9, 1.0)
    rows, columns = rng.random(12), rng.random(9)
    rows, columns = rows / rows.sum(), columns / columns.sum()
    plan = balance(kernel, 7 * rows, 3 * columns, exponent=1).toarray()
    np.testing.assert_allclose(plan.sum(1), rows, atol=1e-7)
    np.testing.assert_allclose(plan.sum(0), columns, atol=1e-7)
    np.testing.assert_allclose(plan, ot.sinkhorn(rows, columns, -np.log(kernel.toarray()), 1.0, stopThr=1e-12), atol=1e-7)


def test_balancing_leaves_out_what_has_no_entry() -> None:
    kernel = random_kernel(6, 5, 1.0).tolil()
    kernel[2], kernel[:, 3] = 0, 0
    kernel, rows, columns = sparse.csr_array(kernel), np.arange(1.0, 7), np.arange(1.0, 6)
    plan = balance(kernel, rows, columns, exponent=1).toarray()
    assert not plan[2].any()
    assert not plan[:, 3].any()
    np.testing.assert_allclose(plan.sum(1), np.array([1, 2, 0, 4, 5, 6]) / 18, atol=1e-7)
    np.testing.assert_allclose(plan.sum(0), np.array([1, 2, 3, 0, 5]) / 11, atol=1e-7)


@pytest.mark.filterwarnings("ignore:If reg_type")
@pytest.mark.parametrize("exponent", [0.5, 0.8, 0.9])
def test_loose_balancing_is_unbalanced_transport(exponent: float) -> None:
    kernel, rng = random_kernel(10, 14, 0.5), np.random.default_rng(0)
    rows, columns = rng.random(10) + 0.1, rng.random(14) + 0.1
    rows, columns = rows / rows.sum(), columns / columns.sum()
    cost = -np.log(np.maximum(kernel.toarray(), 1e-300))
    expected = ot.unbalanced.sinkhorn_unbalanced(
        rows, columns, cost, 1.0, exponent / (1 - exponent), reg_type="entropy", numItermax=5000, stopThr=1e-14
    )
    np.testing.assert_allclose(balance(kernel, rows, columns, exponent).toarray(), expected, atol=1e-7)


def test_a_token_that_is_taken_is_left_to_its_own() -> None:
    kernel = sparse.csr_array([[0.9, 0.0], [0.6, 0.5]])
    assert sharpen(kernel, 1).argmax(axis=1).tolist() == [0, 0]
    assert sharpen(balance(kernel, np.ones(2), np.ones(2)), 1).argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("exponent", [0.8, 1])
def test_balancing_does_what_a_plain_loop_does(exponent: float) -> None:
    kernel, rng = random_kernel(30, 20, 0.6), np.random.default_rng(0)
    rows, columns = rng.random(30), rng.random(20)
    dense, a, b = kernel.toarray(), rows / rows.sum(), columns / columns.sum()
    u, v = np.ones(30), np.ones(20)
    for _ in range(3000):
        u = (a / (dense @ v)) ** exponent
        v = (b / (dense.T @ u)) ** exponent
    np.testing.assert_allclose(balance(kernel, rows, columns, exponent).toarray(), u[:, None] * dense * v, atol=1e-7)


@pytest.mark.filterwarnings("ignore:If reg_type")
def test_realigning_is_unbalanced_transport_in_each_pair() -> None:
    """POT solves one pair at a time. Token 0 of either side is excluded, because the plan associates it with nothing."""
    plan = random_kernel(9, 7, 0.5, seed=2).tolil()
    plan[0], plan[:, 0] = 0, 0
    plan = sparse.csr_array(plan)
    rng = np.random.default_rng(0)
    pairs = [tuple(tuple(rng.integers(0, size, rng.integers(1, 9)).tolist()) for size in (9, 7)) for _ in range(300)]
    pairs += [((0, 0), (1, 2))]
    dense = plan.toarray()
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = np.nan_to_num(dense / dense.sum(1, keepdims=True) / dense.sum(0))
    expected = np.zeros((9, 7))
    for foreign, english in pairs:
        of_pair = lift[np.ix_(foreign, english)]
        x, y = np.flatnonzero(of_pair.any(1)), np.flatnonzero(of_pair.any(0))
        if not len(x):
            continue
        of_pair = of_pair[np.ix_(x, y)]
        cost = -np.log(np.maximum(of_pair / of_pair.max(), np.exp(-25.0)))
        even = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
        solved = ot.unbalanced.sinkhorn_unbalanced(*even, cost, 1.0, 4.0, reg_type="kl", numItermax=3000, stopThr=1e-12)
        np.add.at(expected, (np.array(foreign)[x][:, None], np.array(english)[y]), solved * min(len(x), len(y)))
    found = realign(plan, pairs, token_transport_plan).toarray()
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.02)
    assert not found[0].any()
    assert not found[:, 0].any()


def test_ibm_model_1_is_expectation_maximisation() -> None:
    """Plain loops start from Dice times PMI. The framing token 0, which occurs in every pair, is excluded."""
    rng = np.random.default_rng(0)
    foreign, english = ([[0, *rng.integers(1, size, rng.integers(1, 6)).tolist()] for _ in range(40)] for size in (8, 6))
    chances = association(occurrences(foreign, 8), occurrences(english, 6)).toarray()
    for _ in range(ROUNDS):
        chances = chances / np.where(chances.sum(0) > 0, chances.sum(0), 1)
        counts = np.zeros_like(chances)
        for f, e in zip(foreign, english, strict=True):
            for i in f:
                if whole := sum(chances[i, j] for j in e):
                    for j in e:
                        counts[i, j] += chances[i, j] / whole
        chances = counts
    squared = counts**2
    expected = squared / np.where(squared.sum(1) > 0, squared.sum(1), 1)[:, None]
    np.testing.assert_allclose(alignment(foreign, english, (8, 6), "ibm1").toarray(), expected, atol=1e-3)
    assert not expected[0].any()
    assert expected[1:].any(1).all()


def test_a_rare_token_is_told_from_its_frequent_company_within_sentences() -> None:
    """Token 1 never occurs without 0. Other sentences identify 0, which leaves 1 its own translation within a sentence."""
    texts = [[0, 1]] * 30 + [[0]] * 10 + [[2]] * 20
    own = {way: alignment(texts, texts, (3, 3), way).diagonal() for way in WAYS}
    assert (own["ot-sentences"][:2] > own["ot-vocabulary"][:2] + 0.05).all()
    assert (own["ot-sentences"] > 0.85).all()


def test_sharpened_rows_are_weights() -> None:
    kernel = sparse.csr_array(np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0], [1e-150, 0.0, 2e-150]]))
    np.testing.assert_allclose(sharpen(kernel, 3).toarray(), [[1 / 28, 27 / 28, 0], [0, 0, 0], [1 / 9, 0, 8 / 9]], rtol=1e-12)


def test_embeddings_are_as_far_from_the_mean_as_the_teachers() -> None:
    known = np.random.default_rng(0).normal(size=(15, 6)) + 2
    weights = sharpen(random_kernel(10, 15, 0.7), 1)
    moved, centre = mix_embeddings(weights, known, np.zeros((10, 6)), np.ones(10), rescale=True), known.mean(0)
    offsets, means = moved - centre, weights @ known - centre
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), np.median(np.linalg.norm(known - centre, axis=1)))
    np.testing.assert_allclose((offsets * means).sum(1), np.linalg.norm(offsets, axis=1) * np.linalg.norm(means, axis=1))


def recovered(tokenizer: Tokenizer, init: str) -> float:
    """Return the share of words whose embedding is nearest to that of their translation."""
    seen = {word for text in BITEXT.foreign for word in text.split()}
    words = [i for i, word in enumerate(FOREIGN) if word in seen and tokenizer.token_to_id("▁" + word) is not None]
    assert len(words) > 0.8 * WORDS
    new = embedding(tokenizer, init=init)[[tokenizer.token_to_id("▁" + FOREIGN[i]) for i in words]]
    nearest = torch.cdist(new, Teacher().weights["token_embedding.weight"]).argmin(1)
    return float((nearest == torch.tensor(words)).double().mean())


def test_transport_finds_a_planted_dictionary(tokenizer: Tokenizer) -> None:
    transport, plain = recovered(tokenizer, "ot-vocabulary"), recovered(tokenizer, "association")
    assert transport > 0.95
    assert transport >= plain > recovered(tokenizer, "random")


@pytest.mark.parametrize("init", WAYS)
def test_all_but_the_associated_rows_are_the_teachers(tokenizer: Tokenizer, init: str) -> None:
    aligned, drawn = start(tokenizer, init=init).state_dict(), start(tokenizer, init="random").state_dict()
    used = {id_ for text in BITEXT.foreign for id_ in tokenizer.encode(text).ids}
    framing = {tokenizer.token_to_id(START), tokenizer.token_to_id(END)}
    idle = sorted(set(range(tokenizer.get_vocab_size())) - used | framing)
    assert len(idle) > 20, "merges on the way to whole words stand in no text"
    embeddings = [weights.pop("token_embedding.weight") for weights in (aligned, drawn)]
    assert torch.equal(embeddings[0][idle], embeddings[1][idle])
    assert not (embeddings[0] == embeddings[1]).all(1)[sorted(used - framing)].any()
    assert all(torch.equal(aligned[name], value) for name, value in drawn.items())


@pytest.mark.parametrize("init", WAYS)
def test_framing_tokens_keep_the_teachers_embeddings(tokenizer: Tokenizer, init: str) -> None:
    new, known = embedding(tokenizer, init=init), Teacher().weights["token_embedding.weight"]
    assert torch.equal(new[tokenizer.token_to_id(START)], known[WORDS])
    assert torch.equal(new[tokenizer.token_to_id(END)], known[WORDS + 1])


@pytest.mark.parametrize("init", WAYS)
def test_neither_another_run_nor_the_order_of_pairs_changes_a_bit(tokenizer: Tokenizer, init: str) -> None:
    once = embedding(tokenizer, init=init)
    assert torch.equal(once, embedding(tokenizer, init=init))
    shuffled = BITEXT.take(np.random.default_rng(3).permutation(len(BITEXT)).tolist())
    assert torch.equal(once, embedding(tokenizer, shuffled, init=init))


def test_the_seed_moves_only_what_the_bitext_says_nothing_of(tokenizer: Tokenizer) -> None:
    same = (embedding(tokenizer, init="ot-vocabulary") == embedding(tokenizer, init="ot-vocabulary", seed=1)).all(1)
    used = sorted({id_ for text in BITEXT.foreign for id_ in tokenizer.encode(text).ids})
    assert same[used].all()
    assert not same.all()


def test_bitext_that_associates_nothing_leaves_the_random_draw(tokenizer: Tokenizer) -> None:
    bitext = Bitext("xx", "test", "human translation", ("e1 e2",) * 3, (FOREIGN[0],) * 3, ("",) * 3)
    assert alignment([[0, 1]] * 3, [[0, 1]] * 3, (4, 4), "ot-sentences").nnz == 0
    assert torch.equal(embedding(tokenizer, bitext, init="ot-vocabulary"), embedding(tokenizer, bitext, init="random"))


@pytest.mark.parametrize("teacher", [LendsNothing, RefusesToLend])
@pytest.mark.parametrize(("size", "layers", "width"), [(None, 6, 384), ("tiny", 2, 128), ("base", 12, 512)])
def test_scratch_needs_no_layers_of_the_teacher(
    teacher: Callable[[], LendsNothing], size: str | None, layers: int, width: int
) -> None:
    config = DistillConfig(init="scratch", size=size)  # type: ignore[arg-type]
    student, tokenizer = new_student(teacher(), config, BITEXT)
    shape = student.config
    assert (shape.layers, shape.width, shape.joint_dim) == (layers, width, 20)
    assert shape.vocab_size == tokenizer.get_vocab_size()
    assert student.encode([[1, 5, 2]]).pooled.shape == (1, 20)


def test_scratch_has_the_teachers_shape_unless_told_another(tokenizer: Tokenizer) -> None:
    size = {"vocab_size": tokenizer.get_vocab_size()}
    assert start(tokenizer, init="scratch").config == SHAPE.model_copy(update=size)
    small = start(tokenizer, init="scratch", size="small").config
    assert (small.layers, small.width, small.joint_dim) == (6, 384, SHAPE.joint_dim)


@pytest.mark.parametrize("init", ["random", *WAYS])
def test_other_starts_need_the_teachers_layers(init: str) -> None:
    config = DistillConfig(init=init)  # type: ignore[arg-type]
    with pytest.raises(HarnessError, match=r"lends no layers .* --init scratch"):
        new_student(LendsNothing(), config, BITEXT)
    with pytest.raises(HarnessError, match="class token"):
        new_student(RefusesToLend(), config, BITEXT)


def test_a_size_is_for_scratch_alone() -> None:
    with pytest.raises(HarnessError, match=r"^--size tiny has no use with kd-mse: --init scratch reads it"):
        check_options(DistillConfig(init="random", size="tiny"), ["kd-mse"])
    check_options(DistillConfig(init="scratch", size="tiny"), ["kd-mse"])


def pool_plainly(states: torch.Tensor, pooling: str, query: torch.Tensor) -> torch.Tensor:
    """Return one text's embedding from its own states (L, d), token by token."""
    if pooling == "last":
        return states[-1]
    scores = [float(state.double() @ query.double()) / len(query) ** 0.5 for state in states]
    weights = np.exp(scores) / np.exp(scores).sum() if pooling == "attention" else np.full(len(states), 1 / len(states))
    total = torch.zeros(states.shape[1], dtype=torch.float64)
    for weight, state in zip(weights, states, strict=True):
        total += weight * state.double()
    return total.float()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "last", "attention"])
def test_poolings_are_what_a_plain_loop_gives(pooling: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOKENS_A_CHUNK, "cpu", 7)
    torch.manual_seed(0)
    tower = TextTower(SHAPE.model_copy(update={"pooling": pooling, "causal": causal})).eval()
    query = torch.randn(SHAPE.joint_dim) * 3
    if pooling == "attention":
        tower.pool_query.data.copy_(query)
    texts = [[1, 2, 3, 4, 5, 9], [6], [7, 8, 9], [10, 11]]
    together = tower.encode(texts)
    for row, text in enumerate(texts):
        expected = pool_plainly(tower.encode([text]).states[0].detach(), pooling, query)
        torch.testing.assert_close(together.pooled[row], expected, atol=1e-6, rtol=1e-5)


def test_mean_pooling_is_the_default_to_the_bit() -> None:
    torch.manual_seed(0)
    encoded = TextTower(SHAPE).encode([[1, 2, 3], [4, 5]])
    assert torch.equal(encoded.pooled, encoded.states.sum(1) / encoded.mask.sum(1)[:, None])


def test_attention_starts_as_the_mean_and_learns(tokenizer: Tokenizer) -> None:
    texts = [[1, 5, 6, 2], [1, 7, 2]]
    tower, plain = (start(tokenizer, init="random", pooling=pooling) for pooling in ("attention", "mean"))
    pooled = tower.encode(texts).pooled
    torch.testing.assert_close(pooled, plain.encode(texts).pooled, atol=1e-6, rtol=1e-5)
    pooled.square().sum().backward()
    assert tower.pool_query.grad is not None
    assert tower.pool_query.grad.abs().max() > 0


@pytest.mark.parametrize("init", ["scratch", "ot-vocabulary"])
@pytest.mark.parametrize("pooling", ["mean", "last", "attention"])
def test_a_pooling_survives_the_disk(tokenizer: Tokenizer, tmp_path: Path, pooling: str, init: str) -> None:
    tower = start(tokenizer, init=init, pooling=pooling).eval()
    if pooling == "attention":
        tower.pool_query.data.normal_()
    save_tower(tmp_path, tower, tokenizer)
    loaded, _ = load_tower(tmp_path)
    texts = [[1, 5, 6, 2], [1, 7, 2]]
    assert loaded.config == tower.config
    assert torch.equal(loaded.encode(texts).pooled, tower.encode(texts).pooled)


def test_lent_layers_come_with_the_teachers_own_tokens() -> None:
    encoder = load_encoder("sample", "cpu")
    donated = encoder.donate_layers()  # type: ignore[attr-defined]
    texts = ["A dog runs .", "", "a woman with a red guitar"]
    rows = donated.tokenize(texts)
    assert [len(row) for row in rows] == encoder.encode_tokens(texts, "en").lengths.tolist()  # type: ignore[attr-defined]
    assert {(row[0], row[-1]) for row in rows} == {(donated.start, donated.end)}
    assert donated.tokenize([]) == []


def test_without_an_objective_the_student_stays_as_it_starts() -> None:
    assert parse_objective(" none ") == []
    assert spell_objective("none") == "none"
    assert DistillConfig(objective="none", steps=50).steps_for(1000) == 0


# closed-form fit


TEXTS = [[1, *row, 2] for row in np.random.default_rng(3).integers(3, 60, size=(60, 5)).tolist()]


def by_hand(start: np.ndarray, h: np.ndarray, z: np.ndarray, penalty: float) -> np.ndarray:
    """Return the minimizer of sum ||W h - z||^2 + penalty ||W - W_0||^2 from its normal equations."""
    return np.asarray(np.linalg.solve(h.T @ h + penalty * np.eye(h.shape[1]), h.T @ z + penalty * start.T)).T


@pytest.mark.parametrize("pooling", ["mean", "last", "attention"])
def test_ridge_is_the_minimum_at_the_penalty_that_leaving_one_out_finds(pooling: str) -> None:
    torch.manual_seed(1)
    student = TextTower(SHAPE.model_copy(update={"pooling": pooling})).eval()
    h, start = pooled_states(student, TEXTS), student.projection.weight.detach().double().numpy()
    np.testing.assert_allclose(h @ start.T, student.encode(TEXTS).pooled.detach().numpy(), atol=1e-5)
    rng = np.random.default_rng(2)
    z = h @ rng.normal(size=(SHAPE.width, SHAPE.joint_dim)) + rng.normal(scale=3.0, size=(len(TEXTS), SHAPE.joint_dim))
    fit_projection(student, TEXTS, z.astype(np.float32))
    scale, errors = np.square(h).sum(1).mean(), []
    for penalty in PENALTIES * scale:
        without = [np.delete(np.arange(len(h)), row) for row in range(len(h))]
        errors.append(
            sum(np.square(by_hand(start, h[kept], z[kept], penalty) @ h[row] - z[row]).sum() for row, kept in enumerate(without))
        )
    best = PENALTIES[int(np.argmin(errors))] * scale
    np.testing.assert_allclose(student.projection.weight.detach().numpy(), by_hand(start, h, z, best), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(student.encode(TEXTS).pooled.detach().numpy(), h @ by_hand(start, h, z, best).T, atol=1e-3)


def test_ridge_of_a_random_projection_does_not_depend_on_it() -> None:
    fitted = []
    for seed in (0, 1):
        torch.manual_seed(1)
        student = TextTower(SHAPE).eval()
        torch.nn.init.normal_(student.projection.weight, generator=torch.Generator().manual_seed(seed))
        h = pooled_states(student, TEXTS)
        z = np.random.default_rng(2).normal(size=(len(TEXTS), SHAPE.joint_dim))
        fit_projection(student, TEXTS, z.astype(np.float32), towards_zero=True)
        fitted.append(student.projection.weight.detach().numpy())
    np.testing.assert_array_equal(fitted[0], fitted[1])
    # Noise is best predicted by nothing.
    assert np.abs(fitted[0] @ h.T).max() < 0.1


def test_where_pairs_say_nothing_ridge_leaves_the_student_as_it_starts() -> None:
    torch.manual_seed(1)
    student = TextTower(SHAPE).eval()
    before = student.encode(TEXTS).pooled.detach().numpy()
    noise = np.random.default_rng(2).normal(size=before.shape)
    fit_projection(student, TEXTS, (before + noise).astype(np.float32))
    after = student.encode(TEXTS).pooled.detach().numpy()
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()


def test_ridge_is_an_objective_without_a_step() -> None:
    assert spell_objective(" ridge ") == "ridge"
    assert DistillConfig(objective="ridge", steps=50).steps_for(1000) == 0
    with pytest.raises(HarnessError, match="no objective is called 'ridge'"):
        parse_objective("ridge + kd-mse")
