"""The objectives `ridge` and `ridge-english`: the student's projection is fitted in closed form, in seconds on a CPU."""

from __future__ import annotations

import numpy as np
import torch

from harness.core.data import Doubles, Floats
from harness.distill.model.tower import TextTower, Tokens

# In units of the mean of ||h||^2. The range is far wider than the chosen values.
PENALTIES = np.logspace(-8, 3, 23)


def fit_projection(student: TextTower, texts: Tokens, embeddings: Floats, towards_zero: bool = False) -> None:
    """Replace the student's projection by the ridge map from its pooled states to the teacher's sentence embeddings.

    texts: n token id lists. embeddings: (n, d), the teacher's embeddings of their translations, or of the same English texts
    (`ridge-english`; arXiv 2601.10096). With h_i (width) the pooled state of text i before the projection, and W_0 (d, width) the
    student's initial projection, or 0 with `towards_zero`, for an initial projection that is random,

        W = argmin sum_i ||W h_i - z_i||^2 + penalty * ||W - W_0||_F^2  (Hoerl and Kennard 1970, shrunk towards W_0),

    so that few pairs leave the student close to its initialization. The penalty is the one of PENALTIES with the smallest
    leave-one-out error on the same pairs (Allen 1974's PRESS, in closed form). Pooling is linear, so pooled states can be mapped
    instead of token states. Attention pooling is initially the mean.
    """
    from sklearn.linear_model import RidgeCV

    start = student.projection.weight.detach().double().cpu().numpy() * (0 if towards_zero else 1)
    pooled = pooled_states(student, texts)
    scale = np.square(pooled).sum(1).mean()
    fitted = RidgeCV(PENALTIES * scale, fit_intercept=False).fit(pooled, embeddings - pooled @ start.T)
    weight = torch.from_numpy(start + fitted.coef_)
    with torch.no_grad():
        student.projection.weight.copy_(weight)


@torch.inference_mode()
def pooled_states(student: TextTower, texts: Tokens) -> Doubles:
    """Return the pooled states (n, width) of texts before the projection."""
    width = student.config.width
    bare = TextTower(student.config.model_copy(update={"joint_dim": width})).to(student.projection.weight.device).eval()
    own = {
        "projection.weight": torch.eye(width),
        **({"pool_query": torch.zeros(width)} if hasattr(student, "pool_query") else {}),
    }
    bare.load_state_dict(student.state_dict() | own)
    return bare.embed(texts).double().cpu().numpy()
