"""What a student is trained to make small, given its own states and the teacher's for a batch of sentence pairs.

An objective maps `(student, teacher, config)` to a scalar. Both sides are `Encoded`: states (B, n, d) and (B, m, d) with
their masks, and sentence embeddings w and z (B, d), unnormalised.
"""

from __future__ import annotations

from torch import Tensor

from harness.config import DistillConfig
from harness.distill.tower import Encoded
from harness.distill.transport import cosine_cost, sinkhorn


def kd_mse(student: Encoded, teacher: Encoded, _: DistillConfig) -> Tensor:
    """Mean over the batch of ||w - z||^2: Multilingual-CLIP (Carlsson et al. 2022), Reimers and Gurevych (arXiv 2004.09813)."""
    return (student.pooled - teacher.pooled).square().sum(1).mean()


def ot_token(student: Encoded, teacher: Encoded, config: DistillConfig) -> Tensor:
    """<P, C> + lambda * kd-mse / ||z||^2, after OPTICAL (arXiv 2301.12566).

    C_ij = 1 - cos(G_i, H_j) between student tokens G and teacher tokens H; P is the entropic plan (`config.eps`) between
    uniform marginals over real tokens. P is held, so the gradient is that of the regularised value min <P, C> - eps H(P)
    (the envelope rule), not that of <P(C), C>. lambda is `config.sentence_weight`; the sentence term is divided by the
    batch's mean ||z||^2, so that both terms start near 1 whatever the teacher's scale.
    """
    cost = cosine_cost(student.states, teacher.states)
    plan = sinkhorn(cost.detach(), student.mask, teacher.mask, config.eps).plan
    transport = (plan * cost).sum((1, 2)).mean()
    if config.sentence_weight == 0:
        return transport
    scale = teacher.pooled.square().sum(1).mean()
    return transport + config.sentence_weight * kd_mse(student, teacher, config) / scale
