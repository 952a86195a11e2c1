"""Counts of the scores that reach the thresholds of texts and images, compiled for a processor by numba.

Both counts are made in one read of the scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, from_numpy

from harness.runtime.numba_threads import Array, jit, parallel_for

if TYPE_CHECKING:
    from harness.retrieval.ranking import Bars

STRIP = 512  # images that are counted at once. Their thresholds and counts stay in the first-level cache.


def count_reached(scores: Tensor, texts: Bars, images: Bars) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Count scores on a processor (see `ranking.CountReached`)."""
    tile = scores.numpy()
    by_text, by_image = (np.stack([side.sure.numpy(), side.perhaps.numpy()]) for side in (texts, images))
    strips = -(-tile.shape[1] // STRIP)
    in_strips, doubts = np.zeros((2, strips, len(tile)), np.int32)
    reached = np.zeros(tile.shape[1], np.int32)
    parallel_for(lambda first, last: count_strips(first, last, tile, by_text, by_image, in_strips, reached, doubts), strips, 1)
    places = find_doubtful(tile, by_text, by_image, doubts)
    return from_numpy(in_strips.sum(0)), from_numpy(reached), from_numpy(places[0]), from_numpy(places[1])


@jit
def count_strips(
    first: int, last: int, scores: Array, texts: Array, images: Array, in_strips: Array, reached: Array, doubts: Array
) -> None:
    """Count the scores of the strips from first to last, last excluded, in place.

    texts: (2, r) and images: (2, c), the thresholds `sure` and `perhaps` of `ranking.Bars`. in_strips: counts of each text, by
    strip. reached: counts of each image. doubts: the number of uncertain scores of each text, by strip.
    """
    for strip in range(first, last):
        start, stop = strip * STRIP, min((strip + 1) * STRIP, scores.shape[1])
        image_sure, image_perhaps, image_reached = images[0, start:stop], images[1, start:stop], reached[start:stop]
        for i in range(len(scores)):
            row, text_sure, text_perhaps = scores[i, start:stop], texts[0, i], texts[1, i]
            total, doubtful = np.int32(0), np.int32(0)
            for j in range(len(row)):
                score = row[j]
                by_text, by_image = score >= text_sure, score >= image_sure[j]
                total += np.int32(by_text)
                image_reached[j] += np.int32(by_image)
                doubtful += np.int32(((score >= text_perhaps) ^ by_text) | ((score >= image_perhaps[j]) ^ by_image))
            in_strips[strip, i], doubts[strip, i] = total, doubtful


@jit
def find_doubtful(scores: Array, texts: Array, images: Array, doubts: Array) -> Array:
    """Return the rows and columns (2, k) of the uncertain scores. doubts: their number in each row of each strip."""
    found, k = np.empty((2, doubts.sum()), np.int64), 0
    for strip in range(len(doubts)):
        for i in np.flatnonzero(doubts[strip]):
            for j in range(strip * STRIP, min((strip + 1) * STRIP, scores.shape[1])):
                score = scores[i, j]
                by_text, by_image = texts[1, i] <= score < texts[0, i], images[1, j] <= score < images[0, j]
                if by_text or by_image:
                    found[0, k], found[1, k] = i, j
                    k += 1
    return found
