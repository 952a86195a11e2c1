"""Late interaction: texts and candidates are compared by their token or patch states, not by one embedding each.

The states of a candidate are the patches of an image or the tokens of another text. The score of a text and a candidate is the
mean, over the text's tokens, of the token's largest cosine with a state of the candidate. For one text, it orders candidates
as the sum does, which is ColBERT's MaxSim (Khattab and Zaharia 2020, arXiv 2004.12832). The mean makes texts of different lengths
comparable in image-to-text retrieval (as in FILIP, arXiv 2111.07783). With the sum, long captions would rank first for every
image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.core.data import Floats, Ints, Ranks
from harness.core.errors import HarnessError
from harness.retrieval.ranking import rank_by_score
from harness.storage.packed_states import PackedStates

if TYPE_CHECKING:
    from torch import Tensor

STATES_AT_ONCE = 4096
"""The number of states of each side in one product. The cosines of a product take 64 MiB."""


def maxsim_scores(texts: PackedStates, candidates: PackedStates, device: str = "cpu") -> Floats:
    """Return the scores (m, n) of m texts with n candidates, in [-1, 1]: 1/|t| sum_i max_j cos(t_i, c_j).

    Cosines are float32, and their sums float64. A product takes 4,096 states of each side, for any number of items. A state of
    zeros has the cosine 0 with every other state.

    >>> text, picture = np.array([[1, 0], [0, 2]], np.float32), np.array([[3, 0], [1, 1]], np.float32)
    >>> round(float(maxsim_scores(PackedStates(text, np.array([2])), PackedStates(picture, np.array([2])))[0, 0]), 4)
    0.8536
    """
    scores = np.empty((len(texts), len(candidates)), np.float32)
    for asked in batches_in_order(texts.lengths):
        block = texts.take(asked)
        tokens = unit_states(block.rows, device)
        for items in batches_by_length(candidates.lengths):
            best = largest_cosines(candidates.take(items), tokens, device)
            sums = np.add.reduceat(best, block.starts, axis=1, dtype=np.float64)
            scores[np.ix_(asked, items)] = (sums / block.lengths).T
    return scores


def largest_cosines(candidates: PackedStates, tokens: Tensor, device: str) -> Floats:
    """Return the largest cosine (n, t) of each token with the states of each candidate. tokens: (t, d), unit vectors."""
    import torch

    states = unit_states(candidates.rows, device)
    longest = int(candidates.lengths.max())
    real = torch.from_numpy(np.arange(longest) < candidates.lengths[:, None]).to(device)
    padded = states.new_zeros(len(candidates), longest, states.shape[1])
    padded[real] = states
    cosines = (padded.flatten(0, 1) @ tokens.T).view(len(candidates), longest, len(tokens))
    cosines.masked_fill_(~real[:, :, None], -torch.inf)
    best: Floats = cosines.amax(1).cpu().numpy()
    return best


def unit_states(rows: npt.NDArray[Any], device: str) -> Tensor:
    """Return the rows at unit length, float32. A zero row stays zero."""
    import torch

    wide = torch.from_numpy(np.asarray(rows, np.float32)).to(device)
    return torch.nn.functional.normalize(wide, dim=1, eps=torch.finfo(torch.float32).tiny)


def batches_in_order(lengths: Ints) -> Iterator[Ints]:
    """Yield batches of items in order, each with at most STATES_AT_ONCE states or a single item."""
    places, ends = np.arange(len(lengths)), np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = ends[start] - lengths[start]
        stop = max(int(np.searchsorted(ends, before + STATES_AT_ONCE, side="right")), start + 1)
        yield places[start:stop]
        start = stop


def batches_by_length(lengths: Ints) -> Iterator[Ints]:
    """Yield batches of items by ascending length.

    Padded to its longest item, a batch has at most STATES_AT_ONCE states or a single item.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        # Padded sizes. Lengths ascend, so the first item that does not fit ends the batch.
        sizes = lengths[order[start : start + STATES_AT_ONCE]] * np.arange(1, len(order[start : start + STATES_AT_ONCE]) + 1)
        stop = start + max(int(np.searchsorted(sizes, STATES_AT_ONCE, side="right")), 1)
        yield order[start:stop]
        start = stop


def rank_patches(
    images: PackedStates,
    texts: PackedStates,
    owner: Ints,
    device: str = "cpu",
    observe: Callable[[Floats], None] | None = None,
) -> Ranks:
    """Rank by late interaction of captions and patches. Ranks are defined as in `ranking.rank`.

    images: patch states of n images. texts: token states of m captions. owner: (m,), the index of each caption's image.
    observe: as for `ranking.rank_by_score`.
    Raises HarnessError if the states differ in width, or if an image has no caption.
    """
    if images.rows.shape[1] != texts.rows.shape[1]:
        raise HarnessError(
            f"patch states have {images.rows.shape[1]} dimensions and token states {texts.rows.shape[1]}: not one space"
        )
    return rank_by_score(
        lambda captions, places: maxsim_scores(texts.take(captions), images.take(places), device),
        owner,
        len(images),
        observe=observe,
    )
