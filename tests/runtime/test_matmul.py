"""The linear layer gives what `nn.Linear` gives, whichever product it takes, and leaves the process's switches alone."""

import pytest
import torch
from torch import nn

from harness.runtime import matmul
from harness.runtime.matmul import Linear, onednn_is_faster


@pytest.fixture(params=[True, False], ids=["oneDNN", "plain"])
def quicker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether oneDNN is to be taken."""
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(matmul, "onednn_is_faster", lambda: request.param)
    return bool(request.param)


@pytest.mark.usefixtures("quicker")
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_torch(bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(48, 32, bias=bias), torch.randn(3, 5, 48, requires_grad=True)
    before = torch.get_float32_matmul_precision()
    mine = layer(x)
    theirs = nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    weights = torch.randn_like(mine)
    inputs = [x, *layer.parameters()]
    ours, others = (torch.autograd.grad((weights * out).sum(), inputs) for out in (mine, theirs))
    for one, other in zip(ours, others, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.usefixtures("quicker")
def test_what_needs_no_gradient_gets_none() -> None:
    layer, x = Linear(4, 2), torch.randn(3, 4)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None


@pytest.mark.usefixtures("quicker")
def test_autocast_still_decides_the_precision() -> None:
    layer = Linear(4, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(3, 4)).dtype == torch.bfloat16
    assert layer.double()(torch.randn(3, 4, dtype=torch.float64)).dtype == torch.float64


def test_onednn_is_not_taken_where_it_is_less_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "is_amd_processor", lambda: True)
    monkeypatch.setattr(matmul, "FLOAT32_ERROR", 1e-9)
    assert not onednn_is_faster.__wrapped__()


def test_onednn_is_not_taken_on_the_processors_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "is_amd_processor", lambda: False)
    assert not onednn_is_faster.__wrapped__()
