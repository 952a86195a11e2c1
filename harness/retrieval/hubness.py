"""Hubness: how unevenly candidates occur among the nearest of all queries.

N_k(j) is the number of queries that have candidate j among their k best. Its skewness over the candidates, E[(N - E N)^3] / sd^3,
measures hubness (Radovanovic, Nanopoulos and Ivanovic 2010, JMLR 11). It is 0 if all candidates occur equally often,
and large if a few hubs occur in many lists. k is 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.core.data import Doubles, Floats, Ints
from harness.retrieval.cosines import cosine_stripes, exact_device, unit_tensor
from harness.retrieval.ranking import Biases, CandidateBias

if TYPE_CHECKING:
    from torch import Tensor

    Scores = Tensor | Floats | Doubles

NEAREST = 10
_ORDER = 1e-12
"""Subtracted from a score for each earlier candidate, so that ties go to the first one whatever rounding does.

At most 1.6e-7 for 158,915 captions, below the tolerance of ranks.
"""


class OccurrenceCounter:
    """Counts the occurrences of images among the best of each caption, and of captions among the best of each image.

    Scores are added some captions at a time, in order. n: the number of images.

    >>> counter, scores = OccurrenceCounter(20), np.tile(np.arange(20.0), (3, 1))
    >>> counter.add(scores[:2], scores[:2]), counter.add(scores[2:], scores[2:])
    (None, None)
    >>> counter.image_counts.tolist() == [0] * 10 + [3] * 10, counter.hubness()
    (True, {'t2i': 0.0, 'i2t': 0.0})
    """

    def __init__(self, n: int) -> None:
        self.images, self._added = n, 0
        self.image_counts: Ints = np.zeros(n, np.int64)
        self._best: tuple[Tensor, Tensor] | None = None

    def add(self, captions_to_images: Scores, images_to_captions: Scores) -> None:
        """Count the next r captions by their scores (r, n): of images for each caption, and of captions for each image."""
        import torch

        for_captions, for_images = (torch.as_tensor(scores).double() for scores in (captions_to_images, images_to_captions))
        places = torch.arange(self.images, dtype=torch.float64, device=for_captions.device)
        first = (for_captions - _ORDER * places).topk(min(NEAREST, self.images), dim=1).indices
        self.image_counts += torch.bincount(first.flatten(), minlength=self.images).cpu().numpy()
        numbers = self._added + torch.arange(len(for_images), device=for_images.device)
        values, rows = (for_images - _ORDER * numbers[:, None]).topk(min(NEAREST, len(for_images)), dim=0)
        found = numbers[rows]
        if self._best is not None:
            values, found = torch.cat([self._best[0], values]), torch.cat([self._best[1], found])
            values, rows = values.topk(min(NEAREST, len(values)), dim=0)
            found = found.gather(0, rows)
        self._best, self._added = (values, found), self._added + len(for_images)

    def hubness(self) -> dict[str, float]:
        """Return the skewness of the images' occurrences (`t2i`) and of the captions' (`i2t`)."""
        import torch

        assert self._best is not None, "no caption was added"
        captions = torch.bincount(self._best[1].flatten(), minlength=self._added).cpu().numpy()
        return {"t2i": skewness(self.image_counts), "i2t": skewness(captions)}


def skewness(counts: Ints) -> float:
    """Return the skewness of counts, 0 if they are all equal.

    >>> skewness(np.array([0, 0, 0, 4])), skewness(np.array([1, 1]))
    (1.1547005383792515, 0.0)
    """
    from scipy.stats import skew

    return float(skew(counts)) if np.ptp(counts) else 0.0


def cosine_hubness(images: Floats, texts: Floats, biases: Biases | None = None, device: str = "cpu") -> dict[str, float]:
    """Return the hubness of both directions. images: (n, d) and texts: (m, d), embeddings. biases: as for `ranking.rank`.

    Raises HarnessError if an embedding is not finite.
    """
    import torch

    device = exact_device(device)
    wide, long = unit_tensor(images, "image").to(device), unit_tensor(texts, "text").to(device)
    counter = OccurrenceCounter(len(wide))
    with torch.inference_mode():
        for part, cosines in cosine_stripes(long, wide):
            if biases is None:
                counter.add(cosines, cosines)
                continue
            to_images = _added_bias(cosines, biases.t2i, part, slice(None))
            counter.add(to_images, _added_bias(cosines.T, biases.i2t, slice(None), part).T)
    return counter.hubness()


def _added_bias(cosines: Tensor, bias: CandidateBias, queries: slice, candidates: slice) -> Tensor:
    """Return the cosines (q, c) of some queries and candidates with the candidates' biases."""
    import torch

    values = torch.from_numpy(np.asarray(bias.values)[candidates]).to(cosines.device)
    if bias.queries is None:
        return cosines + values
    return cosines + values * torch.from_numpy(bias.queries[queries]).to(cosines.device)[:, None]
