"""Queries among texts: the first documents against a full sort, measures against their formulas, and what chance gives."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from math import log2
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.data import Listed, TextRetrieval, Unseen
from harness.core.errors import HarnessError
from harness.retrieval import dense_search as searching
from harness.retrieval.dense_search import SearchResult, search_documents
from harness.retrieval.late_interaction import maxsim_scores
from harness.retrieval.metrics import EXPECTED, IR_MEASURES, QueryChances, chance_values, ir_measures_name, spell_measure
from harness.retrieval.ranking import MISSED, TOLERANCE
from harness.storage.packed_states import PackedStates

MEASURED = ("MRR", "nDCG@10", "MRR@10", "recall@100", "AP", "P@5", "success@3")


def problem(
    queries: int, documents: int, relevant: list[dict[int, int]], barred: list[tuple[int, ...]] | None = None
) -> TextRetrieval:
    names = tuple(f"q{number}" for number in range(queries))
    return TextRetrieval(
        task="made-up",
        lang="de",
        split="test",
        source="made-up",
        kind="unstated",
        images=Unseen(names),
        captions=names,
        caption_ids=names,
        caption_images=np.arange(queries),
        documents=Listed(
            tuple(f"d{number}" for number in range(documents)), tuple(f"text {number}" for number in range(documents))
        ),
        relevant=tuple(relevant),
        barred=tuple(barred or [()] * queries),
        measures=MEASURED,
    )


def drawn(seed: int, documents: int = 60, queries: int = 9) -> tuple[TextRetrieval, PackedStates, PackedStates]:
    """Random relevance, bars and states; small whole numbers, so that scores tie."""
    draw = np.random.default_rng(seed)

    def bags(count: int) -> PackedStates:
        lengths = draw.integers(1, 4, count)
        return PackedStates(draw.integers(-1, 2, (int(lengths.sum()), 3)).astype(np.float32), lengths)

    relevant, barred = [], []
    for _ in range(queries):
        chosen = draw.permutation(documents)[: draw.integers(2, 6)].tolist()
        barred.append(tuple(chosen[:1]))
        relevant.append({document: int(draw.integers(1, 4)) for document in chosen[1:]})
    return problem(queries, documents, relevant, barred), bags(queries), bags(documents)


def in_parts(documents: PackedStates, size: int) -> Any:
    def parts() -> Iterator[PackedStates]:
        for start in range(0, len(documents), size):
            yield documents.take(np.arange(start, min(start + size, len(documents))))

    return parts


def sorted_out(retrieval: TextRetrieval, scores: Any) -> list[list[int]]:
    """Every candidate of each query, best first: one that is less than the tolerance below a better one stands before it."""
    lists = []
    for query, row in enumerate(scores.astype(np.float64)):
        grades = [retrieval.relevant[query].get(document, 0) for document in range(len(row))]
        candidates = [document for document in range(len(row)) if document not in retrieval.barred[query]]
        lists.append(sorted(candidates, key=lambda d: (-(row[d] - TOLERANCE * grades[d]), grades[d], d)))
    return lists


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 7, 60]), depth=st.sampled_from([3, 20, 1000]))
@settings(max_examples=40, deadline=None)
def test_the_documents_kept_are_the_first_of_a_full_sort(seed: int, size: int, depth: int) -> None:
    retrieval, queries, documents = drawn(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "DEPTH", depth)
        patch.setattr(searching, "SCORES_AT_ONCE", 100)
        patch.setattr(searching, "QUERY_BLOCK", 4)
        found = search_documents(retrieval, queries, in_parts(documents, size))
    lists = sorted_out(retrieval, maxsim_scores(queries, documents))
    ranks = [next(rank for rank, d in enumerate(each, 1) if d in of) for each, of in zip(lists, retrieval.relevant, strict=True)]
    assert found.ranks.tolist() == [rank if rank <= depth else MISSED for rank in ranks]
    if depth == 1000:
        for query, of in enumerate(retrieval.relevant):
            assert found.values["MRR"][query] == pytest.approx(100 / ranks[query])
            assert found.values["MRR@10"][query] == pytest.approx(100 / ranks[query] if ranks[query] <= 10 else 0)
            gains = [of.get(document, 0) / log2(rank + 1) for rank, document in enumerate(lists[query][:10], 1)]
            ideal = [grade / log2(rank + 1) for rank, grade in enumerate(sorted(of.values(), reverse=True)[:10], 1)]
            assert found.values["nDCG@10"][query] == pytest.approx(100 * sum(gains) / sum(ideal), rel=1e-5)
            assert found.values["recall@100"][query] == 100


def test_ties_count_against_the_encoder() -> None:
    """All documents say the same: every other one stands before the relevant ones, and the less relevant before the more."""
    retrieval = problem(1, 20, [{4: 1, 7: 3}])
    same = PackedStates.single(np.ones((20, 4), np.float32))
    found = search_documents(retrieval, PackedStates.single(np.ones((1, 4), np.float32)), in_parts(same, 6))
    assert found.ranks.tolist() == [19]
    assert found.values["nDCG@10"].tolist() == [0]


def test_a_query_never_finds_what_it_is_barred_from() -> None:
    eye = np.eye(3, dtype=np.float32)
    retrieval = problem(3, 3, [{1: 1}, {2: 1}, {0: 1}], [(0,), (1,), (2,)])
    found = search_documents(retrieval, PackedStates.single(eye), in_parts(PackedStates.single(eye), 3))
    # The other two are alike to it, and the wrong one wins the tie.
    assert found.ranks.tolist() == [2, 2, 2]
    open_to_all = problem(3, 3, [{1: 1}, {2: 1}, {0: 1}])
    assert search_documents(open_to_all, PackedStates.single(eye), in_parts(PackedStates.single(eye), 3)).ranks.tolist() == [
        3,
        3,
        3,
    ]


def test_a_relevant_text_that_is_in_no_corpus_counts_in_what_could_be_found() -> None:
    eye = np.eye(3, dtype=np.float32)
    retrieval = problem(1, 3, [{0: 1, -2: 1}])
    found = search_documents(retrieval, PackedStates.single(eye[:1]), in_parts(PackedStates.single(eye), 3))
    assert found.ranks.tolist() == [1]
    assert found.values["recall@100"].tolist() == [50]
    assert found.values["nDCG@10"][0] == pytest.approx(100 / (1 + 1 / log2(3)), rel=1e-5)


def test_hit_rates_are_those_of_ir_measures() -> None:
    retrieval, queries, documents = drawn(3)
    found = search_documents(retrieval, queries, in_parts(documents, 60))
    lists = sorted_out(retrieval, maxsim_scores(queries, documents))
    right = {f"q{q}": {f"d{d}": grade for d, grade in of.items()} for q, of in enumerate(retrieval.relevant)}
    run = {f"q{q}": {f"d{d}": -float(rank) for rank, d in enumerate(each)} for q, each in enumerate(lists)}
    for k in (1, 5, 10):
        theirs = ir_measures.calc_aggregate([ir_measures.Success @ k], right, run)[ir_measures.Success @ k]
        assert found.scores()[f"t2i_r{k}"] == pytest.approx(100 * theirs)


@pytest.mark.parametrize(
    ("text", "spelling"),
    [("ndcg@10", "nDCG@10"), (" MRR ", "MRR"), ("RECALL@100", "recall@100"), ("p@5", "P@5"), ("AP@1000", "AP@1000")],
)
def test_measures_are_spelled_as_tables_do(text: str, spelling: str) -> None:
    assert spell_measure(text) == spelling


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nDGC@10", r"unknown measure 'nDGC@10': did you mean nDCG\?"),
        ("R@10", r"unknown measure 'R@10': .* \(R@1, R@5 and R@10 are always measured\)"),
        ("", "unknown measure ''"),
        ("recall", r"the measure 'recall' is not served: give recall@k, with a k from 1 to 1,000"),
        ("nDCG@", "give nDCG@k"),
        ("nDCG@0", "give nDCG@k"),
        ("nDCG@1001", "give nDCG@k"),
        ("nDCG@ten", "give nDCG@k"),
    ],
)
def test_an_unknown_measure_is_named(text: str, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        spell_measure(text)


def test_every_measure_is_one_of_ir_measures_and_has_its_chance() -> None:
    assert EXPECTED.keys() == IR_MEASURES.keys()
    assert [str(ir_measures.parse_measure(ir_measures_name(f"{name}@7"))) for name in IR_MEASURES] == [
        "nDCG@7",
        "RR@7",
        "AP@7",
        "R@7",
        "P@7",
        "Success@7",
    ]


@pytest.mark.parametrize("measure", IR_MEASURES)
@pytest.mark.parametrize("first", [1, 2, 3, 10])
@pytest.mark.parametrize("grades", [(1,), (1, 1), (3, 1), (2, 1, 1)])
@pytest.mark.parametrize("elsewhere", [(), (2, 1)])
def test_chance_is_the_mean_over_all_orders(
    measure: str, first: int, grades: tuple[int, ...], elsewhere: tuple[int, ...]
) -> None:
    """elsewhere: grades of relevant documents that the collection lacks."""
    size, name = 5, ir_measures.parse_measure(ir_measures_name(f"{measure}@{first}"))
    relevant = {str(number): grade for number, grade in enumerate(grades)} | {f"-{grade}": grade for grade in elsewhere}
    orders = list(permutations(range(size)))
    right = {str(number): relevant for number in range(len(orders))}
    run = {
        str(number): {str(document): -float(rank) for rank, document in enumerate(order)} for number, order in enumerate(orders)
    }
    mean = ir_measures.calc_aggregate([name], right, run)[name]
    query = QueryChances.of(size, {int(document): grade for document, grade in relevant.items()})
    assert EXPECTED[measure](query, first) == pytest.approx(mean)


def test_chance_knows_what_each_query_is_ranked_against() -> None:
    of = chance_values(problem(2, 4, [{0: 1}, {1: 1}], [(2,), ()]), 1000)
    assert of["t2i_r1"] == pytest.approx(100 * (1 / 3 + 1 / 4) / 2)
    assert list(of) == ["t2i_r1", "t2i_r5", "t2i_r10", *MEASURED]


def test_where_nothing_can_be_found_chance_is_nothing() -> None:
    of = chance_values(problem(1, 1, [{-2: 1}], [(0,)]), 1000)
    assert set(of.values()) == {0.0}


def test_what_is_not_found_at_all_is_missed() -> None:
    searched = SearchResult(np.array([1, MISSED, 3]), {"MRR": np.array([100, 0, 33.3], np.float32)}, {})
    assert searched.scores()["t2i_r10"] == pytest.approx(200 / 3)
    assert searched.scores()["t2i_median_rank"] == 3
    assert len(searched.as_ranks.i2t) == 0
