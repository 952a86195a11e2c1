"""Transport problems with their solutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.distill.transport import tokens as transport
from harness.distill.transport.problem import Solver, Transport
from harness.distill.transport.tokens import token_transport

Solved = tuple[torch.Tensor, Transport, torch.Tensor, torch.Tensor]


def solved(x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor, solver: Solver, *, compiled: bool) -> Solved:
    """Return values, plans, and the gradients of both sides under unequal weights of the pairs."""
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(transport, "cpu_kernel_module", lambda: None)
        x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
        value, found = token_transport(x, y, a, b, solver)
        to_x, to_y = torch.autograd.grad((value * torch.linspace(-1, 2, len(value))).sum(), (x, y))
    return value.detach(), found, to_x, to_y


def case(seed: int, pairs: int, longest: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return states with some zero and duplicate rows, and random masses, some of them zero."""
    rng = np.random.default_rng(seed)
    sides, masses = [], []
    for _ in range(2):
        states = rng.normal(size=(pairs, longest, dim)).astype(np.float32)
        states[:, longest // 2] = states[:, 0]
        states[0, longest - 1] = 0
        mass = rng.uniform(0.1, 1, (pairs, longest)) * (rng.random((pairs, longest)) < 0.7)
        mass[np.arange(pairs), rng.integers(0, longest, pairs)] = 1.0
        sides.append(torch.from_numpy(states))
        masses.append(torch.from_numpy((mass / mass.sum(1, keepdims=True)).astype(np.float32)))
    return *sides, *masses
