"""Scorers rank the candidates of queries, one file each. Every run measures the plain scorer, and one more if it requests it.

A new scorer needs a class with the members of `Scorer` and a function that makes it for a run: docs/plugins.md has an example.
"""

from harness.retrieval.scorers.interface import (
    BANKED,
    PLAIN,
    TRANSDUCTIVE,
    Embedder,
    RetrievalResult,
    ScoredRun,
    Scorer,
    ScorerFactory,
    SearchStates,
    is_transductive,
    scorer_arguments,
    scorer_spec,
)
from harness.retrieval.scorers.maxsim import MaxSimScorer
from harness.retrieval.scorers.phrase_regions import make_region_scorer
from harness.retrieval.scorers.plain import CosineScorer

__all__ = [
    "BANKED",
    "PLAIN",
    "TRANSDUCTIVE",
    "CosineScorer",
    "Embedder",
    "MaxSimScorer",
    "RetrievalResult",
    "ScoredRun",
    "Scorer",
    "ScorerFactory",
    "SearchStates",
    "is_transductive",
    "make_region_scorer",
    "scorer_arguments",
    "scorer_spec",
]
