"""How far a trained student agrees with its teacher on the pairs that it was trained on, and the note if it does not."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from harness.core.config import DistillConfig

LEAST_AGREEMENT = 0.2
"""Below it a training counts as one without progress: the student explains less than 4 % of the teacher's variance."""
MOST_SENTENCES = 512


def agreement(student: Tensor, teacher: Tensor) -> float:
    """Return the correlation of the student's and the teacher's embeddings W and Z (n, d) of the same n sentences.

    With rows w_i and z_i divided by their lengths, and their means w and z,

        sum_i <w_i - w, z_i - z> / sqrt(sum_i |w_i - w|^2 sum_i |z_i - z|^2).

    Its square is the share of the teacher's variance that the student's embeddings explain after the best scaling. It is 0 for
    a student that maps all sentences to one embedding, such as the mean of the teacher's, and for embeddings that are not finite.
    It depends on neither the embeddings' lengths nor a common offset, and so holds for losses of cosines too.

    >>> import torch
    >>> z = torch.eye(4)
    >>> round(agreement(2 * z, z), 6), agreement(z.mean(0).repeat(4, 1), z), round(agreement(z.flip(0), z), 2)
    (1.0, 0.0, -0.33)
    """
    w, z = (functional.normalize(side.double(), dim=1) for side in (student, teacher))
    w, z = w - w.mean(0), z - z.mean(0)
    return float(((w * z).sum() / (w.norm() * z.norm())).nan_to_num(0.0).clamp(-1, 1))


def agreement_note(found: float | None, steps: int, config: DistillConfig) -> str:
    """Return a note on a training without progress, with the likely cause and the way out, or "" for any other.

    found: the agreement on training pairs, None for a student that was not trained. config: as trained, with the learning rate
    that a search has chosen.
    """
    if found is None or found >= LEAST_AGREEMENT:
        return ""
    rate = f"a learning rate that is too high ({config.peak_learning_rate:g}: try a tenth with --learning-rate, or --tune)"
    cause = f"too few steps ({steps:,}: try more with --steps)"
    return (
        f"the training made no progress: even on its own pairs the student's embeddings follow the teacher's hardly better than "
        f"their mean would (correlation {found:.2f}; the mean has 0); the likely cause is "
        f"{cause if config.tune else f'{rate}, or {cause}'}"
    )
