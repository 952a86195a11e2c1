"""The losses of distillation, computed from the student's and the teacher's states for a batch of sentence pairs.

An objective maps `(student, teacher, config)` to a scalar. Both sides are `Encoded`: states G (B, n, d) and H (B, m, d) with
their masks, and unnormalised sentence embeddings, the rows w_i and z_i of W and Z (B, d). cos(W, Z) is the (B, B) matrix of
cosines of all pairs. tau is `config.temperature`. `harness.core.builtins` declares the options that each objective reads.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional

from harness.core.config import DistillConfig
from harness.distill.model.tower import Encoded
from harness.distill.transport.batches import batch_target
from harness.distill.transport.problem import Method, NotConverged, Solver
from harness.distill.transport.tokens import token_transport
from harness.runtime.matmul import project


def kd_mse(student: Encoded, teacher: Encoded, _: DistillConfig) -> Tensor:
    """Mean over the batch of ||w_i - z_i||^2: Multilingual-CLIP (Carlsson et al. 2022), Reimers and Gurevych (arXiv 2004.09813).

    >>> mask, w, z = torch.ones(2, 1, dtype=torch.bool), torch.eye(2), torch.eye(2).flip(0)
    >>> student, teacher = Encoded(w[:, None], mask, w), Encoded(z[:, None], mask, z)
    >>> kd_mse(student, teacher, DistillConfig())
    tensor(2.)
    """
    return (student.pooled - teacher.pooled).square().sum(1).mean()


def kd_cosine(student: Encoded, teacher: Encoded, _: DistillConfig) -> Tensor:
    """Mean over the batch of 1 - cos(w_i, z_i), which Multilingual-CLIP (Carlsson et al. 2022) found no worse than `kd-mse`.

    >>> mask, w, z = torch.ones(2, 1, dtype=torch.bool), torch.eye(2), torch.eye(2).flip(0)
    >>> student, teacher = Encoded(w[:, None], mask, w), Encoded(z[:, None], mask, z)
    >>> kd_cosine(student, teacher, DistillConfig())
    tensor(1.)
    """
    return (1 - functional.cosine_similarity(student.pooled.float(), teacher.pooled.float())).mean()


def kd_contrastive(student: Encoded, teacher: Encoded, config: DistillConfig) -> Tensor:
    """InfoNCE: mean over i of -log softmax(cos(w_i, Z) / tau)_i, with all teacher embeddings of the batch as candidates.

    After the text-text term of mCLIP (Chen et al., ACL 2023). Sentences with the same meaning repel each other like all others.

    >>> mask, w, z = torch.ones(2, 1, dtype=torch.bool), torch.eye(2), torch.eye(2).flip(0)
    >>> student, teacher = Encoded(w[:, None], mask, w), Encoded(z[:, None], mask, z)
    >>> kd_contrastive(student, teacher, DistillConfig(temperature=1.0))
    tensor(1.3133)
    """
    return info_nce(cosine_similarities(student.pooled, teacher.pooled) / config.temperature)


def kd_relation(student: Encoded, teacher: Encoded, config: DistillConfig) -> Tensor:
    """KL from softmax(cos(Z, Z) / tau) to softmax(cos(W, Z) / tau), mean over all rows and all columns.

    After C2KD (arXiv 2210.03625), between texts only. The student's similarities to the teacher's sentences are trained to be
    the teacher's own. `config.diagonal`: see `symmetric_kl`.

    >>> mask, w, z = torch.ones(2, 1, dtype=torch.bool), torch.eye(2), torch.eye(2).flip(0)
    >>> student, teacher = Encoded(w[:, None], mask, w), Encoded(z[:, None], mask, z)
    >>> kd_relation(student, teacher, DistillConfig(temperature=1.0))
    tensor(0.4621)
    """
    scores = cosine_similarities(student.pooled, teacher.pooled) / config.temperature
    # The teacher's own similarities are symmetric: their rows are the targets of the columns too.
    targets = torch.softmax(teacher_similarities(teacher, config) / config.temperature, 1)
    return symmetric_kl(targets, scores, config)


def ot_batch(student: Encoded, teacher: Encoded, config: DistillConfig) -> Tensor:
    """alpha * InfoNCE + (1 - alpha) * KL from P to softmax(cos(W, Z) / tau), each the mean over all rows and all columns.

    After OTTER (arXiv 2112.09445), whose sums over both sides are twice these means. P (B, B) is the entropic plan over the
    teacher's similarities cos(Z, Z) between uniform marginals, with each row divided by its sum (`batch_target` with
    `config.batch_eps` and `config.batch_iterations`). alpha is `config.alpha`. `config.diagonal`: see `symmetric_kl`. With
    batch_eps = tau the targets are as sharp as those of `kd-relation`, which has no InfoNCE and no uniform column marginal.

    >>> mask, w, z = torch.ones(2, 1, dtype=torch.bool), torch.eye(2), torch.eye(2).flip(0)
    >>> student, teacher = Encoded(w[:, None], mask, w), Encoded(z[:, None], mask, z)
    >>> ot_batch(student, teacher, DistillConfig(temperature=1.0, alpha=0.0, batch_eps=1.0))
    tensor(0.4621)
    """
    scores = cosine_similarities(student.pooled, teacher.pooled) / config.temperature
    # The matrix is symmetric, so the targets of the other side (half steps swapped on its transpose) are the same.
    targets = batch_target(teacher_similarities(teacher, config), config.batch_eps, config.batch_iterations)
    contrast = (info_nce(scores) + info_nce(scores.T)) / 2
    return config.alpha * contrast + (1 - config.alpha) * symmetric_kl(targets, scores, config)


def ot_token(student: Encoded, teacher: Encoded, config: DistillConfig) -> Tensor:
    """Mean over the batch of <P, C>, + lambda * `kd-mse` / mean ||z_i||^2, after OPTICAL (arXiv 2301.12566).

    C_ij = 1 - cos(G_i, H_j) between the n student and m teacher tokens of a pair; P (n, m) is the plan of `config.solver`
    (entropic with `config.eps`, IPOT or exact) between uniform marginals over real tokens. P is constant, so the gradient is that
    of the regularised value min <P, C> + eps KL(P | a b') (envelope theorem), not that of <P(C), C>. lambda is
    `config.sentence_weight`. Its term is relative to the teacher's norm, so that initially both terms are near 1.

    >>> mask, w, z = torch.ones(2, 1, dtype=torch.bool), torch.eye(2), torch.eye(2).flip(0)
    >>> student, teacher = Encoded(w[:, None], mask, w), Encoded(z[:, None], mask, z)
    >>> ot_token(student, teacher, DistillConfig(sentence_weight=0.5))
    tensor(2.)
    """
    return token_transport_loss(student, teacher, config, config.solver)


def ot_unbalanced(student: Encoded, teacher: Encoded, config: DistillConfig) -> Tensor:
    """`ot-token` with marginals relaxed by rho KL (`config.rho`), for noisy or looping translations.

    After Chizat et al. (arXiv 1607.05816). P minimises <P, C> + eps KL(P | a b') + rho KL(P1 | a) + rho KL(P'1 | b). Tokens
    without a counterpart have less mass. The loss is <P, C> with constant P; its gradient is that of the full minimum.

    >>> mask, w, z = torch.ones(2, 1, dtype=torch.bool), torch.eye(2), torch.eye(2).flip(0)
    >>> student, teacher = Encoded(w[:, None], mask, w), Encoded(z[:, None], mask, z)
    >>> round(float(ot_unbalanced(student, teacher, DistillConfig(sentence_weight=0.0))), 2)
    0.62
    """
    return token_transport_loss(student, teacher, config, "unbalanced")


def ot_entity(student: Encoded, teacher: Encoded, config: DistillConfig) -> Tensor:
    """`ot-token` with omega (`config.entity_weight`) times the mass on the tokens of entities.

    This project's own. With e_j = 1 for teacher tokens within a phrase of Flickr30k Entities (without tags, of the phrase
    chunker) and 0 for others, b_j = (1 + (omega - 1) e_j) / sum_k (1 + (omega - 1) e_k). For a translation with tags, a is
    defined in the same way. Without tags, a is the image of b under P0, the plan of `ot-token`:
    a_i = sum_j b_j P0_ij / sum_k P0_kj. This is 1 + (omega - 1) s_i over its sum, where s_i = sum_j P0_ij e_j / sum_j P0_ij is
    the share of token i's mass that comes from entities. P0 has no gradient, and P is the plan between a and b. With omega = 1
    this is `ot-token` to the bit.

    Raises ValueError without `Encoded.entities`.

    >>> mask, w, z = torch.ones(1, 2, dtype=torch.bool), torch.eye(2)[None], torch.eye(2)[None].flip(1)
    >>> student = Encoded(w, mask, w.mean(1), entities=torch.tensor([[torch.nan, torch.nan]]))
    >>> teacher = Encoded(z, mask, z.mean(1), entities=torch.tensor([[1.0, 0.0]]))
    >>> entity_weights(student, teacher, DistillConfig(entity_weight=3.0, eps=0.01))
    (tensor([[1., 3.]]), tensor([[3., 1.]]))
    """
    return token_transport_loss(student, teacher, config, config.solver, entity_weights(student, teacher, config))


def entity_weights(student: Encoded, teacher: Encoded, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """Return weights (B, n) and (B, m), to which the token masses of `ot-entity` are proportional; 0 on padding."""
    ours, theirs = student.entities, teacher.entities
    if ours is None or theirs is None:
        raise ValueError("ot-entity needs the tokens of entities (Encoded.entities)")
    unknown = ours.isnan()
    if bool(unknown.any()):
        with torch.no_grad(), warnings.catch_warnings():
            # A plan that has not converged suffices to weigh tokens. Only the loss's own plans are counted.
            warnings.simplefilter("ignore", NotConverged)
            solver = Solver(config.solver, eps=config.eps)
            plan = token_transport(student.states, teacher.states, student.mask, teacher.mask, solver)[1].plan
        carried = (plan * theirs[:, None, :]).sum(2) / plan.sum(2).where(student.mask, 1.0)
        ours = torch.where(unknown, carried, ours)
    extra = config.entity_weight - 1
    return student.mask * (1 + extra * ours), teacher.mask * (1 + extra * theirs)


def token_transport_loss(
    student: Encoded, teacher: Encoded, config: DistillConfig, method: Method, weights: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Return the mean transport cost of the pairs' tokens plus the weighted sentence term relative to the teacher's norm.

    weights: of the tokens of both sides; by default all real tokens weigh the same.
    """
    solver = Solver(method, eps=config.eps, rho=config.rho) if method == "unbalanced" else Solver(method, eps=config.eps)
    rows, columns = weights or (student.mask, teacher.mask)
    values, _ = token_transport(student.states, teacher.states, rows, columns, solver)
    if config.sentence_weight == 0:
        return values.mean()
    scale = teacher.pooled.square().sum(1).mean()
    return values.mean() + config.sentence_weight * kd_mse(student, teacher, config) / scale


