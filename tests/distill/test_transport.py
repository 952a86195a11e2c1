"""Compare transport with POT and the published loops in float64, and check its gradients and the invariances of its formula."""

import warnings
from collections.abc import Iterator

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.distill.transport import tokens as transport
from harness.distill.transport.batches import batch_target
from harness.distill.transport.problem import Method, NotConverged, Solver, Transport, cosine_cost
from harness.distill.transport.solvers import solve
from harness.distill.transport.tokens import token_transport

# Some problems are stopped early deliberately.
pytestmark = pytest.mark.filterwarnings("ignore::harness.distill.transport.problem.NotConverged")

# `token_transport` must behave equally with and without numba.
both_ways = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "padded"], indirect=True)

Lengths = list[tuple[int, int]]
METHODS: list[Method] = ["sinkhorn", "unbalanced", "ipot", "exact"]
TIGHT = {"tolerance": 1e-6, "most": 20_000}
EPSILONS = [1e-3, 3e-3, 0.01, 0.03, 0.05, 0.1, 0.5, 2.0, 10.0]


@pytest.fixture
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether numba is available."""
    there = bool(request.param)
    if there:
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(transport, "cpu_kernel_module", lambda: None)
    return there


def states(seed: int, lengths: Lengths, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token states of pairs of the given lengths, with random values on the padding, and their masks."""
    generator = torch.Generator().manual_seed(seed)
    n, m = max(a for a, _ in lengths), max(b for _, b in lengths)
    x, y = (torch.randn(len(lengths), size, dim, generator=generator) for size in (n, m))
    rows = torch.arange(n) < torch.tensor([a for a, _ in lengths])[:, None]
    columns = torch.arange(m) < torch.tensor([b for _, b in lengths])[:, None]
    return x, y, rows, columns


