"""Measures of ranked lists with graded relevance, computed by ir_measures, and what a random order is expected to have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import log2

import numpy as np

from harness.core.data import Floats, Ints, TextRetrieval
from harness.core.errors import HarnessError
from harness.core.suggestions import nearest
from harness.retrieval.ranking import CUTOFFS, chance_of_hit

DEPTH = 1000
"""How many documents of each query are kept: what stands further back counts as not found."""
IR_MEASURES = {"nDCG": "nDCG", "MRR": "RR", "AP": "AP", "recall": "R", "P": "P", "success": "Success"}
"""What tables call a measure, and ir_measures: its R@k is the share of relevant documents found, and R@k here a hit rate."""
_NEED_CUTOFF = ("recall", "P", "success")  # are always of the first k
_QUERIES_AT_ONCE = 500


def spell_measure(text: str) -> str:
    """The spelling under which tables and records keep a measure, `NAME` or `NAME@k`.

    Raises HarnessError for an unknown one, and for a k that cannot be served.

    >>> spell_measure("ndcg@10"), spell_measure("MRR")
    ('nDCG@10', 'MRR')
    """
    word, at, cutoff = text.strip().partition("@")
    name = {known.lower(): known for known in IR_MEASURES}.get(word.lower())
    if name is None:
        raise HarnessError(f"unknown measure {text!r}: {nearest(word, IR_MEASURES)} (R@1, R@5 and R@10 are always measured)")
    if (at or name in _NEED_CUTOFF) and not (re.fullmatch("[1-9][0-9]{0,3}", cutoff) and int(cutoff) <= DEPTH):
        raise HarnessError(f"the measure {text!r} is not served: give {name}@k, with a k from 1 to {DEPTH:,}")
    return name + at + cutoff


def measures_per_query(measures: Sequence[str], relevant: Sequence[Mapping[int, int]], lists: Ints) -> dict[str, Floats]:
    """Measures of each query, (m,) in percent, by the name that tables give them.

    relevant: (m), the grade of each relevant document. lists: (m, k), each query's documents, best first; -1 where there are no
    more.
    """
    import ir_measures

    parsed = {ir_measures.parse_measure(ir_measures_name(name)): name for name in measures}
    values = {name: np.zeros(len(lists), np.float32) for name in measures}
    depth = lists.shape[1]
    for start in range(0, len(lists), _QUERIES_AT_ONCE):
        part = range(start, min(start + _QUERIES_AT_ONCE, len(lists)))
        # Ids that ir_measures may not take for numbers, and scores that leave nothing to its own rule for ties.
        right = {str(row): {str(document): grade for document, grade in relevant[row].items()} for row in part}
        run = {
            str(row): {str(document): float(depth - place) for place, document in enumerate(lists[row].tolist()) if document >= 0}
            for row in part
        }
        for each in ir_measures.iter_calc(list(parsed), right, run):
            values[parsed[each.measure]][int(each.query_id)] = 100 * each.value
    return values


def ir_measures_name(measure: str) -> str:
    """What ir_measures calls a measure.

    >>> ir_measures_name("recall@100"), ir_measures_name("MRR")
    ('R@100', 'RR')
    """
    name, at, cutoff = measure.partition("@")
    return IR_MEASURES[name] + at + cutoff


def chance_values(retrieval: TextRetrieval, depth: int) -> dict[str, float]:
    """Hit rates and measures that a random order is expected to have, in percent.

    Hit rates are named `t2i_r1` and so on. depth: how many documents of a query are looked at.
    """
    asked = [
        QueryChances.of(len(retrieval.documents) - len(barred), of)
        for barred, of in zip(retrieval.barred, retrieval.relevant, strict=True)
    ]
    means = {f"t2i_r{k}": np.mean([expected_success(each, k) for each in asked]) for k in CUTOFFS}
    for measure in retrieval.measures:
        name, _, cutoff = measure.partition("@")
        first = int(cutoff) if cutoff else depth
        means[measure] = np.mean([EXPECTED[name](each, first) if each.there else 0.0 for each in asked])
    return {name: float(100 * mean) for name, mean in means.items()}


@dataclass(frozen=True)
class QueryChances:
    """What a query may find, one or more. size: its candidates. grades: of all relevant documents; there: of candidates alone."""

    size: int
    grades: tuple[int, ...]
    there: tuple[int, ...]

    @classmethod
    def of(cls, size: int, relevant: Mapping[int, int]) -> QueryChances:
        """Of relevant documents by number, below 0 where they are no candidates."""
        there = sorted((grade for document, grade in relevant.items() if document >= 0), reverse=True)
        return cls(size, tuple(sorted(relevant.values(), reverse=True)), tuple(there))


@cache
def expected_success(query: QueryChances, first: int) -> float:
    """Probability of a right one among the first."""
    return chance_of_hit(query.size, len(query.there), first)


@cache
def expected_reciprocal_rank(query: QueryChances, first: int) -> float:
    """Expected reciprocal rank of the first right one, 0 if it stands behind `first`.

    >>> expected_reciprocal_rank(QueryChances(2, (1,), (1,)), 10), expected_reciprocal_rank(QueryChances(2, (1,), (1,)), 1)
    (0.75, 0.5)
    """
    right, none_yet, mean = len(query.there), 1.0, 0.0
    for rank in range(1, min(first, query.size - right + 1) + 1):
        mean += none_yet * right / (query.size - rank + 1) / rank
        none_yet *= 1 - right / (query.size - rank + 1)
    return mean


@cache
def expected_ndcg(query: QueryChances, first: int) -> float:
    """Expected nDCG: every place holds the mean grade.

    >>> expected_ndcg(QueryChances(1, (1,), (1,)), 10), expected_ndcg(QueryChances(2, (1,), (1,)), 1)
    (1.0, 0.5)
    """
    discounts = [1 / log2(rank + 1) for rank in range(1, first + 1)]
    ideal = sum(grade * discount for grade, discount in zip(query.grades, discounts, strict=False))
    return sum(query.there) / query.size * sum(discounts[: query.size]) / ideal


@cache
def expected_average_precision(query: QueryChances, first: int) -> float:
    """Expected AP: at each place, if it holds a right one, how many of those before it and itself are right.

    >>> expected_average_precision(QueryChances(2, (1,), (1,)), 10)
    0.75
    """
    share = (len(query.there) - 1) / max(query.size - 1, 1)
    places = range(1, min(first, query.size) + 1)
    found = sum((1 + (rank - 1) * share) / rank for rank in places) * len(query.there) / query.size
    return found / len(query.grades)


def expected_recall(query: QueryChances, first: int) -> float:
    """Expected share of the right ones that is among the first."""
    return len(query.there) / len(query.grades) * min(first, query.size) / query.size


def expected_precision(query: QueryChances, first: int) -> float:
    """Expected share of the first that is right; places that no document fills are wrong."""
    return len(query.there) / query.size * min(first, query.size) / first


EXPECTED: dict[str, Callable[[QueryChances, int], float]] = {
    "nDCG": expected_ndcg,
    "MRR": expected_reciprocal_rank,
    "AP": expected_average_precision,
    "recall": expected_recall,
    "P": expected_precision,
    "success": expected_success,
}
