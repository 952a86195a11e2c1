"""Measures of ranked lists with graded relevance, computed by ir_measures, and what a random order is expected to have."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import log2

import numpy as np

from harness.api import Floats, HarnessError, Ints, TextRetrieval
from harness.ranking import CUTOFFS, by_chance

QUERIES_AT_ONCE = 500


def shown(measure: str) -> str:
    """What tables call a measure of ir_measures: its R@k is the share of relevant documents found, and R@k here a hit rate.

    >>> shown("nDCG@10"), shown("RR"), shown("RR@10"), shown("R@100")
    ('nDCG@10', 'MRR', 'MRR@10', 'recall@100')
    """
    name, at, cutoff = measure.partition("@")
    return {"RR": "MRR", "R": "recall"}.get(name, name) + at + cutoff


def per_query(retrieval: TextRetrieval, lists: Ints) -> dict[str, Floats]:
    """The retrieval's measures of each query, (m,) in percent, by the name that tables give them.

    lists: (m, k), each query's documents, best first; -1 where there are no more. Raises HarnessError for a measure that
    ir_measures does not know.
    """
    import ir_measures

    try:
        measures = {ir_measures.parse_measure(name): name for name in retrieval.measures}
    except (NameError, ValueError, SyntaxError) as error:
        raise HarnessError(f"{retrieval.task} asks for a measure that ir_measures has not: {error}") from None
    values = {name: np.zeros(len(lists), np.float32) for name in retrieval.measures}
    depth = lists.shape[1]
    for start in range(0, len(lists), QUERIES_AT_ONCE):
        part = range(start, min(start + QUERIES_AT_ONCE, len(lists)))
        # Ids that ir_measures may not take for numbers, and scores that leave nothing to its own rule for ties.
        right = {str(row): {str(document): grade for document, grade in retrieval.relevant[row].items()} for row in part}
        run = {
            str(row): {str(document): float(depth - place) for place, document in enumerate(lists[row].tolist()) if document >= 0}
            for row in part
        }
        for each in ir_measures.iter_calc(list(measures), right, run):
            values[measures[each.measure]][int(each.query_id)] = 100 * each.value
    return {shown(name): of for name, of in values.items()}


def expected(retrieval: TextRetrieval, depth: int) -> dict[str, float]:
    """Hit rates and measures that a random order is expected to have, in percent; those that are not known are left out.

    Measures are named as `shown` names them, hit rates `t2i_r1` and so on. depth: how many documents of a query are looked at.
    """
    sizes = [len(retrieval.documents) - len(barred) for barred in retrieval.barred]
    grades = [tuple(sorted(of.values(), reverse=True)) for of in retrieval.relevant]
    pairs = list(zip(sizes, grades, strict=True))
    means = {f"t2i_r{k}": np.mean([by_chance(size, len(of), k) for size, of in pairs]) for k in CUTOFFS}
    for measure in retrieval.measures:
        name, _, cutoff = measure.partition("@")
        if name in EXPECTED:
            first = min(int(cutoff), depth) if cutoff else depth
            means[shown(measure)] = np.mean([EXPECTED[name](size, of, first) for size, of in pairs])
    return {name: float(100 * mean) for name, mean in means.items()}


@cache
def reciprocal(size: int, grades: tuple[int, ...], first: int) -> float:
    """Expected reciprocal rank of the first right one, 0 if it stands behind `first`.

    >>> reciprocal(2, (1,), 10), reciprocal(2, (1,), 1)
    (0.75, 0.5)
    """
    right, none_yet, mean = len(grades), 1.0, 0.0
    for rank in range(1, min(first, size - right + 1) + 1):
        mean += none_yet * right / (size - rank + 1) / rank
        none_yet *= 1 - right / (size - rank + 1)
    return mean


@cache
def gain(size: int, grades: tuple[int, ...], first: int) -> float:
    """Expected nDCG: every place holds the mean grade.

    >>> gain(1, (1,), 10), gain(2, (1,), 1)
    (1.0, 0.5)
    """
    discounts = [1 / log2(rank + 1) for rank in range(1, min(first, size) + 1)]
    ideal = sum(grade * discount for grade, discount in zip(grades, discounts, strict=False))
    return sum(grades) / size * sum(discounts) / ideal


def share(size: int, grades: tuple[int, ...], first: int) -> float:  # noqa: ARG001 (the same for any grades)
    """Expected share of the right ones among the first."""
    return min(first, size) / size


EXPECTED: dict[str, Callable[[int, tuple[int, ...], int], float]] = {"RR": reciprocal, "nDCG": gain, "R": share}
