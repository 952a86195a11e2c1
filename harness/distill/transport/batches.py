"""OTTER's entropic transport over a batch of sentences."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.distill.transport.problem import FLOAT32_REACH, at_least_float32


def batch_target(similarity: Tensor, eps: float = 0.15, iterations: int = 5) -> Tensor:
    """Return OTTER's soft targets (arXiv 2112.09445) for similarities (B, B') in [-1, 1]. Each row sums to 1.

    Q = exp(S / eps). Each iteration normalises the rows of Q to equal mass, then the columns. The rows of the result are divided
    by their sums. With so few iterations the order of the half steps matters: the targets of the other side are
    `batch_target(similarity.T)`. An entry of -inf excludes a pair. No gradient flows.

    >>> batch_target(torch.tensor([[0.9, 0.6], [0.6, 0.9]]))
    tensor([[0.8808, 0.1192],
            [0.1192, 0.8808]])
    """
    # Similarities span at most 2, so scalings reach exp(4 / eps) once the row maximum is subtracted.
    precision = torch.float64 if 4 / eps > FLOAT32_REACH else torch.float32
    with torch.no_grad(), torch.autocast(similarity.device.type, enabled=False):
        scores = similarity.to(precision)
        # All steps work in place: at 4,096 pairs another matrix takes 64 MB, which the kernel allocates page by page.
        kernel = (scores - scores.amax(1, keepdim=True)).div_(eps).exp_()
        v = kernel.new_ones(kernel.shape[1])
        for _ in range(iterations):
            u = 1 / (kernel @ v)
            v = 1 / (kernel.T @ u)
        kernel *= v
        return kernel.div_(kernel.sum(1, keepdim=True)).to(at_least_float32(similarity).dtype)