def problem(seed: int, lengths: Lengths, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return padded costs and masks of random pairs of the given lengths."""
    x, y, rows, columns = states(seed, lengths, dim)
    return cosine_cost(x, y), rows, columns


def adversarial() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the hardest cosine costs: constant, all the same token, opposite tokens, duplicate rows, one outlier, length 1."""
    cost = torch.full((6, 6, 5), 2.0)
    cost[0] = 0.7
    cost[1] = 0.0
    cost[2, :3, :2], cost[2, 3:, 2:] = 0.0, 0.0
    cost[3] = torch.rand(1, 5, generator=torch.Generator().manual_seed(0)).expand(6, 5)
    cost[4, 0, 0] = 0.0
    rows, columns = torch.ones(6, 6, dtype=torch.bool), torch.ones(6, 5, dtype=torch.bool)
    rows[5, 1:], columns[5, 1:] = False, False
    return cost, rows, columns


def each(
    solved: Transport, cost: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield plan, cost and uniform marginals of each pair in float64. The plan is checked to be empty on the padding."""
    assert not solved.plan[~(rows[:, :, None] & columns[:, None, :])].any()
    for plan, c, r, k in zip(solved.plan, cost, rows, columns, strict=True):
        n, m = int(r.sum()), int(k.sum())
        yield plan[:n, :m].double().numpy(), c[:n, :m].double().numpy(), np.full(n, 1 / n), np.full(m, 1 / m)


def moved(plan: np.ndarray, truth: np.ndarray) -> float:
    """Return the total absolute difference in mass."""
    return float(np.abs(plan - truth).sum())


lengths_lists = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), lengths=lengths_lists, eps=st.sampled_from([0.05, 0.1, 0.5, 2.0]))
def test_sinkhorn_equals_pot(seed: int, lengths: Lengths, eps: float) -> None:
    case = problem(seed, lengths)
    solved = solve(*case, Solver(eps=eps, **TIGHT))
    assert solved.converged.all()
    for plan, cost, a, b in each(solved, *case):
        assert moved(plan, ot.sinkhorn(a, b, cost, eps, stopThr=1e-10, numItermax=100_000)) < 1e-4


@pytest.mark.parametrize("eps", [0.01, 0.03, 0.05, 0.1, 1.0])
def test_sinkhorn_equals_pot_on_adversarial_costs(eps: float) -> None:
    solved = solve(*adversarial(), Solver(eps=eps, **TIGHT))
    assert solved.converged.all()
    for plan, cost, a, b in each(solved, *adversarial()):
        assert moved(plan, ot.sinkhorn(a, b, cost, eps, method="sinkhorn_log", stopThr=1e-10, numItermax=20_000)) < 1e-4


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10_000), lengths=lengths_lists, eps=st.sampled_from([0.05, 0.2]), rho=st.sampled_from([0.05, 1.0, 5.0])
)
def test_unbalanced_equals_pot(seed: int, lengths: Lengths, eps: float, rho: float) -> None:
    case = problem(seed, lengths)
    solved = solve(*case, Solver("unbalanced", eps=eps, rho=rho, **TIGHT))
    assert solved.converged.all()
    for plan, cost, a, b in each(solved, *case):
        truth = ot.unbalanced.sinkhorn_unbalanced(a, b, cost, eps, rho, reg_type="kl", stopThr=1e-11, numItermax=100_000)
        assert moved(plan, truth) < 1e-4


def test_unbalanced_equals_pot_on_adversarial_costs() -> None:
    solved = solve(*adversarial(), Solver("unbalanced", eps=0.05, rho=0.5, **TIGHT))
    for plan, cost, a, b in each(solved, *adversarial()):
        truth = ot.unbalanced.sinkhorn_unbalanced(a, b, cost, 0.05, 0.5, reg_type="kl", stopThr=1e-11, numItermax=100_000)
        assert moved(plan, truth) < 1e-4


def test_a_great_rho_gives_back_the_balanced_plan() -> None:
    case = problem(0, [(5, 7), (3, 3)])
    relaxed = solve(*case, Solver("unbalanced", eps=0.5, rho=200.0, **TIGHT))
    torch.testing.assert_close(relaxed.plan, solve(*case, Solver(eps=0.5, **TIGHT)).plan, atol=2e-3, rtol=0)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), lengths=lengths_lists)
def test_exact_is_pot_s_and_no_plan_is_cheaper(seed: int, lengths: Lengths) -> None:
    case = problem(seed, lengths)
    solved = solve(*case, Solver("exact"))
    assert solved.converged.all()
    for plan, cost, a, b in each(solved, *case):
        assert moved(plan, ot.emd(a, b, cost)) < 1e-6
    assert (solve(*case, Solver(eps=0.05, **TIGHT)).value >= solved.value - 1e-5).all()


def ipot_as_published(cost: np.ndarray, beta: float, iterations: int) -> np.ndarray:
    """Return the plan of UC2's `model/ot.py` without padding.

    It has UC2's orientation: cost (M, N), T (N, M), delta over N and sigma over M.
    """
    m, n = cost.shape
    sigma, t, a = np.ones(m) / m, np.ones((n, m)), np.exp(-cost.T / beta)
    for _ in range(iterations):
        q = a * t
        delta = 1 / (n * (q @ sigma))
        sigma = 1 / (m * (delta @ q))
        t = delta[:, None] * q * sigma
    return t


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), lengths=lengths_lists)
def test_ipot_is_the_published_loop(seed: int, lengths: Lengths) -> None:
    case = problem(seed, lengths)
    solved = solve(*case, Solver("ipot"))
    assert (solved.iterations == 50).all()
    for plan, cost, _, _ in each(solved, *case):
        assert moved(plan, ipot_as_published(cost.T, 0.5, 50)) < 1e-5


def otter_as_published(similarity: np.ndarray, eps: float, iterations: int) -> np.ndarray:
    """Return the row-normalised target of OTTER's `sinkhorn` on the cost -S."""
    q = np.exp(similarity / eps)
    q /= q.sum()
    rows, columns = q.shape
    for _ in range(iterations):
        q /= q.sum(1, keepdims=True) * rows
        q /= q.sum(0, keepdims=True) * columns
    return q / q.sum(1, keepdims=True)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(2, 40), eps=st.sampled_from([0.04, 0.15, 1.0]), remove=st.booleans())
def test_batch_targets_are_otter_s(seed: int, size: int, eps: float, remove: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.nn.functional.normalize(torch.randn(2, size, 8, generator=generator), dim=-1)
    similarity, published = x @ y.T, (x @ y.T).double().numpy()
    if remove:
        similarity.fill_diagonal_(-torch.inf)
        published = published - 100 * np.eye(size)
    for ours, theirs in ((similarity, published), (similarity.T, published.T)):
        np.testing.assert_allclose(batch_target(ours, eps, 5).numpy(), otter_as_published(theirs, eps, 5), atol=1e-5)


def test_targets_of_both_sides_are_one_matrix_where_similarity_is_symmetric() -> None:
    x = torch.nn.functional.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    torch.testing.assert_close(batch_target(x @ x.T), batch_target((x @ x.T).T), atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), lengths=lengths_lists, eps=st.sampled_from([0.01, 0.1]))
def test_marginals_are_within_the_tolerance_reported(seed: int, lengths: Lengths, eps: float) -> None:
    cost, rows, columns = problem(seed, lengths)
    solved = solve(cost, rows, columns, Solver(eps=eps, tolerance=1e-3, most=20_000))
    a, b = rows / rows.sum(1, keepdim=True), columns / columns.sum(1, keepdim=True)
    error = (solved.plan.sum(2) - a).abs().sum(1)
    torch.testing.assert_close(solved.error, error, atol=1e-6, rtol=0)
    assert solved.converged.all()
    assert error.max() <= 1e-3 + 1e-6
    torch.testing.assert_close(solved.plan.sum(1), b, atol=1e-6, rtol=0)
    torch.testing.assert_close(solved.value, (solved.plan * cost).sum((1, 2)))


@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("method", ["sinkhorn", "unbalanced"])
def test_every_eps_gives_finite_plans(method: Method, eps: float) -> None:
    for case in (adversarial(), problem(0, [(1, 1), (1, 1)]), problem(1, [(30, 3), (2, 40), (1, 9)], dim=2)):
        solved = solve(*case, Solver(method, eps=eps, most=200))
        assert solved.plan.isfinite().all()
        assert (solved.plan >= 0).all()
        assert solved.value.isfinite().all()
        assert solved.plan.sum((1, 2)).max() <= 1 + 1e-4


@both_ways
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fill", [0.0, 1.0])
@pytest.mark.usefixtures("compiled")
def test_constant_and_zero_states_stay_finite(method: Method, fill: float) -> None:
    x = torch.full((2, 4, 8), fill, requires_grad=True)
    y = torch.cat([torch.zeros(1, 3, 8), torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))])
    value, solved = token_transport(x, y, torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool), Solver(method))
    value.sum().backward()
    assert solved.plan.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() < 10


