"""Linear layers and products of embeddings through the faster float32 library of this processor."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# The error of float32 products of this size is about 1e-6 of their largest entry in both libraries; of bfloat16 products, 2e-3.
FLOAT32_ERROR = 1e-5


@cache
def onednn_is_faster() -> bool:
    """Return whether float32 products should use oneDNN instead of MKL: on AMD processors, where MKL disables its fast paths.

    torch uses oneDNN at the precision "medium", which on some processors is a lower precision. One product is therefore compared
    with float64 first. The decision depends on the vendor, not on timing, so that a machine always gives the same bits.
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
    """Return whether the processor identifies itself as AMD's."""
    listing = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (listing.read_text(errors="replace") if listing.is_file() else platform.processor())


def onednn_matmul() -> AbstractContextManager[None]:
    """Compute float32 products with oneDNN. The setting holds for the whole process, other threads included."""
    return matmul_precision("medium")


def float32_matmul(device: str) -> AbstractContextManager[None]:
    """Compute products on a device in full float32, with the faster library, whatever the process's setting is."""
    return matmul_precision("medium" if device == "cpu" and onednn_is_faster() else "highest")


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set torch's precision of float32 products, and restore it at the end."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class OneDnnLinear(torch.autograd.Function):
    """x W' + b for x (n, in) and W (out, in), with all three products of forward and backward through oneDNN.

    The setting is not permanent, since attention's small products lose ten times as much in oneDNN as these gain.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the product."""
        ctx.save_for_backward(x, weight)
        with onednn_matmul():
            return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments that need one."""
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        with onednn_matmul():
            return (
                gradient @ weight if to_x else None,
                gradient.T @ x if to_weight else None,
                gradient.sum(0) if to_bias else None,
            )


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W' + b for x (..., in), W (out, in) and b (out,), with the faster library of this processor.

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
    """`nn.Linear` whose product is `project`."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return project(input, self.weight, self.bias)
