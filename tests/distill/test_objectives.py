"""Compare the objectives, and sums of objectives, with their formulas."""

from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from harness.core.arms import load_objective, parse_objective, reads_entities, spell_objective
from harness.core.builtins import OBJECTIVES
from harness.core.config import DistillConfig
from harness.core.errors import HarnessError
from harness.distill.model.tower import Encoded
from harness.distill.objectives import (
    entity_weights,
    kd_contrastive,
    kd_cosine,
    kd_mse,
    kd_relation,
    ot_batch,
    ot_entity,
    ot_token,
    ot_unbalanced,
)
from harness.distill.transport.problem import Solver
from harness.distill.transport.tokens import token_transport

# Some problems are stopped early deliberately.
pytestmark = pytest.mark.filterwarnings("ignore::harness.distill.transport.problem.NotConverged")

CONFIG = DistillConfig(eps=0.1, sentence_weight=0.0)
PAIRWISE = ["kd-mse", "kd-cosine", "ot-token", "ot-entity", "ot-unbalanced"]


def encoded(seed: int, lengths: list[int], dim: int = 12, padding: int = 0) -> Encoded:
    """Return random states of the given lengths, zero on the padding. Some of the tokens name entities."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths) + padding) < torch.tensor(lengths)[:, None]
    states = torch.randn(len(lengths), 20, dim, generator=generator)[:, : mask.shape[1]] * mask[:, :, None]
    pooled = torch.randn(len(lengths), dim, generator=generator).requires_grad_()
    entities = torch.randint(2, (len(lengths), 20), generator=generator)[:, : mask.shape[1]] * mask
    return Encoded(states.requires_grad_(), mask, pooled, entities.float())


def untold(student: Encoded, rows: slice = slice(None)) -> Encoded:
    """Return a copy in which the entity tokens of some rows are unknown."""
    assert student.entities is not None
    entities = student.entities.clone()
    entities[rows] = torch.nan
    return replace(student, entities=entities)


def batch(seed: int = 0, size: int = 6) -> tuple[Encoded, Encoded]:
    """Return a student's and a teacher's batch. Every other pair of the student's has no entity tags."""
    lengths = np.random.default_rng(seed).integers(1, 9, (2, size)).tolist()
    return untold(encoded(seed, lengths[0]), slice(0, None, 2)), encoded(seed + 1, lengths[1])


def taken(part: Encoded, rows: list[int]) -> Encoded:
    """Return some pairs of a batch."""
    assert part.entities is not None
    return Encoded(part.states[rows], part.mask[rows], part.pooled[rows], part.entities[rows])


