"""Querybank normalisation with the dynamic inverted softmax (Bogolin et al. 2022, CVPR, arXiv 2112.12777).

The activation set holds the candidates that are first for some query of the bank. A query whose first candidate is in the set is
scored by the inverted softmax, any other by the cosine. In the transductive form every query is in the bank, so that the scorer
equals the inverted softmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.retrieval.cosines import cosine_stripes
from harness.retrieval.ranking import TOLERANCE, CandidateBias
from harness.retrieval.scorers.biased import DirectionalRule, biased_scorers
from harness.retrieval.scorers.interface import ScoredRun, ScorerFactory
from harness.retrieval.scorers.inverted_softmax import inverted_softmax_bias

if TYPE_CHECKING:
    from torch import Tensor


def activation_set(candidates: Tensor, queries: Tensor) -> Tensor:
    """Return whether each candidate is first for a query, (c,). All candidates that tie for the first place are.

    candidates: (c, d) and queries: (q, d), unit vectors.
    """
    import torch

    activated = torch.zeros(len(candidates), dtype=torch.bool, device=candidates.device)
    for _, cosines in cosine_stripes(queries, candidates):
        activated |= is_first(cosines).any(0)
    return activated


def queries_with_first_in(activated: Tensor, candidates: Tensor, queries: Tensor) -> Tensor:
    """Return whether a first candidate of each query is in the activation set, (q,)."""
    import torch

    return torch.cat([(is_first(cosines) & activated).any(1) for _, cosines in cosine_stripes(queries, candidates)])


def is_first(cosines: Tensor) -> Tensor:
    """Return which candidates have the largest cosine of a row, up to the tolerance of ties."""
    return cosines >= cosines.amax(1, keepdim=True) - TOLERANCE


@dataclass(frozen=True)
class QueryBankNorm(DirectionalRule):
    """The rule of the inverted softmax, for queries whose first candidate is in the activation set of the bank."""

    tau: float
    name: ClassVar[str] = "qb-norm"

    @property
    def options(self) -> str:
        """The temperature."""
        return f"tau {self.tau}"

    def bias(self, candidates: Tensor, queries: Tensor, bank: Tensor) -> CandidateBias:
        """Return `inverted_softmax_bias`, with the queries that receive it."""
        values = inverted_softmax_bias(candidates, bank, self.tau)
        receive = queries_with_first_in(activation_set(candidates, bank), candidates, queries)
        return CandidateBias(values.cpu().numpy(), receive.cpu().numpy())


def make_qb_norm_scorer(argument: str, run: ScoredRun) -> ScorerFactory:
    """`qb-norm:FORM`: the inverted softmax for queries whose first candidate is a hub; FORM is banked or transductive.

    Raises HarnessError as `biased_scorers`.
    """
    return biased_scorers(QueryBankNorm(run.config.scoring.score_temperature), argument, run)
