"""What numba compiles, and how it is shared out over threads. Imported only where numba is installed (the extra `[fast]`)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeAlias

import numba
import numpy.typing as npt
import torch

Array: TypeAlias = npt.NDArray[Any]

# Sums may be taken in any order, which lets them run in vector registers; what is not a number must stay none.
compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})


@cache
def workers(count: int) -> ThreadPoolExecutor:
    """Threads that wait for work."""
    return ThreadPoolExecutor(count, thread_name_prefix="compiled")


def share(work: Callable[[int, int], None], count: int, turn: int) -> None:
    """Do the items 0 to `count` on as many threads as torch uses, `turn` at a time: whoever is free takes the next.

    torch's own threads go on spinning for a while after each of its operations, so that another may come late.
    """
    firsts = iter(range(0, count, turn))

    def take() -> None:
        for first in firsts:
            work(first, min(first + turn, count))

    threads = min(torch.get_num_threads(), -(-count // turn))
    others = [workers(threads).submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        if not other.cancel():
            other.result()