def test_unconverged_is_said_of_the_pair_that_it_is_true_of() -> None:
    solved = solve(*problem(3, [(12, 12), (1, 1)], dim=2), Solver(eps=0.05, tolerance=1e-6, most=9))
    assert solved.converged.tolist() == [False, True]
    assert solved.error[0] > 1e-6
    assert solved.iterations.tolist() == [9, 8]


def test_what_is_not_a_number_ends_and_is_not_converged() -> None:
    cost, rows, columns = problem(0, [(3, 3), (3, 3)])
    cost[0, 1, 1] = torch.nan
    solved = solve(cost, rows, columns)
    assert solved.converged.tolist() == [False, True]
    assert solved.iterations.max() < 100


@pytest.mark.parametrize("eps", [0.005, 0.02, 0.1])
def test_a_pair_is_solved_as_far_in_company_as_alone(eps: float) -> None:
    """Iterations are equal. Plans are equal up to rounding, because sums over longer padded rows have another order."""
    cost, rows, columns = problem(2, [(12, 9), (1, 1), (4, 11), (12, 12), (5, 2)], dim=3)
    solver = Solver(eps=eps, most=300)
    together = solve(cost, rows, columns, solver)
    assert len(together.iterations.unique()) > 1
    for index, one in enumerate(torch.arange(len(cost)).split(1)):
        alone = solve(cost[one], rows[one], columns[one], solver)
        assert alone.iterations == together.iterations[index]
        torch.testing.assert_close(alone.plan[0], together.plan[index], atol=1e-6, rtol=0)


