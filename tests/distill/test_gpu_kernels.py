"""Compare token transport compiled for a GPU with the padded method. Without a GPU, Triton's interpreter runs it."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.distill.transport import tokens as transport
from harness.distill.transport.problem import Method, NotConverged, Solver, Transport
from harness.distill.transport.tokens import HeldPlan, token_transport
from tests.support.transport_cases import Solved, case, solved

kernels = pytest.importorskip("harness.distill.transport.gpu_kernels", exc_type=ImportError)
# The interpreter divides by zero at positions without mass before it masks them.
pytestmark = pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
THERE = "cuda" if torch.cuda.is_available() else "cpu"


def on_gpu(given_: tuple[torch.Tensor, ...], solver: Solver) -> Solved:
    """Return the solution of the GPU kernels in the form of `solved`."""
    x, y, a, b = (part.to(THERE) for part in given_)
    x.requires_grad_()
    y.requires_grad_()
    value, *parts = HeldPlan.apply(x, y, a, b, solver, kernels)
    to_x, to_y = torch.autograd.grad((value * torch.linspace(-1, 2, len(value)).to(THERE)).sum(), (x, y))
    return value.detach().cpu(), Transport(*(part.cpu() for part in parts)), to_x.cpu(), to_y.cpu()


def cut(plan: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return a plan cut to the shape of another. The removed positions are checked to be empty."""
    n, m = other.shape[1:]
    assert not plan[:, n:].any()
    assert not plan[:, :, m:].any()
    return plan[:, :n, :m]


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    pairs=st.integers(1, 3),
    longest=st.integers(1, 21),
    dim=st.sampled_from([3, 33, 70]),
    eps=st.sampled_from([0.02, 0.05, 0.1, 1.0]),
    method=st.sampled_from(["sinkhorn", "unbalanced"]),
)
def test_both_ways_give_the_same(seed: int, pairs: int, longest: int, dim: int, eps: float, method: Method) -> None:
    """They agree up to rounding. The weights need not sum to 1."""
    x, y, a, b = case(seed, pairs, longest, dim)
    solver = Solver(method, eps=eps, tolerance=0.0, most=7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        mine = on_gpu((x, y, 3 * a, b), solver)
        theirs = solved(x, y, a, b, solver, compiled=False)
    torch.testing.assert_close(mine[0], theirs[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(cut(mine[1].plan, theirs[1].plan), theirs[1].plan, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(mine[1].error, theirs[1].error, atol=2e-5, rtol=1e-4)
    assert mine[1].iterations.tolist() == theirs[1].iterations.tolist() == [7] * pairs
    for one, other in zip(mine[2:], theirs[2:], strict=True):
        torch.testing.assert_close(one, other, atol=2e-5 * float(other.abs().max() + 1), rtol=1e-3)


def test_each_pair_stops_where_it_has_converged() -> None:
    given_, solver = case(3, 6, 12, 8), Solver(eps=0.05)
    mine, theirs = on_gpu(given_, solver)[1], solved(*given_, solver, compiled=False)[1]
    assert mine.iterations.tolist() == theirs.iterations.tolist()
    assert len(set(mine.iterations.tolist())) > 1
    assert mine.converged.all()


@pytest.mark.parametrize("wrong", [0.0, -1.0, torch.inf, 3e38])
def test_weights_that_are_wrong_are_refused(wrong: float) -> None:
    x, y, a, b = case(4, 3, 6, 8)
    a[1] = wrong
    with pytest.raises(ValueError, match="problem 1 has no token, a weight that is negative"):
        on_gpu((x, y, a, b), Solver())


def test_what_is_not_a_number_ends_and_is_not_converged() -> None:
    x, y, a, b = case(5, 2, 6, 8)
    x[1] = float("nan")
    with pytest.warns(NotConverged, match="1 transport problems"):
        value, found, *_ = on_gpu((x, y, a, b), Solver())
    assert found.converged.tolist() == [True, False]
    assert value.isnan().tolist() == [False, True]


@pytest.mark.skipif(THERE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize(
    ("lengths", "solver", "serves"),
    [
        ((40, 30), Solver(), True),
        ((128, 3), Solver("unbalanced", eps=0.05), True),
        ((70, 90), Solver(eps=0.02), True),
        ((129, 3), Solver(), False),
        ((40, 30), Solver(eps=5e-3), False),
        ((40, 30), Solver("ipot"), False),
        ((40, 30), Solver(unrolled=True), False),
    ],
)
def test_states_on_a_gpu_go_this_way_where_it_serves(lengths: tuple[int, int], solver: Solver, serves: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5, length, 64, generator=generator) for length in lengths)
    rows, columns = (torch.arange(length) < torch.randint(1, length + 1, (5, 1), generator=generator) for length in lengths)
    there = [part.cuda() for part in (x, y, rows, columns)]
    assert transport.fits_gpu(*there[:2], solver) == serves
    value, found = token_transport(*there, solver)
    expected, truth = token_transport(x, y, rows, columns, solver)
    torch.testing.assert_close(value.cpu(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.plan.cpu(), truth.plan, atol=1e-5, rtol=1e-3)


def test_where_triton_cannot_compile_it_is_said_and_the_padded_way_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(kernels, "check_compiler", fails)
    transport.gpu_kernel_module.cache_clear()
    with pytest.warns(UserWarning, match=r"cannot compile for this GPU \(Failed to find C compiler\)"):
        assert transport.gpu_kernel_module() is None
    states = torch.ones(1, 2, 3)
    assert not transport.fits_gpu(states, states, Solver())
    transport.gpu_kernel_module.cache_clear()
