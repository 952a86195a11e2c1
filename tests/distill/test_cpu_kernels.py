"""Compare the compiled token transport with the padded one, which tests/distill/test_transport.py checks against POT."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.distill.transport import tokens as transport
from harness.distill.transport.problem import Method, NotConverged, Solver
from harness.distill.transport.tokens import token_transport
from tests.support.transport_cases import case, solved

kernels = pytest.importorskip("harness.distill.transport.cpu_kernels", exc_type=ImportError)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    pairs=st.integers(1, 5),
    longest=st.integers(1, 21),
    dim=st.sampled_from([3, 16, 33]),
    eps=st.sampled_from([0.02, 0.04, 0.1, 1.0]),
    method=st.sampled_from(["sinkhorn", "unbalanced"]),
)
def test_both_ways_give_the_same(seed: int, pairs: int, longest: int, dim: int, eps: float, method: Method) -> None:
    """They agree up to rounding. Below eps 0.047 (0.07 with relaxed marginals) both may use float64."""
    given_, solver = case(seed, pairs, longest, dim), Solver(method, eps=eps, tolerance=0.0, most=8)
    assert transport.fits_kernels(given_[0], solver)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        mine, theirs = (solved(*given_, solver, compiled=compiled) for compiled in (True, False))
    for one, other in ((mine[0], theirs[0]), (mine[1].plan, theirs[1].plan), (mine[1].error, theirs[1].error)):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    assert mine[1].iterations.tolist() == theirs[1].iterations.tolist() == [8] * pairs
    for one, other in zip(mine[2:], theirs[2:], strict=True):
        torch.testing.assert_close(one, other, atol=2e-5 * float(other.abs().max() + 1), rtol=1e-3)


def test_each_pair_stops_where_it_has_converged() -> None:
    given_ = case(3, 6, 12, 8)
    mine, theirs = (solved(*given_, Solver(eps=0.05), compiled=compiled)[1] for compiled in (True, False))
    assert mine.iterations.tolist() == theirs.iterations.tolist()
    assert len(set(mine.iterations.tolist())) > 1
    assert mine.converged.all()


def test_a_pair_knows_nothing_of_its_neighbours_and_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    given_, solver = case(4, 7, 13, 24), Solver()
    whole = solved(*given_, solver, compiled=True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(kernels, "PAIRS_A_TURN", 2)
    shared = solved(*given_, solver, compiled=True)
    for one, other in ((whole[0], shared[0]), (whole[1].plan, shared[1].plan), (whole[2], shared[2]), (whole[3], shared[3])):
        assert torch.equal(one, other)
    alone = token_transport(*(part[2:3] for part in given_), solver)
    assert torch.equal(alone[0], whole[0][2:3])
    places = alone[1].plan.shape[1:]
    assert torch.equal(alone[1].plan[0], whole[1].plan[2, : places[0], : places[1]])


def test_what_is_not_a_number_ends_and_is_not_converged() -> None:
    x, y, a, b = case(5, 2, 6, 8)
    x[1] = float("nan")
    with pytest.warns(NotConverged, match="1 transport problems"):
        value, found = token_transport(x, y, a, b)
    assert found.converged.tolist() == [True, False]
    assert value.isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("dtype", "solver"),
    [
        (torch.float64, Solver()),
        (torch.float32, Solver(eps=5e-3)),
        (torch.float32, Solver("unbalanced", eps=8e-3)),
        (torch.float32, Solver("ipot")),
        (torch.float32, Solver("exact")),
    ],
)
def test_the_rest_goes_the_padded_way(dtype: torch.dtype, solver: Solver) -> None:
    assert not transport.fits_kernels(torch.zeros(1, 1, 1, dtype=dtype), solver)