def test_every_domain_gives_the_same_plan() -> None:
    """A problem out of range in the batch, or double precision, changes how a pair is solved but not the result."""
    cost, rows, columns = problem(4, [(6, 5), (5, 6)])
    plain = solve(cost, rows, columns, Solver(eps=0.1, **TIGHT)).plan
    assert moved(plain.numpy(), solve(cost.double(), rows, columns, Solver(eps=0.1, **TIGHT)).plan.numpy()) < 1e-5
    for scale in (100.0, 1000.0):
        far = torch.cat([cost, scale * cost])
        mixed = solve(far, rows.repeat(2, 1), columns.repeat(2, 1), Solver(eps=0.1, most=50)).plan
        torch.testing.assert_close(mixed[:2], solve(cost, rows, columns, Solver(eps=0.1, most=50)).plan)
        scaled = solve(scale * cost, rows, columns, Solver(eps=0.1, most=50)).plan
        torch.testing.assert_close(mixed[2:], scaled)
        # Scaling costs and eps by one factor gives the same problem, here in another domain.
        torch.testing.assert_close(scaled, solve(scale / 100 * cost, rows, columns, Solver(eps=1e-3, most=50)).plan)


@both_ways
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("compiled")
def test_permuting_tokens_or_pairs_permutes_the_plan(method: Method) -> None:
    x, y, rows, columns = states(0, [(7, 5), (4, 6), (7, 2)])
    solver = Solver(method)
    plan = token_transport(x, y, rows, columns, solver)[1].plan
    tokens, pairs = torch.tensor([6, 2, 0, 5, 1, 4, 3]), torch.tensor([2, 0, 1])
    by_tokens = token_transport(x[:, tokens], y, rows[:, tokens], columns, solver)[1].plan
    torch.testing.assert_close(by_tokens, plan[:, tokens], atol=1e-6, rtol=0)
    by_pairs = token_transport(x[pairs], y[pairs], rows[pairs], columns[pairs], solver)[1].plan
    torch.testing.assert_close(by_pairs, plan[pairs], atol=1e-6, rtol=0)


@both_ways
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fill", [0.0, 1e6])
@pytest.mark.usefixtures("compiled")
def test_more_padding_changes_nothing_to_the_last_bit(method: Method, fill: float) -> None:
    x, y, rows, columns = states(0, [(7, 5), (4, 6)])
    solver = Solver(method)
    value, solved = token_transport(x, y, rows, columns, solver)
    wide = torch.nn.functional.pad(x, (0, 0, 0, 9), value=fill), torch.nn.functional.pad(y, (0, 0, 0, 4), value=fill)
    masks = torch.nn.functional.pad(rows, (0, 9)), torch.nn.functional.pad(columns, (0, 4))
    padded_value, padded = token_transport(*wide, *masks, solver)
    assert torch.equal(padded_value, value)
    assert torch.equal(padded.plan[:, :7, :6], solved.plan)
    assert padded.plan.shape == (2, 16, 10)
    assert not padded.plan[:, 7:].any()
    assert not padded.plan[:, :, 6:].any()


def test_weights_may_be_given() -> None:
    cost, rows, columns = problem(1, [(4, 3)])
    a, b = torch.tensor([[0.5, 0.25, 0.0, 0.25]]), torch.tensor([[0.2, 0.7, 0.1]])
    plan = solve(cost, a, b, Solver(**TIGHT)).plan[0].double().numpy()
    kept = [0, 1, 3]
    truth = ot.sinkhorn(
        a[0, kept].double().numpy(), np.array([0.2, 0.7, 0.1]), cost[0, kept].double().numpy(), 0.1, stopThr=1e-10
    )
    assert moved(plan[kept], truth) < 1e-4
    assert not plan[2].any()
    torch.testing.assert_close(solve(cost, 8 * a, b / 8, Solver(**TIGHT)).plan[0].double().numpy(), plan)
    assert torch.equal(solve(cost, rows.float(), columns.float()).plan, solve(cost, rows, columns).plan)


