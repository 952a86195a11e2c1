"""Alternative implementations timed alternately within one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def compare(title: str, ways: Mapping[str, Callable[[], object]], rounds: int, *, warm: bool = True) -> None:
    """Print a Markdown table: median and range of each way in milliseconds, and how much faster the last is than each.

    Every round takes all ways once, so that what else the machine does meets them all; ratios are taken round by round. warm:
    whether all are taken once before, untimed.
    """
    for work in ways.values() if warm else ():
        work()
    times = [{name: milliseconds(work) for name, work in ways.items()} for _ in range(rounds)]
    last = list(ways)[-1]
    print(f"\n{title}; {torch.get_num_threads()} threads, {rounds} rounds\n")
    print("| way | ms, median [least, most] | the last is faster by |\n| --- | --- | --- |")
    for name in ways:
        taken = sorted(each[name] for each in times)
        ratios = sorted(each[name] / each[last] for each in times)
        factor = f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]" if name != last else ""
        print(f"| {name} | {statistics.median(taken):.1f} [{taken[0]:.3g}, {taken[-1]:.3g}] | {factor} |", flush=True)


def milliseconds(work: Callable[[], object]) -> float:
    """Return the time of one call, without freeing its result."""
    start = time.perf_counter()
    given = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    taken = time.perf_counter() - start
    del given
    return 1000 * taken
