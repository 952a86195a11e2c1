"""The processes that train one tower together (`torchrun`): what each does of a batch, and how that is put together."""

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
"""For which ranks wait for one that embeds, or reads the teacher's states, for all."""


@dataclass(frozen=True)
class Processes:
    """This process's place (`rank`) among `count` that run the same program over the same pairs. Alone it is all of them.

    Every rank sees the whole batch and computes its whole loss; what is divided is the student's work. So an objective within
    the batch, a mean over pairs and a norm over the batch are what they are for one process, in however unequal parts.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether it is this process that writes and speaks."""
        return self.rank == 0

    def bounds(self, rows: int) -> list[int]:
        """Where each rank's part of so many rows begins, and where the last one ends.

        >>> Processes(0, 3).bounds(8)
        [0, 3, 6, 8]
        """
        return [sum(rows // self.count + (rank < rows % self.count) for rank in range(upto)) for upto in range(self.count + 1)]

    def mine(self, rows: Sequence[T]) -> Sequence[T]:
        """This rank's part of a batch."""
        start, end = list(pairwise(self.bounds(len(rows))))[self.rank]
        return rows[start:end]

    def gathered(self, part: Tensor, rows: int) -> Tensor:
        """The whole (rows, ...) of every rank's part, in the order of the batch; without a gradient."""
        if self.count == 1:
            return part
        sizes = [end - start for start, end in pairwise(self.bounds(rows))]
        padded = functional.pad(part, (0, 0) * (part.dim() - 1) + (0, sizes[0] - len(part)))
        everyone = [torch.empty_like(padded) for _ in sizes]
        with report_lost_processes():
            distributed.all_gather(everyone, padded.contiguous())
        return torch.cat([each[:size] for each, size in zip(everyone, sizes, strict=True)])

    def add_up(self, gradients: Sequence[Tensor]) -> None:
        """Replace each gradient by its sum over all ranks."""
        if self.count == 1 or not gradients:
            return
        whole = torch.cat([each.flatten() for each in gradients])
        with report_lost_processes():
            distributed.all_reduce(whole)
        for each, added in zip(gradients, torch.split(whole, [each.numel() for each in gradients]), strict=True):
            each.copy_(added.view_as(each))

    def any(self, here: bool) -> bool:
        """Whether it is so for any rank."""
        return self._reduced(float(here), distributed.ReduceOp.MAX) > 0 if self.count > 1 else here

    def told(self, number: float) -> float:
        """What the leading rank's number is."""
        return self._reduced(number if self.leads else 0.0, distributed.ReduceOp.SUM) if self.count > 1 else number

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leading rank does it, and then the others, who find it in the store."""
        if not self.leads:
            self.told(0.0)
        yield
        if self.leads:
            self.told(0.0)

    def _reduced(self, number: float, how: distributed.ReduceOp.RedOpType) -> float:
        value = torch.tensor(number, dtype=torch.float64, device=self.device)
        with report_lost_processes():
            distributed.all_reduce(value, how)
        return float(value)


ALONE = Processes()


@contextmanager
def report_lost_processes() -> Iterator[None]:
    """Turn what is raised when another rank is gone into one line."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[.*?\] ", "", " ".join(str(error).split()))[:120]  # gloo begins with a line of its own code
        raise HarnessError(f"another process of this training has ended, start the same command again ({reason})") from None


@contextmanager
def torchrun_processes(device: str) -> Iterator[tuple[Processes, str]]:
    """This process among those that torchrun started, and its device: of GPUs the one of its number on its machine.

    Raises HarnessError if they do not find each other.
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
        # None leaves while the leading one still writes: what happens to one that ends, torchrun does to all.
        with report_lost_processes():
            distributed.barrier()
    finally:
        distributed.destroy_process_group()
    if not ranks.leads:
        # It has nothing left to do. One in thirty died of SIGABRT while C++ took down what torch had left in it.
        os._exit(0)
