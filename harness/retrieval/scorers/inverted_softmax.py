"""Inverted softmax: a candidate's score is normalised over queries (Smith et al. 2017, arXiv 1702.03859)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.retrieval.cosines import cosine_stripes
from harness.retrieval.ranking import CandidateBias
from harness.retrieval.scorers.biased import DirectionalRule, biased_scorers
from harness.retrieval.scorers.interface import ScoredRun, ScorerFactory

if TYPE_CHECKING:
    from torch import Tensor


def inverted_softmax_bias(candidates: Tensor, queries: Tensor, tau: float) -> Tensor:
    """Return -tau log sum_q exp(S_qj / tau) of each candidate j, (c,), in float64.

    candidates: (c, d) and queries: (q, d), unit vectors. S: their cosines.
    """
    import torch

    return torch.cat([-tau * (cosines / tau).logsumexp(1) for _, cosines in cosine_stripes(candidates, queries)])


@dataclass(frozen=True)
class InvertedSoftmax(DirectionalRule):
    """The rule S_ij - tau log sum_q exp(S_qj / tau) for query i, candidate j and the queries q of the bank."""

    tau: float
    name: ClassVar[str] = "inverted-softmax"

    @property
    def options(self) -> str:
        """The temperature."""
        return f"tau {self.tau}"

    def bias(self, candidates: Tensor, _: Tensor, bank: Tensor) -> CandidateBias:
        """Return `inverted_softmax_bias`."""
        return CandidateBias(inverted_softmax_bias(candidates, bank, self.tau).cpu().numpy())


def make_inverted_softmax_scorer(argument: str, run: ScoredRun) -> ScorerFactory:
    """`inverted-softmax:FORM`: the cosine, normalised over queries for each candidate; FORM is banked or transductive.

    Raises HarnessError as `biased_scorers`.
    """
    return biased_scorers(InvertedSoftmax(run.config.scoring.score_temperature), argument, run)
