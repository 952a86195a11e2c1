"""Work done ahead of who needs it: the next pictures are read while the last ones are encoded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def available_processors() -> int:
    """Processors that this process may use, and no more than OMP_NUM_THREADS says: the share of one worker among several."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(there, int(told)) if told.isdecimal() and int(told) else there


def prefetch(function: Callable[[T], R], items: Iterable[T], most: int) -> Iterator[R]:
    """`function` of each item, in order, by as many threads as there are processors, never more than `most` results in advance.

    For functions that leave Python's lock, as decoding and resizing do. What one raises is raised at its place.

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
