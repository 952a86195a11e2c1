"""Training one tower in several processes (`torchrun`): the share of each in a batch, and their communication."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.nn import functional

from harness.core.errors import HarnessError

T = TypeVar("T")

MINUTES = 60
"""How long ranks wait for the leading one, which embeds, or computes the teacher's states, for all."""


@dataclass(frozen=True)
class Processes:
    """This process (`rank`) among the `count` processes that run the same program on the same pairs.

    Every rank sees the full batch and computes its full loss. Only the student's work is divided. So objectives within the
    batch, means over pairs and norms over the batch are those of a single process, even if the parts are unequal.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and messages."""
        return self.rank == 0

    def bounds(self, rows: int) -> list[int]:
        """Return the first row of each rank's part, and the end of the last part.

        >>> Processes(0, 3).bounds(8)
        [0, 3, 6, 8]
        """
        return [sum(rows // self.count + (rank < rows % self.count) for rank in range(upto)) for upto in range(self.count + 1)]

    def mine(self, rows: Sequence[T]) -> Sequence[T]:
        """Return this rank's part of a batch."""
        start, end = list(pairwise(self.bounds(len(rows))))[self.rank]
        return rows[start:end]

    def gather(self, part: Tensor, rows: int) -> Tensor:
        """Join the parts of all ranks to (rows, ...), in the order of the batch, without a gradient."""
        if self.count == 1:
            return part
        sizes = [end - start for start, end in pairwise(self.bounds(rows))]
        padded = functional.pad(part, (0, 0) * (part.dim() - 1) + (0, sizes[0] - len(part)))
        everyone = [torch.empty_like(padded) for _ in sizes]
        with report_lost_processes():
            distributed.all_gather(everyone, padded.contiguous())
        return torch.cat([each[:size] for each, size in zip(everyone, sizes, strict=True)])

    def sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Replace each gradient by its sum over all ranks."""
        if self.count == 1 or not gradients:
            return
        whole = torch.cat([each.flatten() for each in gradients])
        with report_lost_processes():
            distributed.all_reduce(whole)
        for each, added in zip(gradients, torch.split(whole, [each.numel() for each in gradients]), strict=True):
            each.copy_(added.view_as(each))

    def copy_from_leader(self, tensor: Tensor) -> None:
        """Replace a tensor by the leading rank's."""
        if not self.leads:
            tensor.zero_()
        self.sum_gradients([tensor])

    def any(self, here: bool) -> bool:
        """Return whether it is true on any rank."""
        return self._reduced(float(here), distributed.ReduceOp.MAX) > 0 if self.count > 1 else here

    def from_leader(self, number: float) -> float:
        """Return the leading rank's number."""
        return self._reduced(number if self.leads else 0.0, distributed.ReduceOp.SUM) if self.count > 1 else number

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Run the block on the leading rank first, so that the others find its result in the store."""
        if not self.leads:
            self.from_leader(0.0)
        yield
        if self.leads:
            self.from_leader(0.0)

    def _reduced(self, number: float, how: distributed.ReduceOp.RedOpType) -> float:
        value = torch.tensor(number, dtype=torch.float64, device=self.device)
        with report_lost_processes():
            distributed.all_reduce(value, how)
        return float(value)


ALONE = Processes()


@contextmanager
def report_lost_processes() -> Iterator[None]:
    """Turn the errors of a lost process into a HarnessError of one line."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[.*?\] ", "", " ".join(str(error).split()))[:120]  # gloo begins with the line of its source code
        raise HarnessError(f"another process of this training has ended, start the same command again ({reason})") from None


@contextmanager
def join_torchrun(device: str) -> Iterator[tuple[Processes, str]]:
    """Join the processes that torchrun started. Yields this process and its device: the GPU of its local rank, or the CPU.

    Raises HarnessError if the processes do not find each other.
    """
    on_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    if on_gpus:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if on_gpus else "gloo", timeout=timedelta(minutes=MINUTES))
    except (RuntimeError, ValueError) as error:
        raise HarnessError(f"torchrun's processes do not find each other: {' '.join(str(error).split())[:200]}") from None
    try:
        ranks = Processes(distributed.get_rank(), distributed.get_world_size(), device if on_gpus else "cpu")
        yield ranks, device
        # No process ends while the leading one still writes, since torchrun ends all when one ends with an error.
        with report_lost_processes():
            distributed.barrier()
    finally:
        distributed.destroy_process_group()
    if not ranks.leads:
        # Skip the teardown of torch, in which one of thirty processes died of SIGABRT.
        os._exit(0)
