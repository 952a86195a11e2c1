"""Compilation with numba, and parallel loops over threads. Imported only if numba is installed (the extra `[fast]`)."""

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

# Sums may be reordered, which lets them use vector registers. NaN must stay NaN, so that not all of fastmath is on.
jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})


def parallel_for(work: Callable[[int, int], None], count: int, turn: int) -> None:
    """Call `work(first, last)` for chunks of `turn` items of 0 to `count`, on as many threads as torch uses.

    A free thread takes the next chunk. Raises the first exception of `work`.
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
    """Return a function that runs a callable on several threads: torch's own if it uses GNU OpenMP, else those of a pool.

    torch's threads spin for some milliseconds after each operation, and other threads would compete with them for the processor.
    """
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return run_on_pool
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    parallel.argtypes, parallel.restype = (signature, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return lambda take, threads: parallel(signature(lambda _: take()), None, threads, 0)


def run_on_pool(take: Callable[[], None], threads: int) -> None:
    """Run a callable on the calling thread and on threads of a pool."""
    others = [thread_pool(threads).submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        if not other.cancel():
            other.result()


@cache
def thread_pool(count: int) -> ThreadPoolExecutor:
    """Return a pool of waiting threads."""
    return ThreadPoolExecutor(count, thread_name_prefix="compiled")
