"""CSLS, cross-domain similarity local scaling (Conneau et al. 2018, arXiv 1710.04087).

CSLS(i, j) = 2 S_ij - r(i) - r(j), with r the mean cosine to the k nearest of the other side. r(i) is the same for all candidates
of query i, so that the order of candidates is that of S_ij - r(j) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.retrieval.cosines import cosine_stripes
from harness.retrieval.ranking import CandidateBias
from harness.retrieval.scorers.biased import DirectionalRule, biased_scorers
from harness.retrieval.scorers.interface import ScoredRun, ScorerFactory

if TYPE_CHECKING:
    from torch import Tensor


def neighbourhood_means(candidates: Tensor, queries: Tensor, k: int) -> Tensor:
    """Return r(j) of each candidate, (c,), in float64: its mean cosine with the k nearest queries.

    candidates: (c, d) and queries: (q, d), unit vectors. All queries are taken if there are fewer than k.
    """
    import torch

    nearest = min(k, len(queries))
    return torch.cat([cosines.topk(nearest, dim=1).values.mean(1) for _, cosines in cosine_stripes(candidates, queries)])


@dataclass(frozen=True)
class Csls(DirectionalRule):
    """The rule S_ij - r(j) / 2 for query i and candidate j."""

    neighbours: int
    name: ClassVar[str] = "csls"

    @property
    def options(self) -> str:
        """The number of neighbours."""
        return f"k {self.neighbours}"

    def bias(self, candidates: Tensor, _: Tensor, bank: Tensor) -> CandidateBias:
        """Return -r(j) / 2."""
        return CandidateBias((neighbourhood_means(candidates, bank, self.neighbours) / -2).cpu().numpy())


def make_csls_scorer(argument: str, run: ScoredRun) -> ScorerFactory:
    """`csls:FORM`: the cosine minus half the candidate's mean cosine with its nearest queries; FORM is banked or transductive.

    Raises HarnessError as `biased_scorers`.
    """
    return biased_scorers(Csls(run.config.scoring.score_neighbours), argument, run)
