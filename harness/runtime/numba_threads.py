"""What numba compiles, and how it is shared out over threads. Imported only where numba is installed (the extra `[fast]`)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeAlias

import numba
import numpy.typing as npt
import torch

Array: TypeAlias = npt.NDArray[Any]

# Sums may be taken in any order, which lets them run in vector registers; what is not a number must stay none.
jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})


def parallel_for(work: Callable[[int, int], None], count: int, turn: int) -> None:
    """Do the items 0 to `count` on as many threads as torch uses, `turn` at a time: whoever is free takes the next.

    Raises what `work` raised.
    """
    firsts, failures = iter(range(0, count, turn)), []

    def take() -> None:
        try:
            for first in firsts:
                work(first, min(first + turn, count))
        except BaseException as failure:
            failures.append(failure)

    thread_runner()(take, min(torch.get_num_threads(), -(-count // turn)))
    if failures:
        raise failures[0]


@cache
def thread_runner() -> Callable[[Callable[[], None], int], None]:
    """What does a thing on several threads at once: torch's own where they are OpenMP's, else a pool.

    torch's threads spin for some milliseconds after each of its operations, and any others have to share the processor with them.
    """
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return run_on_pool
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    parallel.argtypes, parallel.restype = (signature, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return lambda take, threads: parallel(signature(lambda _: take()), None, threads, 0)


def run_on_pool(take: Callable[[], None], threads: int) -> None:
    """Do a thing on the calling thread and on some that wait for work."""
    others = [thread_pool(threads).submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        if not other.cancel():
            other.result()


@cache
def thread_pool(count: int) -> ThreadPoolExecutor:
    """Threads that wait for work."""
    return ThreadPoolExecutor(count, thread_name_prefix="compiled")