def cosine_similarities(x: Tensor, y: Tensor) -> Tensor:
    """Return cos(x_i, y_j) for rows of x and y (B, d), in float32 even under autocast, since tau amplifies rounding."""
    with torch.autocast(x.device.type, enabled=False):
        return project(functional.normalize(x.float(), dim=1), functional.normalize(y.float(), dim=1))


def info_nce(scores: Tensor) -> Tensor:
    """Return the mean over i of -log softmax(scores_i)_i, for scores (B, B)."""
    return functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def teacher_similarities(teacher: Encoded, config: DistillConfig) -> Tensor:
    """Return cos(Z, Z), with a diagonal of -inf if it is removed, so that it has no target."""
    similarity = cosine_similarities(teacher.pooled, teacher.pooled)
    return similarity.fill_diagonal_(-torch.inf) if config.diagonal == "remove" else similarity


def symmetric_kl(targets: Tensor, scores: Tensor, config: DistillConfig) -> Tensor:
    """Return the mean KL from targets (B, B) to softmax(scores), averaged over the rows and the columns of scores.

    With `config.diagonal` "remove" a pair's own sentence is no candidate, neither of the target nor of the student. (OTTER's
    --remove_diag removes it from the target only, which works against InfoNCE.)
    """
    sides = [scores, scores.T]
    if config.diagonal == "remove":
        targets, sides = off_diagonal(targets), [off_diagonal(side) for side in sides]
    rows, columns = (functional.kl_div(side.log_softmax(1), targets, reduction="batchmean") for side in sides)
    return (rows + columns) / 2


def off_diagonal(square: Tensor) -> Tensor:
    """Return a square matrix (B, B) without its diagonal, (B, B - 1).

    >>> off_diagonal(torch.arange(9).view(3, 3)).tolist()
    [[1, 2], [3, 5], [6, 7]]
    """
    size = len(square)
    return square.flatten()[1:].view(size - 1, size + 1)[:, :-1].reshape(size, size - 1)
