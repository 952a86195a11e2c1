"""Linear layers and products of embeddings, by whichever float32 product is quick on this processor."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Float32 products of this size are off by about 1e-6 of their largest entry, whichever library takes them; bfloat16 ones by 2e-3.
FLOAT32_ERROR = 1e-5


@cache
def onednn_is_faster() -> bool:
    """Whether float32 products should go through oneDNN, not MKL: on AMD's processors, to which MKL keeps its quick paths shut.

    torch sends them there under the name of a lower precision, "medium", which on some processors it is. So one product is held
    to float64 first. Told by the maker and not by the clock, so that the same machine always gives the same bits.
    """
    built = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if not (built and is_amd_processor()):
        return False
    x, y = (torch.randn(256, 384, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    with onednn_matmul():
        product = x @ y.T
    exact = x.double() @ y.double().T
    return bool((product - exact).abs().max() < FLOAT32_ERROR * exact.abs().max())


def is_amd_processor() -> bool:
    """Whether the processor says that AMD made it."""
    listing = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (listing.read_text(errors="replace") if listing.is_file() else platform.processor())


def onednn_matmul() -> AbstractContextManager[None]:
    """Send float32 products through oneDNN. The switch is the process's: what else runs meanwhile goes there too."""
    return matmul_precision("medium")


def float32_matmul(device: str) -> AbstractContextManager[None]:
    """Take products in float32 on this device and in nothing less, as quickly as it can, whatever the process is set to."""
    return matmul_precision("medium" if device == "cpu" and onednn_is_faster() else "highest")


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set what torch calls the precision of float32 products, and set it back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class OneDnnLinear(torch.autograd.Function):
    """x W' + b for x (n, in) and W (out, in), all three products of forward and backward through oneDNN, and nothing else.

    Attention's small products lose there tenfold what these gain, which is why the switch is not set for good.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product."""
        ctx.save_for_backward(x, weight)
        with onednn_matmul():
            return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of what needs one."""
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        with onednn_matmul():
            return (
                gradient @ weight if to_x else None,
                gradient.T @ x if to_weight else None,
                gradient.sum(0) if to_bias else None,
            )


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b for x (..., in), W (out, in) and b (out,), by whichever product is quick here.

    >>> x, weight = torch.ones(4, 5, 3), torch.ones(2, 3)
    >>> torch.equal(project(x, weight), nn.functional.linear(x, weight))
    True
    """
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not (plain and onednn_is_faster()):
        return nn.functional.linear(x, weight, bias)
    flat: Tensor = OneDnnLinear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return flat.view(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """`nn.Linear`, by `project`."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return project(input, self.weight, self.bias)
