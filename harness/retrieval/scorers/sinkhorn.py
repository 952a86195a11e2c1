"""Sinkhorn normalisation: scores are balanced by the potentials of an entropic transport plan between texts and images.

P = diag(u) exp((S - 1) / tau) diag(v) has uniform marginals, with S the cosines of texts (rows) and images (columns). A caption
ranks images by S_ij + tau log v_j, and an image ranks captions by S_ij + tau log u_i (Pan et al. 2025, arXiv 2508.02538, whose
plan has 10 iterations). An image that is near many texts has a small v_j.

The matrix is never stored. An iteration reads the cosines once, some rows at a time: with log v, the row-normalised plan is
softmax_j(S_ij / tau + log v_j), and the sums of its columns correct log v. No exponential overflows, at any tau.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.retrieval.cosines import cosine_stripes
from harness.retrieval.ranking import Biases, CandidateBias
from harness.retrieval.scorers.biased import Sides, biased_scorers
from harness.retrieval.scorers.interface import ScoredRun, ScorerFactory
from harness.retrieval.scorers.inverted_softmax import inverted_softmax_bias

if TYPE_CHECKING:
    from torch import Tensor


def image_potentials(texts: Tensor, images: Tensor, tau: float, iterations: int) -> Tensor:
    """Return log v of each image, (n,), in float64, up to a constant, after a number of Sinkhorn iterations.

    texts: (m, d) and images: (n, d), unit vectors. An iteration fits v to the images' marginal, then u to the texts' marginal.
    The first v, fitted to a constant u, is that of the inverted softmax.
    """
    import torch

    log_v = inverted_softmax_bias(images, texts, tau) / tau
    for _ in range(iterations - 1):
        sums = torch.zeros_like(log_v)
        for _, cosines in cosine_stripes(texts, images):
            sums += cosines.div_(tau).add_(log_v).softmax(1).sum(0)
        log_v -= sums.log() + math.log(len(images) / len(texts))
    return log_v


def text_potentials(texts: Tensor, images: Tensor, log_v: Tensor, tau: float) -> Tensor:
    """Return log u of each text, (m,), in float64, up to a constant, fitted to log v."""
    import torch

    return torch.cat([-cosines.div_(tau).add_(log_v).logsumexp(1) for _, cosines in cosine_stripes(texts, images)])


@dataclass(frozen=True)
class Sinkhorn:
    """The rule S_ij + tau log v_j for captions and S_ij + tau log u_i for images.

    The transductive form has one plan between test texts and test images. The banked form has one between the bank's texts and
    the test images, for v, and one between the test texts and the bank's images, for u.
    """

    tau: float
    iterations: int
    name: ClassVar[str] = "sinkhorn"

    @property
    def options(self) -> str:
        """The temperature and the iterations."""
        return f"tau {self.tau}, {self.iterations} iterations"

    def biases(self, test: Sides, bank: Sides) -> Biases:
        """Return the biases of test images and test texts."""
        log_v = image_potentials(bank.texts, test.images, self.tau, self.iterations)
        banks_v = log_v if bank is test else image_potentials(test.texts, bank.images, self.tau, self.iterations)
        log_u = text_potentials(test.texts, bank.images, banks_v, self.tau)
        return Biases(*(CandidateBias((self.tau * potentials).cpu().numpy()) for potentials in (log_v, log_u)))


def make_sinkhorn_scorer(argument: str, run: ScoredRun) -> ScorerFactory:
    """`sinkhorn:FORM`: the cosine, balanced between queries and candidates by transport; FORM is banked or transductive.

    Raises HarnessError as `biased_scorers`.
    """
    scoring = run.config.scoring
    return biased_scorers(Sinkhorn(scoring.score_temperature, scoring.score_iterations), argument, run)