def cos(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Return the cosines of all pairs of rows, in float64."""
    x, y = (part.detach().double().numpy() for part in (x, y))
    return (x @ y.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))


def kl(target: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean over rows of the divergence from target to softmax(scores), without candidates of score -inf."""
    asked = np.isfinite(scores)
    terms = np.where(asked, target * (np.log(np.where(asked, target, 1)) - np.where(asked, log_softmax(scores, 1), 0)), 0)
    return float(terms.sum(1).mean())


def test_kd_mse_is_the_mean_squared_distance() -> None:
    student, teacher = batch()
    by_hand = np.mean(np.sum((student.pooled.detach().numpy() - teacher.pooled.detach().numpy()) ** 2, axis=1))
    assert float(kd_mse(student, teacher, CONFIG).detach()) == pytest.approx(float(by_hand), rel=1e-6)


def test_kd_cosine_is_the_mean_cosine_distance() -> None:
    student, teacher = batch()
    by_hand = 1 - np.diag(cos(student.pooled, teacher.pooled)).mean()
    assert float(kd_cosine(student, teacher, CONFIG).detach()) == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("tau", [0.02, 0.5])
def test_kd_contrastive_is_info_nce_over_the_teacher_s_sentences(tau: float) -> None:
    student, teacher = batch()
    by_hand = -np.diag(log_softmax(cos(student.pooled, teacher.pooled) / tau, 1)).mean()
    value = kd_contrastive(student, teacher, DistillConfig(temperature=tau))
    assert float(value.detach()) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("tau", [0.05, 0.5])
@pytest.mark.parametrize("diagonal", ["keep", "remove"])
def test_kd_relation_is_the_divergence_of_rows_and_columns(tau: float, diagonal: str) -> None:
    student, teacher = batch()
    out = np.diag(np.full(6, -np.inf if diagonal == "remove" else 0.0))
    target = softmax((cos(teacher.pooled, teacher.pooled) + out) / tau, 1)
    scores = cos(student.pooled, teacher.pooled) / tau + out
    value = kd_relation(student, teacher, DistillConfig(temperature=tau, diagonal=diagonal))  # type: ignore[arg-type]
    assert float(value.detach()) == pytest.approx((kl(target, scores) + kl(target, scores.T)) / 2, rel=1e-4)


def otter_target(similarity: np.ndarray) -> np.ndarray:
    """Return OTTER's row-normalised target for the cost -S with eps 0.15 and 5 iterations."""
    q = np.exp(similarity / 0.15)
    for _ in range(5):
        q /= q.sum(1, keepdims=True)
        q /= q.sum(0, keepdims=True)
    return q / q.sum(1, keepdims=True)


@pytest.mark.parametrize("diagonal", ["keep", "remove"])
def test_ot_batch_is_half_of_otter_s_sum_over_both_sides(diagonal: str) -> None:
    student, teacher = batch()
    removed = diagonal == "remove"
    similarity = cos(teacher.pooled, teacher.pooled)
    target = otter_target(similarity - 100 * np.eye(6) * removed)
    other = otter_target(similarity.T - 100 * np.eye(6) * removed)
    scores = cos(student.pooled, teacher.pooled) / 0.05
    contrast = -np.diag(log_softmax(scores, 1)).mean() - np.diag(log_softmax(scores.T, 1)).mean()
    kept = scores + np.diag(np.full(6, -np.inf if removed else 0.0))
    by_hand = 0.3 * contrast + 0.7 * (kl(target, kept) + kl(other, kept.T))
    value = ot_batch(student, teacher, DistillConfig(alpha=0.3, diagonal=diagonal))  # type: ignore[arg-type]
    assert float(value.detach()) == pytest.approx(by_hand / 2, rel=1e-4)


@pytest.mark.parametrize("objective", ["kd-relation", "ot-batch"])
@pytest.mark.parametrize("diagonal", ["keep", "remove"])
def test_only_the_student_learns_and_a_perfect_one_has_nothing_to_learn_from_the_targets(objective: str, diagonal: str) -> None:
    _, teacher = batch()
    # The targets are as sharp as the student's own softmax. ot-batch still differs from it by the plan's uniform marginals.
    config = DistillConfig(alpha=0.0, batch_eps=0.05, diagonal=diagonal)  # type: ignore[arg-type]
    perfect = Encoded(teacher.states, teacher.mask, teacher.pooled.detach().clone().requires_grad_())
    value = OBJECTIVES.load(objective)(perfect, Encoded(teacher.states, teacher.mask, teacher.pooled.detach()), config)
    (gradient,) = torch.autograd.grad(value, perfect.pooled)
    assert gradient.isfinite().all()
    if objective == "kd-relation":
        assert float(value.detach()) == pytest.approx(0, abs=1e-5)
        assert gradient.abs().max() < 1e-4


def test_ot_token_without_a_sentence_term_is_the_mean_transport_cost() -> None:
    student, teacher = encoded(0, [3, 5]), encoded(1, [4, 2])
    costs = []
    for index, (n, m) in enumerate(((3, 4), (5, 2))):
        cost = ot.dist(student.states[index, :n].detach().numpy(), teacher.states[index, :m].detach().numpy(), metric="cosine")
        plan = ot.sinkhorn(np.full(n, 1 / n), np.full(m, 1 / m), cost.astype(np.float64), 0.1, stopThr=1e-9)
        costs.append((plan * cost).sum())
    assert float(ot_token(student, teacher, CONFIG).detach()) == pytest.approx(np.mean(costs), abs=2e-3)


def test_the_exact_solver_is_the_cheapest() -> None:
    student, teacher = batch()
    values = {
        solver: float(ot_token(student, teacher, DistillConfig(solver=solver, sentence_weight=0)).detach())  # type: ignore[arg-type]
        for solver in ("exact", "ipot", "sinkhorn")
    }
    assert values["exact"] <= values["ipot"] + 1e-3
    assert values["ipot"] < values["sinkhorn"]


def test_relaxed_marginals_leave_what_is_dear() -> None:
    """A student token opposite to all tokens of the teacher costs less than in balanced transport."""
    student, teacher = encoded(0, [3]), encoded(1, [3])
    loop = Encoded(torch.cat([student.states, -teacher.states.sum(1, keepdim=True)], 1), torch.ones(1, 4).bool(), student.pooled)
    values = [float(ot_unbalanced(loop, teacher, CONFIG.model_copy(update={"rho": rho})).detach()) for rho in (0.1, 1.0, 100.0)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(float(ot_token(loop, teacher, CONFIG).detach()), abs=0.02)


# entities


def carrying(plan: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Return the mass at each row to which a plan transports the mass of the columns."""
    return (plan / plan.sum(0)) @ mass


@pytest.mark.parametrize("told", [True, False])
def test_ot_entity_is_transport_between_marginals_that_favour_entities(told: bool) -> None:
    student, teacher = encoded(0, [3, 5, 4]), encoded(1, [4, 2, 6])
    assert student.entities is not None
    assert teacher.entities is not None
    costs = []
    for index, (n, m) in enumerate(((3, 4), (5, 2), (4, 6))):
        cost = ot.dist(student.states[index, :n].detach().numpy(), teacher.states[index, :m].detach().numpy(), metric="cosine")
        named = [side.entities[index, :size].numpy().astype(float) for side, size in ((student, n), (teacher, m))]
        a, b = ((1 + 2 * each) / (1 + 2 * each).sum() for each in named)
        if not told:
            first = ot.sinkhorn(np.full(n, 1 / n), np.full(m, 1 / m), cost.astype(float), 0.1, stopThr=1e-12)
            a = carrying(first, b)
        costs.append((ot.sinkhorn(a, b, cost.astype(float), 0.1, stopThr=1e-12) * cost).sum())
    value = ot_entity(student if told else untold(student), teacher, CONFIG.model_copy(update={"entity_weight": 3.0}))
    assert float(value.detach()) == pytest.approx(np.mean(costs), abs=2e-3)


@pytest.mark.parametrize("solver", ["sinkhorn", "ipot", "exact"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_with_a_weight_of_one_ot_entity_is_ot_token_to_the_bit(solver: str, seed: int) -> None:
    student, teacher = batch(seed)
    config = DistillConfig(solver=solver, entity_weight=1.0)  # type: ignore[arg-type]
    values = [objective(student, teacher, config) for objective in (ot_entity, ot_token)]
    assert torch.equal(*values)
    for gradients in zip(*(torch.autograd.grad(value, (student.states, student.pooled)) for value in values), strict=True):
        assert torch.equal(*gradients)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), weight=st.floats(1, 50))
def test_without_tags_the_plan_of_ot_token_says_where_the_mass_of_entities_goes(seed: int, weight: float) -> None:
    student, teacher = batch(seed)
    config = CONFIG.model_copy(update={"entity_weight": weight, "solver": "exact"})
    rows, columns = entity_weights(untold(student), teacher, config)
    plan = token_transport(student.states, teacher.states, student.mask, teacher.mask, Solver("exact"))[1].plan.detach().numpy()
    for index, (n, m) in enumerate(zip(student.mask.sum(1), teacher.mask.sum(1), strict=True)):
        b = columns[index, :m].numpy() / float(columns[index].sum())
        a = rows[index].numpy() / float(rows[index].sum())
        assert a[:n] == pytest.approx(carrying(plan[index, :n, :m], b), abs=1e-5)
        assert not a[n:].any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), weights=st.tuples(st.floats(1, 50), st.floats(1, 50)))
def test_more_weight_is_more_mass_on_the_entities_of_both_sides(seed: int, weights: tuple[float, float]) -> None:
    student, teacher = batch(seed)
    for side in (0, 1):
        shares = []
        for weight in sorted(weights):
            given = entity_weights(student, teacher, DistillConfig(entity_weight=weight))[side]
            named = [student, teacher][side].entities
            assert named is not None
            shares.append((given * named.nan_to_num()).sum(1) / given.sum(1))
        assert (shares[0] <= shares[1] + 1e-6).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_entities_that_tell_no_token_from_another_change_nothing(value: float) -> None:
    student, teacher = batch()
    alike = [
        replace(side, entities=torch.full_like(side.mask, value, dtype=torch.float32) * side.mask) for side in (student, teacher)
    ]
    torch.testing.assert_close(ot_entity(*alike, CONFIG), ot_token(student, teacher, CONFIG), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        ot_entity(untold(alike[0]), alike[1], CONFIG), ot_token(student, teacher, CONFIG), atol=1e-5, rtol=1e-5
    )


def test_ot_entity_must_be_told_what_names_something() -> None:
    student, teacher = (replace(side, entities=None) for side in batch())
    with pytest.raises(ValueError, match=r"Encoded\.entities"):
        ot_entity(student, teacher, CONFIG)


@pytest.mark.parametrize(
    ("objective", "reads"),
    [("ot-entity", True), ("kd-mse + 0.5*ot-entity", True), ("ot-token + 0.5*kd-mse", False), ("none", False)],
)
def test_only_objectives_that_read_entities_are_given_any(objective: str, reads: bool) -> None:
    assert reads_entities(objective) is reads
    weighed = DistillConfig(objective="kd-mse", entity_weight=7).for_arm(objective)
    assert weighed == DistillConfig(objective=spell_objective(objective), **({"entity_weight": 7} if reads else {}))


@pytest.mark.parametrize("objective", ["ot-token", "ot-entity", "ot-unbalanced"])
def test_the_sentence_term_is_weighted_kd_mse_relative_to_the_teacher_s_norm(objective: str) -> None:
    student, teacher = encoded(0, [3, 5]), encoded(1, [4, 2])
    loss = OBJECTIVES.load(objective)
    weighted = loss(student, teacher, CONFIG.model_copy(update={"sentence_weight": 0.7}))
    relative = kd_mse(student, teacher, CONFIG) / teacher.pooled.square().sum(1).mean()
    torch.testing.assert_close(weighted, loss(student, teacher, CONFIG) + 0.7 * relative)


@pytest.mark.parametrize("objective", PAIRWISE)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_pair_s_loss_does_not_depend_on_its_neighbours(objective: str, seed: int) -> None:
    student, teacher = batch(seed)
    loss = OBJECTIVES.load(objective)
    alone = [loss(taken(student, [row]), taken(teacher, [row]), CONFIG) for row in range(6)]
    torch.testing.assert_close(loss(student, teacher, CONFIG), torch.stack(alone).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_the_order_of_the_batch_does_not_matter(objective: str) -> None:
    student, teacher = batch()
    loss, order = OBJECTIVES.load(objective), [3, 1, 5, 0, 4, 2]
    shuffled = loss(taken(student, order), taken(teacher, order), DistillConfig())
    torch.testing.assert_close(shuffled, loss(student, teacher, DistillConfig()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_padding_changes_nothing_to_the_last_bit(objective: str) -> None:
    teacher, loss = encoded(1, [4, 2]), OBJECTIVES.load(objective)
    bare, padded = encoded(0, [3, 5]), encoded(0, [3, 5], padding=6)
    assert torch.equal(loss(bare, teacher, DistillConfig()), loss(padded, teacher, DistillConfig()))


@pytest.mark.parametrize("objective", sorted({*OBJECTIVES.names()} - {"kd-mse"}))
def test_losses_of_cosines_do_not_depend_on_lengths(objective: str) -> None:
    student, teacher = batch()
    longer = replace(student, states=3 * student.states, pooled=3 * student.pooled)
    loss = OBJECTIVES.load(objective)
    torch.testing.assert_close(loss(longer, teacher, CONFIG), loss(student, teacher, CONFIG), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_autocast_gives_the_same_loss_and_gradient(objective: str) -> None:
    student, teacher = batch()
    loss = OBJECTIVES.load(objective)
    plain = loss(student, teacher, DistillConfig())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss(student, teacher, DistillConfig())
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(value, student.pooled, allow_unused=True)[0] for value in (cast, plain)))


@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_every_objective_can_be_followed_downhill(objective: str) -> None:
    student, teacher = batch()
    loss, config = OBJECTIVES.load(objective), DistillConfig(temperature=0.5)
    states, pooled = (part.detach().clone().requires_grad_() for part in (student.states, student.pooled))
    optimiser = torch.optim.Adam([states, pooled], lr=0.05)
    values = []
    for _ in range(30):
        still = replace(teacher, states=teacher.states.detach(), pooled=teacher.pooled.detach())
        value = loss(replace(student, states=states, pooled=pooled), still, config)
        values.append(float(value.detach()))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert values[-1] < 0.9 * values[0]


def test_a_sum_is_the_weighted_sum() -> None:
    student, teacher = batch()
    config = DistillConfig()
    both = load_objective("ot-token + 0.5*kd-mse + 2 * kd-cosine")(student, teacher, config)
    by_hand = (
        ot_token(student, teacher, config) + 0.5 * kd_mse(student, teacher, config) + 2 * kd_cosine(student, teacher, config)
    )
    torch.testing.assert_close(both, by_hand)
    assert load_objective("kd-mse") is OBJECTIVES.load("kd-mse")
    torch.testing.assert_close(load_objective("0.25*kd-mse")(student, teacher, config), kd_mse(student, teacher, config) / 4)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("kd-mse", [(1.0, "kd-mse")]),
        (" kd-mse+ot-token ", [(1.0, "kd-mse"), (1.0, "ot-token")]),
        ("ot-token + 0.5*kd-mse", [(1.0, "ot-token"), (0.5, "kd-mse")]),
        ("1e30*kd-mse", [(1e30, "kd-mse")]),
        ("2 * ot-batch+1e-3*kd-cosine", [(2.0, "ot-batch"), (0.001, "kd-cosine")]),
    ],
)
def test_sums_are_read(text: str, terms: list[tuple[float, str]]) -> None:
    assert parse_objective(text) == terms
    assert parse_objective(spell_objective(text)) == terms


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "each term is NAME or WEIGHT"),
        ("ot-token +", "each term is NAME or WEIGHT"),
        ("0.5*", "each term is NAME or WEIGHT"),
        ("2*3*kd-mse", "each term is NAME or WEIGHT"),
        ("half*kd-mse", "the weight 'half' is not a positive number"),
        ("*kd-mse", "the weight '' is not a positive number"),
        ("-1*kd-mse", "the weight '-1' is not a positive number"),
        ("0*kd-mse", "the weight '0' is not a positive number"),
        ("nan*kd-mse", "the weight 'nan' is not a positive number"),
        ("inf*kd-mse", "the weight 'inf' is not a positive number"),
        ("kd-mse + 0.5*kd-mse", "names one objective twice"),
        ("ot-token + 0.5*kd-msse", "no objective is called 'kd-msse': did you mean kd-mse"),
        ("kd-mse*0.5", "no objective is called '0.5': known are"),
    ],
)
def test_sums_that_are_none_are_refused(text: str, line: str) -> None:
    with pytest.raises(HarnessError, match=line):
        parse_objective(text)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(1e-4, 1e4), st.sampled_from(OBJECTIVES.names())), min_size=1, max_size=4, unique_by=lambda t: t[1]
    )
)
def test_what_is_spelled_is_what_was_read(terms: list[tuple[float, str]]) -> None:
    assert parse_objective(spell_objective(" + ".join(f"{weight!r}*{name}" for weight, name in terms))) == terms
