"""OTTER's transport over a batch of sentences."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.distill.transport.problem import FLOAT32_REACH, in_float


def batch_target(similarity: Tensor, eps: float = 0.15, iterations: int = 5) -> Tensor:
    """OTTER's soft target (arXiv 2112.09445) for each row of a batch's similarities (B, B'), in [-1, 1]; each row sums to 1.

    Q = exp(S / eps); `iterations` times: rows of Q to equal mass, then columns; at last each row is divided by its sum. For so
    few iterations the order of the half steps counts: the other side's target is `batch_target(similarity.T)`. An entry of
    -inf is a pair that is excluded. No gradient flows.

    >>> batch_target(torch.tensor([[0.9, 0.6], [0.6, 0.9]]))
    tensor([[0.8808, 0.1192],
            [0.1192, 0.8808]])
    """
    # Similarities span at most 2, so scalings reach exp(4 / eps) once the row maximum is taken out.
    precision = torch.float64 if 4 / eps > FLOAT32_REACH else torch.float32
    with torch.no_grad(), torch.autocast(similarity.device.type, enabled=False):
        scores = similarity.to(precision)
        # One matrix and no other: at 4,096 pairs each new one is 64 MB, which the kernel hands out page by page.
        kernel = (scores - scores.amax(1, keepdim=True)).div_(eps).exp_()
        v = kernel.new_ones(kernel.shape[1])
        for _ in range(iterations):
            u = 1 / (kernel @ v)
            v = 1 / (kernel.T @ u)
        kernel *= v
        return kernel.div_(kernel.sum(1, keepdim=True)).to(in_float(similarity).dtype)
