"""The objectives against their formulas."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import DistillConfig
from harness.distill.objectives import kd_mse, ot_token
from harness.distill.tower import Encoded

CONFIG = DistillConfig(eps=0.1, sentence_weight=0.0)


def encoded(seed: int, lengths: list[int], dim: int = 12, padding: int = 0) -> Encoded:
    """Random states of the given lengths, zero beyond them."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths) + padding) < torch.tensor(lengths)[:, None]
    states = torch.randn(len(lengths), 20, dim, generator=generator)[:, : mask.shape[1]] * mask[:, :, None]
    return Encoded(states.requires_grad_(), mask, torch.randn(len(lengths), dim, generator=generator).requires_grad_())


def test_kd_mse_is_the_mean_squared_distance() -> None:
    student, teacher = encoded(0, [3, 2]), encoded(1, [2, 2])
    by_hand = np.mean(np.sum((student.pooled.detach().numpy() - teacher.pooled.detach().numpy()) ** 2, axis=1))
    assert float(kd_mse(student, teacher, CONFIG).detach()) == pytest.approx(float(by_hand), rel=1e-6)


def test_ot_token_without_a_sentence_term_is_the_mean_transport_cost() -> None:
    student, teacher = encoded(0, [3, 5]), encoded(1, [4, 2])
    costs = []
    for index, (n, m) in enumerate(((3, 4), (5, 2))):
        cost = ot.dist(student.states[index, :n].detach().numpy(), teacher.states[index, :m].detach().numpy(), metric="cosine")
        plan = ot.sinkhorn(np.full(n, 1 / n), np.full(m, 1 / m), cost.astype(np.float64), 0.1, stopThr=1e-9)
        costs.append((plan * cost).sum())
    assert float(ot_token(student, teacher, CONFIG).detach()) == pytest.approx(np.mean(costs), abs=2e-3)


def test_the_sentence_term_is_weighted_kd_mse_relative_to_the_teacher_s_norm() -> None:
    student, teacher = encoded(0, [3, 5]), encoded(1, [4, 2])
    weighted = ot_token(student, teacher, CONFIG.model_copy(update={"sentence_weight": 0.7}))
    relative = kd_mse(student, teacher, CONFIG) / teacher.pooled.square().sum(1).mean()
    alone = ot_token(student, teacher, CONFIG) + 0.7 * relative
    torch.testing.assert_close(weighted, alone)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_pair_s_transport_does_not_depend_on_its_neighbours(seed: int) -> None:
    student, teacher = encoded(seed, [3, 5, 2]), encoded(seed + 1, [4, 2, 3])
    alone = [
        ot_token(*(Encoded(s.states[i : i + 1], s.mask[i : i + 1], s.pooled[i : i + 1]) for s in (student, teacher)), CONFIG)
        for i in range(3)
    ]
    # The batch stops when its slowest pair has converged, so a pair may be solved further in company.
    torch.testing.assert_close(ot_token(student, teacher, CONFIG), torch.stack(alone).mean(), atol=2e-3, rtol=0)


def test_padding_changes_nothing() -> None:
    teacher = encoded(1, [4, 2])
    bare, padded = encoded(0, [3, 5]), encoded(0, [3, 5], padding=6)
    torch.testing.assert_close(ot_token(bare, teacher, CONFIG), ot_token(padded, teacher, CONFIG), atol=1e-6, rtol=0)


def test_the_gradient_is_that_of_the_regularised_value() -> None:
    """Finite differences, in float64, of min <P, C> - eps H(P), with H(P) = -sum P (log P - 1)."""
    student, teacher = encoded(0, [3]), encoded(1, [4])
    (gradient,) = torch.autograd.grad(ot_token(student, teacher, CONFIG), student.states)
    x, y = student.states[0].detach().double().numpy(), teacher.states[0].detach().double().numpy()

    def value(moved: np.ndarray) -> float:
        cost = ot.dist(moved, y, metric="cosine")
        plan = ot.sinkhorn(np.full(3, 1 / 3), np.full(4, 1 / 4), cost, CONFIG.eps, stopThr=1e-13, numItermax=100_000)
        return float((plan * cost).sum() + CONFIG.eps * (plan * (np.log(plan) - 1)).sum())

    for place in [(0, 0), (1, 5), (2, 11)]:
        step = np.zeros_like(x)
        step[place] = 1e-5
        slope = (value(x + step) - value(x - step)) / 2e-5
        assert float(gradient[0][place]) == pytest.approx(slope, abs=1e-3)