@pytest.mark.parametrize("row", [[0.0, 0.0], [1.5, -0.5]])
def test_weights_that_are_none_are_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="problem 1 has no token, a weight that is negative"):
        solve(torch.ones(2, 2, 2), torch.tensor([[0.5, 0.5], row]), torch.ones(2, 2, dtype=torch.bool))


def test_a_pair_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="problem 0 has no token"):
        solve(torch.ones(1, 2, 2), torch.zeros(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.parametrize("weights", [[torch.inf, 1.0], [3e38, 3e38], [torch.nan, 1.0]], ids=["infinite", "overflow", "nan"])
@both_ways
@pytest.mark.usefixtures("compiled")
def test_weights_without_a_finite_sum_are_refused(weights: list[float]) -> None:
    rows, columns = torch.tensor([[1.0, 1.0], weights]), torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"problem 1 .* whose sum is not finite"):
        solve(torch.ones(2, 2, 2), rows, columns)
    with pytest.raises(ValueError, match=r"problem 1 .* whose sum is not finite"):
        token_transport(torch.ones(2, 2, 3), torch.ones(2, 2, 3), rows, columns)


@pytest.mark.parametrize("shape", [(0, 2, 2), (2, 0, 2), (2, 2, 0)])
def test_an_empty_batch_is_refused(shape: tuple[int, int, int]) -> None:
    batch, n, m = shape
    rows, columns = torch.ones(batch, n, dtype=torch.bool), torch.ones(batch, m, dtype=torch.bool)
    with pytest.raises(ValueError, match="expected one problem or more"):
        solve(torch.ones(shape), rows, columns)
    with pytest.raises(ValueError, match="expected one problem or more"):
        token_transport(torch.ones(batch, n, 3), torch.ones(batch, m, 3), rows, columns)


def test_weights_of_another_shape_are_refused() -> None:
    """A mask of one problem would be broadcast over all problems."""
    with pytest.raises(ValueError, match=r"rows is \(1, 2\): expected \(3, 2\)"):
        solve(torch.ones(3, 2, 2), torch.ones(1, 2), torch.ones(3, 2))


@pytest.mark.parametrize("method", ["sinkhorn", "unbalanced"])
def test_an_infinite_cost_forbids_its_pair(method: Method) -> None:
    """The value and the gradient are those of a cost so high that no mass is transported there."""
    cost, rows, columns = problem(4, [(4, 4), (3, 4)])
    forbidden, dear = cost.clone(), cost.clone()
    forbidden[0, 1, 2], dear[0, 1, 2] = torch.inf, 60.0
    forbidden.requires_grad_()
    solved = solve(forbidden, rows, columns, Solver(method, **TIGHT))
    solved.value.sum().backward()
    assert solved.converged.all()
    assert solved.plan[0, 1, 2] == 0
    torch.testing.assert_close(solved.value, solve(dear, rows, columns, Solver(method, **TIGHT)).value)
    assert forbidden.grad is not None
    torch.testing.assert_close(forbidden.grad, solved.plan)


def test_a_problem_that_only_a_forbidden_pair_could_solve_has_not_converged() -> None:
    cost = torch.tensor([[[0.1, torch.inf], [0.1, torch.inf]], [[0.1, 0.2], [0.2, 0.1]]])
    real = torch.ones(2, 2, dtype=torch.bool)
    with pytest.warns(NotConverged, match="1 transport problems"):
        assert solve(cost, real, real).converged.tolist() == [False, True]


@pytest.mark.parametrize("method", ["ipot", "exact"])
def test_a_method_that_cannot_forbid_a_pair_says_so(method: Method) -> None:
    cost, rows, columns = problem(4, [(4, 4), (3, 4)])
    cost[1, 0, 0] = torch.inf
    with pytest.raises(ValueError, match=f"problem 1 has an infinite cost, and {method}"):
        solve(cost, rows, columns, Solver(method))


@pytest.mark.parametrize("length", [1e-40, 1e-30, 1e-13, 1e19, 1e30, 1e37])
@pytest.mark.parametrize("method", ["sinkhorn", "exact"])
@both_ways
@pytest.mark.usefixtures("compiled")
def test_states_of_any_length_have_their_directions(length: float, method: Method) -> None:
    x, y, rows, columns = states(6, [(4, 3), (5, 5)])
    solver = Solver(method, **TIGHT)
    value, plain = token_transport(x, y, rows, columns, solver)
    extreme = x.clone()
    extreme[1, 2] *= length
    extreme.requires_grad_()
    found, solved = token_transport(extreme, y, rows, columns, solver)
    # A state of 1e-40 is subnormal and has about five significant digits.
    near = {"atol": 1e-4, "rtol": 0.0} if length < 1e-37 else {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(found, value, **near)
    torch.testing.assert_close(solved.plan, plain.plan, **near)
    torch.testing.assert_close(cosine_cost(extreme, y)[rows], cosine_cost(x, y)[rows], **near)
    found.sum().backward()
    assert extreme.grad is not None
    usual = x.clone().requires_grad_()
    token_transport(usual, y, rows, columns, solver)[0].sum().backward()
    assert usual.grad is not None
    others = torch.ones(2, 5, dtype=torch.bool)
    others[1, 2] = False
    torch.testing.assert_close(extreme.grad[others], usual.grad[others], **near)
    if 1e-37 < length < 1e30:  # beyond these limits float32 cannot represent the gradient, 1 / length
        torch.testing.assert_close(extreme.grad[1, 2] * length, usual.grad[1, 2], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("choice", [{"eps": 1e-4}, {"eps": 11.0}, {"rho": 0.0}, {"beta": -1.0}, {"most": 0}])
def test_a_solver_out_of_range_is_refused(choice: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"eps|rho|most|beta"):
        Solver(**choice)  # type: ignore[arg-type]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), shift=st.floats(-5, 5))
def test_scaling_invariances(seed: int, scale: float, shift: float) -> None:
    """Cosines do not depend on the lengths of states. A plan with fixed marginals does not depend on a constant in the cost."""
    x, y, rows, columns = states(seed, [(5, 4), (3, 6)])
    value, _ = token_transport(x, y, rows, columns)
    torch.testing.assert_close(token_transport(scale * x, y / scale, rows, columns)[0], value, atol=1e-4, rtol=0)
    cost = cosine_cost(x, y)
    torch.testing.assert_close(solve(cost + shift, rows, columns).plan, solve(cost, rows, columns).plan, atol=1e-4, rtol=0)


@both_ways
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("compiled")
def test_the_fast_form_equals_the_plain_one(method: Method) -> None:
    x, y, rows, columns = states(5, [(7, 5), (1, 1), (4, 6)])
    x.requires_grad_()
    y.requires_grad_()
    weights = torch.tensor([1.0, -2.0, 0.5])
    fast, solved = token_transport(x, y, rows, columns, Solver(method, **TIGHT))
    plain = solve(cosine_cost(x, y), rows, columns, Solver(method, **TIGHT))
    torch.testing.assert_close(fast, plain.value, atol=1e-5, rtol=0)
    torch.testing.assert_close(solved.plan, plain.plan, atol=1e-5, rtol=0)
    assert not solved.value.requires_grad
    ours = torch.autograd.grad((weights * fast).sum(), (x, y))
    theirs = torch.autograd.grad((weights * plain.value).sum(), (x, y))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Return the KL divergence between masses of any sum."""
    return float((p * np.log(p / q) - p + q).sum())


def regularised(method: Method, x: np.ndarray, y: np.ndarray, eps: float, rho: float) -> float:
    """Return the minimum of a method's complete objective, by POT in float64."""
    cost = ot.dist(x, y, metric="cosine")
    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    if method == "exact":
        return float(ot.emd2(a, b, cost))
    if method == "unbalanced":
        plan = ot.unbalanced.sinkhorn_unbalanced(a, b, cost, eps, rho, reg_type="kl", stopThr=1e-13, numItermax=9999)
        relaxed = divergence(plan.sum(1), a) + divergence(plan.sum(0), b)
        return float((plan * cost).sum() + eps * divergence(plan, np.outer(a, b)) + rho * relaxed)
    plan = ot.sinkhorn(a, b, cost, eps, stopThr=1e-13, numItermax=100_000)
    return float((plan * cost).sum() + eps * divergence(plan, np.outer(a, b)))


@both_ways
@pytest.mark.parametrize("method", ["sinkhorn", "unbalanced", "exact"])
@pytest.mark.usefixtures("compiled")
def test_the_gradient_is_that_of_the_whole_minimum(method: Method) -> None:
    x, y, rows, columns = states(0, [(3, 4)])
    value, _ = token_transport(x.requires_grad_(), y, rows, columns, Solver(method, rho=0.5, **TIGHT))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    start, other = x[0].detach().double().numpy(), y[0].double().numpy()
    for place in [(0, 0), (1, 5), (2, 11)]:
        step = np.zeros_like(start)
        step[place] = 1e-5
        slope = regularised(method, start + step, other, 0.1, 0.5) - regularised(method, start - step, other, 0.1, 0.5)
        assert float(gradient[0][place]) == pytest.approx(slope / 2e-5, abs=1e-3)


@pytest.mark.parametrize(("method", "eps"), [("sinkhorn", 0.1), ("sinkhorn", 5e-3), ("unbalanced", 0.1), ("ipot", 0.1)])
def test_unrolled_the_gradient_is_that_of_the_cost_of_the_plan(method: Method, eps: float) -> None:
    x, y, rows, columns = (part.double() if part.is_floating_point() else part for part in states(1, [(3, 4), (2, 2)], dim=4))
    solver = Solver(method, eps=eps, tolerance=0.0, most=10, unrolled=True)

    def value(moving: torch.Tensor) -> torch.Tensor:
        return token_transport(moving, y, rows, columns, solver)[0]

    x.requires_grad_()
    assert torch.autograd.gradcheck(value, x)
    held = torch.autograd.grad(token_transport(x, y, rows, columns, Solver(method, eps=eps, most=10))[0].sum(), x)[0]
    assert not torch.allclose(torch.autograd.grad(value(x).sum(), x)[0], held, rtol=1e-2)


@both_ways
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("compiled")
def test_autocast_gives_the_same_answer(method: Method) -> None:
    x, y, rows, columns = states(6, [(7, 5), (4, 6)])
    x.requires_grad_()
    value, solved = token_transport(x, y, rows, columns, Solver(method))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast_value, cast = token_transport(x, y, rows, columns, Solver(method))
        (cast_gradient,) = torch.autograd.grad(cast_value.sum(), x)
    assert torch.equal(cast_value, value)
    assert torch.equal(cast.plan, solved.plan)
    assert torch.equal(cast_gradient, gradient)
    assert token_transport(x.bfloat16(), y.bfloat16(), rows, columns, Solver(method))[0].dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_gives_the_same_answer(method: Method) -> None:
    x, y, rows, columns = states(7, [(7, 5), (1, 1), (4, 6)])
    value, solved = token_transport(x, y, rows, columns, Solver(method))
    there, moved_there = token_transport(x.cuda(), y.cuda(), rows.cuda(), columns.cuda(), Solver(method))
    torch.testing.assert_close(there.cpu(), value, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved_there.plan.cpu(), solved.plan, atol=1e-5, rtol=0)


def test_no_solver_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in METHODS:
            solve(*problem(8, [(40, 30), (3, 3)]), Solver(method))
