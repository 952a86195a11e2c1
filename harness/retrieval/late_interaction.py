"""Late interaction: texts, and what they look for, compared state by state and not as one embedding each.

The score of a text and a candidate is the mean, over the text's tokens, of the largest cosine that the token has with any of the
candidate's states: a picture's patches, or another text's tokens. For one text it orders candidates as the sum does, which is
ColBERT's MaxSim (Khattab and Zaharia 2020, arXiv 2004.12832). The mean is what makes texts of different lengths comparable
when a picture looks for them (as in FILIP, arXiv 2111.07783): by the sum, long captions would come first for every picture.
"""

from __future__ import annotations

from collections.abc import Iterator
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
"""States of either side in one product: 64 MiB of cosines."""


def maxsim_scores(texts: PackedStates, candidates: PackedStates, device: str = "cpu") -> Floats:
    """Scores (m, n) of m texts with n candidates, in [-1, 1]: 1/|t| sum_i max_j cos(t_i, c_j).

    Cosines are float32, their sums float64. Whatever the number of items, 4,096 states of either side are multiplied at once. A
    state of zeros has the cosine 0 with everything.

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
    """(n, t): the largest cosine of each of t tokens, given as directions (t, d), with a state of each candidate."""
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
    """Rows of unit length, float32; a zero row stays zero."""
    import torch

    wide = torch.from_numpy(np.asarray(rows, np.float32)).to(device)
    return torch.nn.functional.normalize(wide, dim=1, eps=torch.finfo(torch.float32).tiny)


def batches_in_order(lengths: Ints) -> Iterator[Ints]:
    """Items in order, as many at once as have ROWS_AT_ONCE states, at least one."""
    places, ends = np.arange(len(lengths)), np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = ends[start] - lengths[start]
        stop = max(int(np.searchsorted(ends, before + STATES_AT_ONCE, side="right")), start + 1)
        yield places[start:stop]
        start = stop


def batches_by_length(lengths: Ints) -> Iterator[Ints]:
    """Items from short to long, as many at once as take ROWS_AT_ONCE states when padded to the longest of them, at least one."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        # Padded to the longest: lengths ascend, so the first that does not fit ends the run.
        sizes = lengths[order[start : start + STATES_AT_ONCE]] * np.arange(1, len(order[start : start + STATES_AT_ONCE]) + 1)
        stop = start + max(int(np.searchsorted(sizes, STATES_AT_ONCE, side="right")), 1)
        yield order[start:stop]
        start = stop


def rank_patches(images: PackedStates, texts: PackedStates, owner: Ints, device: str = "cpu") -> Ranks:
    """Ranks, as `ranking.rank`, by late interaction of captions and patches.

    images: patch states of n pictures. texts: token states of m captions. owner: (m,), the index of each caption's image.
    Raises HarnessError if states are of different widths, or an image has no caption.
    """
    if images.rows.shape[1] != texts.rows.shape[1]:
        raise HarnessError(
            f"patch states have {images.rows.shape[1]} dimensions and token states {texts.rows.shape[1]}: not one space"
        )
    return rank_by_score(
        lambda captions, places: maxsim_scores(texts.take(captions), images.take(places), device), owner, len(images)
    )
