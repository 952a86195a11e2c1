"""Text-to-text retrieval: the first documents of each query and their measures.

Documents are read in parts, and the best documents so far are retained. Ties count against the encoder, as in
`harness.retrieval.ranking`. An irrelevant document whose score is less than TOLERANCE below that of a relevant document ranks
before it. Of two relevant documents as close as this, the less relevant one ranks first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.core.data import Floats, Ints, Ranks, TextRetrieval
from harness.retrieval.late_interaction import maxsim_scores
from harness.retrieval.metrics import DEPTH, chance_values, measures_per_query
from harness.retrieval.ranking import CUTOFFS, MISSED, TOLERANCE, hit_rate
from harness.storage.packed_states import PackedStates

SCORES_AT_ONCE = 16 << 20
QUERY_BLOCK = 16_384


@dataclass(frozen=True)
class SearchResult:
    """The search results of m queries.

    ranks: (m,), the rank of each query's best relevant document, or MISSED. values: (m,) for each measure, in percent.
    chance: expected hit rates and measures of a random order, in percent.
    """

    ranks: Ints
    values: Mapping[str, npt.NDArray[np.floating[Any]]]
    chance: dict[str, float]

    @property
    def as_ranks(self) -> Ranks:
        """The ranks as `Ranks` with an empty second direction, since documents are not queries."""
        return Ranks(t2i=self.ranks, i2t=np.zeros(0, np.int64))

    def scores(self) -> dict[str, float]:
        """Return the hit rates and the means of the measures, in percent, and the median rank."""
        rates = {f"t2i_r{k}": hit_rate(self.ranks, k) for k in CUTOFFS}
        means = {name: float(values.mean(dtype=np.float64)) for name, values in self.values.items()}
        return rates | means | {"t2i_median_rank": float(np.median(self.ranks))}


def search_documents(
    retrieval: TextRetrieval, queries: PackedStates, documents: Callable[[], Iterable[PackedStates]], device: str = "cpu"
) -> SearchResult:
    """Rank the documents for every query by late interaction. For single embeddings, the score is the cosine.

    queries: states of the retrieval's captions. documents: a function that returns the states of its documents, in order. It is
    called once for each block of queries.
    """
    ranks, values = [], []
    for rows in row_blocks(len(queries), QUERY_BLOCK):
        part = retrieval.take(rows.tolist())
        lists = first_documents(part, queries.take(rows), documents(), device)
        right = grades_of(lists, part) > 0
        ranks.append(np.where(right.any(1), 1 + right.argmax(1), MISSED))
        values.append(measures_per_query(part.measures, part.relevant, lists))
    measured = {name: np.concatenate([of[name] for of in values]) for name in retrieval.measures}
    return SearchResult(np.concatenate(ranks), measured, chance_values(retrieval, DEPTH))


def first_documents(retrieval: TextRetrieval, queries: PackedStates, documents: Iterable[PackedStates], device: str) -> Ints:
    """Return the numbers (m, DEPTH) of each query's first documents, best first, padded with -1."""
    scores = np.full((len(queries), DEPTH), -np.inf, np.float32)
    places = np.full((len(queries), DEPTH), -1, np.int64)
    seen = 0
    for part in documents:
        for rows in row_blocks(len(queries), max(SCORES_AT_ONCE // len(part), 1)):
            table = maxsim_scores(queries.take(rows), part, device)
            apply_tie_rule(table, rows, seen, retrieval)
            merge_best(scores, places, rows, table, seen)
        seen += len(part)
    order = np.lexsort((places, grades_of(places, retrieval), -scores), axis=1)
    ordered: Ints = np.take_along_axis(places, order, axis=1)
    return ordered


def grades_of(lists: Ints, retrieval: TextRetrieval) -> Ints:
    """Return the grade (m, k) of each document of each query's list, 0 for irrelevant documents."""
    grades = np.zeros(lists.shape, np.int64)
    for row, of in enumerate(retrieval.relevant):
        for document, grade in of.items():
            grades[row, lists[row] == document] = grade
    return grades


def row_blocks(count: int, size: int) -> Iterator[Ints]:
    """Yield consecutive index arrays of `size` that cover range(count)."""
    return (np.arange(start, min(start + size, count)) for start in range(0, count, size))


def apply_tie_rule(table: Floats, rows: Ints, first: int, retrieval: TextRetrieval) -> None:
    """Exclude barred documents and let relevant documents lose ties, in place.

    table: (r, c), scores of the queries of `rows` with the documents from number `first` on.
    """
    count = table.shape[1]
    for row, query in enumerate(rows.tolist()):
        for document, grade in retrieval.relevant[query].items():
            if first <= document < first + count:
                table[row, document - first] -= np.float32(TOLERANCE) * grade
        for document in retrieval.barred[query]:
            if first <= document < first + count:
                table[row, document - first] = -np.inf


def merge_best(scores: Floats, places: Ints, rows: Ints, table: Floats, first: int) -> None:
    """Merge the scores (r, c) of the documents from number `first` on into the best scores so far, in place."""
    import torch

    numbers = np.broadcast_to(np.arange(first, first + table.shape[1]), table.shape)
    both = np.concatenate([scores[rows], table], axis=1)
    best, order = torch.from_numpy(both).topk(DEPTH, dim=1)
    named = np.take_along_axis(np.concatenate([places[rows], numbers], axis=1), order.numpy(), axis=1)
    scores[rows] = best.numpy()
    # A barred document is never listed, even if fewer than DEPTH documents remain.
    places[rows] = np.where(np.isneginf(best.numpy()), -1, named)
