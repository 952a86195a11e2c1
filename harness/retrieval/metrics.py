"""Measures of ranked lists with graded relevance, computed by ir_measures, and their expected values for a random order."""

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
"""The number of documents in each query's ranked list. Documents at later ranks count as not found."""
IR_MEASURES = {"nDCG": "nDCG", "MRR": "RR", "AP": "AP", "recall": "R", "P": "P", "success": "Success"}
"""The names of measures in ir_measures, by their names in tables.

R@k of ir_measures is the share of the relevant documents that is found. R@k of this project is a hit rate.
"""
_NEED_CUTOFF = ("recall", "P", "success")  # measures that are defined for the first k only
_QUERIES_AT_ONCE = 500


def spell_measure(text: str) -> str:
    """Return the spelling of a measure in tables and records, `NAME` or `NAME@k`.

    Raises HarnessError if the measure is unknown, if k is missing where it is required, or if k is not from 1 to DEPTH.

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
    """Return the measures of each query, (m,) in percent, by their names in tables.

    relevant: (m), the grade of each relevant document. lists: (m, k), the documents of each query, best first, padded with -1.
    """
    import ir_measures

    parsed = {ir_measures.parse_measure(ir_measures_name(name)): name for name in measures}
    values = {name: np.zeros(len(lists), np.float32) for name in measures}
    depth = lists.shape[1]
    for start in range(0, len(lists), _QUERIES_AT_ONCE):
        part = range(start, min(start + _QUERIES_AT_ONCE, len(lists)))
        # Ids are strings, so that ir_measures does not read them as numbers. Scores are distinct, so that it breaks no ties.
        right = {str(row): {str(document): grade for document, grade in relevant[row].items()} for row in part}
        run = {
            str(row): {str(document): float(depth - place) for place, document in enumerate(lists[row].tolist()) if document >= 0}
            for row in part
        }
        for each in ir_measures.iter_calc(list(parsed), right, run):
            values[parsed[each.measure]][int(each.query_id)] = 100 * each.value
    return values


def ir_measures_name(measure: str) -> str:
    """Return the name of a measure in ir_measures.

    >>> ir_measures_name("recall@100"), ir_measures_name("MRR")
    ('R@100', 'RR')
    """
    name, at, cutoff = measure.partition("@")
    return IR_MEASURES[name] + at + cutoff


def chance_values(retrieval: TextRetrieval, depth: int) -> dict[str, float]:
    """Return the expected hit rates and measures of a random order, in percent.

    Hit rates are named `t2i_r1`, `t2i_r5` and `t2i_r10`. depth: the number of documents in each query's ranked list.
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
    """The properties of one query that determine its expected scores.

    size: the number of candidates. grades: the grades of all relevant documents, at least one. there: the grades of the relevant
    documents that are candidates. Both are in descending order.
    """

    size: int
    grades: tuple[int, ...]
    there: tuple[int, ...]

    @classmethod
    def of(cls, size: int, relevant: Mapping[int, int]) -> QueryChances:
        """Return the chances of a query with `size` candidates.

        relevant: the grades of its relevant documents, by number. The number of a document that is not a candidate is negative.
        """
        there = sorted((grade for document, grade in relevant.items() if document >= 0), reverse=True)
        return cls(size, tuple(sorted(relevant.values(), reverse=True)), tuple(there))


@cache
def expected_success(query: QueryChances, first: int) -> float:
    """Return the probability that a relevant document is among the first."""
    return chance_of_hit(query.size, len(query.there), first)


@cache
def expected_reciprocal_rank(query: QueryChances, first: int) -> float:
    """Return the expected reciprocal rank of the first relevant document. Ranks greater than `first` count as 0.

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
    """Return the expected nDCG. The expected grade at each rank is the mean grade of the candidates.

    >>> expected_ndcg(QueryChances(1, (1,), (1,)), 10), expected_ndcg(QueryChances(2, (1,), (1,)), 1)
    (1.0, 0.5)
    """
    discounts = [1 / log2(rank + 1) for rank in range(1, first + 1)]
    ideal = sum(grade * discount for grade, discount in zip(query.grades, discounts, strict=False))
    return sum(query.there) / query.size * sum(discounts[: query.size]) / ideal


@cache
def expected_average_precision(query: QueryChances, first: int) -> float:
    """Return the expected average precision.

    It is a sum over ranks, divided by the number of relevant documents. Each term is the probability of a relevant document at
    the rank times the expected precision up to this rank, given that document.

    >>> expected_average_precision(QueryChances(2, (1,), (1,)), 10)
    0.75
    """
    share = (len(query.there) - 1) / max(query.size - 1, 1)
    places = range(1, min(first, query.size) + 1)
    found = sum((1 + (rank - 1) * share) / rank for rank in places) * len(query.there) / query.size
    return found / len(query.grades)


def expected_recall(query: QueryChances, first: int) -> float:
    """Return the expected share of the relevant documents that is among the first."""
    return len(query.there) / len(query.grades) * min(first, query.size) / query.size


def expected_precision(query: QueryChances, first: int) -> float:
    """Return the expected share of the first ranks that holds a relevant document. Ranks without a document count as wrong."""
    return len(query.there) / query.size * min(first, query.size) / first


EXPECTED: dict[str, Callable[[QueryChances, int], float]] = {
    "nDCG": expected_ndcg,
    "MRR": expected_reciprocal_rank,
    "AP": expected_average_precision,
    "recall": expected_recall,
    "P": expected_precision,
    "success": expected_success,
}
