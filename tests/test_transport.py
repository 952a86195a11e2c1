"""Token transport against POT in float64, and the invariances its formula promises."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.distill.transport import cosine_cost, sinkhorn


def problem(seed: int, lengths: list[tuple[int, int]], dim: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Padded cost and masks of problems of the given lengths; the padding of the cost is NaN-free rubbish."""
    generator = torch.Generator().manual_seed(seed)
    n, m = max(a for a, _ in lengths), max(b for _, b in lengths)
    x, y = (torch.randn(len(lengths), size, dim, generator=generator) for size in (n, m))
    rows = torch.arange(n) < torch.tensor([a for a, _ in lengths])[:, None]
    columns = torch.arange(m) < torch.tensor([b for _, b in lengths])[:, None]
    return cosine_cost(x, y), rows, columns


lengths_lists = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), lengths=lengths_lists, eps=st.sampled_from([0.05, 0.1, 0.5, 2.0]))
def test_equals_pot(seed: int, lengths: list[tuple[int, int]], eps: float) -> None:
    cost, rows, columns = problem(seed, lengths)
    plan = sinkhorn(cost, rows, columns, eps, tolerance=1e-6, most=20_000).plan.double().numpy()
    for index, (n, m) in enumerate(lengths):
        truth = ot.sinkhorn(
            np.full(n, 1 / n), np.full(m, 1 / m), cost[index, :n, :m].double().numpy(), eps, stopThr=1e-10, numItermax=100_000
        )
        assert np.abs(plan[index, :n, :m] - truth).sum() < 1e-4
        assert plan[index].sum() == pytest.approx(1, abs=1e-5)
        assert not plan[index, n:].any()
        assert not plan[index, :, m:].any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), lengths=lengths_lists)
def test_marginals_are_within_the_tolerance_reported(seed: int, lengths: list[tuple[int, int]]) -> None:
    cost, rows, columns = problem(seed, lengths)
    solved = sinkhorn(cost, rows, columns, 0.1, tolerance=1e-3)
    a, b = rows / rows.sum(1, keepdim=True), columns / columns.sum(1, keepdim=True)
    error = (solved.plan.sum(2) - a).abs().sum(1)
    torch.testing.assert_close(solved.error, error, atol=1e-6, rtol=0)
    assert error.max() <= 1e-3
    torch.testing.assert_close(solved.plan.sum(1), b, atol=1e-6, rtol=0)


def test_permuting_tokens_permutes_the_plan() -> None:
    cost, rows, columns = problem(0, [(7, 5)])
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        sinkhorn(cost[:, order], rows, columns).plan, sinkhorn(cost, rows, columns).plan[:, order], atol=1e-7, rtol=0
    )


def test_unconverged_is_said() -> None:
    cost, rows, columns = problem(3, [(12, 12)], dim=2)
    assert sinkhorn(cost, rows, columns, 0.05, tolerance=1e-9, most=3).error.max() > 1e-9


def test_an_eps_that_float32_cannot_bear_is_refused() -> None:
    with pytest.raises(ValueError, match=r"under 0\.05"):
        sinkhorn(*problem(0, [(2, 2)]), eps=0.01)


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_constant_and_zero_rows_stay_finite(fill: float) -> None:
    x = torch.full((2, 4, 8), fill, requires_grad=True)
    cost = cosine_cost(x, torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)))
    real = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    solved = sinkhorn(cost.detach(), *real)
    (solved.plan * cost).sum().backward()
    assert solved.plan.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
