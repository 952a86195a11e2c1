"""Prefetching: the next images are read while the previous ones are encoded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def available_processors() -> int:
    """Return the number of processors that this process may use, at most OMP_NUM_THREADS, which limits a worker among several."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(there, int(told)) if told.isdecimal() and int(told) else there


def prefetch(function: Callable[[T], R], items: Iterable[T], most: int) -> Iterator[R]:
    """Yield `function(item)` in order, computed by as many threads as there are processors, at most `most` results in advance.

    Meant for functions that release the global interpreter lock, such as decoding. An exception is raised at its item's place.

    >>> list(prefetch(abs, [-1, 2, -3], 2))
    [1, 2, 3]
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(min(available_processors(), most))
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
