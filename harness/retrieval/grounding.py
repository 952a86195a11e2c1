"""Phrase grounding: rankings of an image's regions by a phrase, and their scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.core.data import Doubles, Floats, Grounding, Ints, Ranks, Regions
from harness.core.errors import HarnessError
from harness.retrieval.ranking import CUTOFFS, MISSED, TOLERANCE, chance_of_hit, hit_rate
from harness.retrieval.regions import gallery_places, group_starts
from harness.runtime.vectors import unit_rows

MIN_IOU = 0.5


@dataclass(frozen=True)
class GroundingResult:
    """The grounding results of m phrases among the regions of their images.

    ranks: (m,), the rank of the best region whose IoU with a ground-truth box is at least 0.5, or MISSED.
    pointed: (m,), whether the centre of the first-ranked region lies inside a ground-truth box.
    found: (m, 4), the box of the first-ranked region, all zeros if there is no candidate.
    chance: expected hit rates of a random order, in percent.
    """

    ranks: Ints
    pointed: npt.NDArray[np.bool_]
    found: Ints
    chance: dict[str, float]

    @property
    def as_ranks(self) -> Ranks:
        """The ranks as `Ranks` with an empty second direction, since regions are not queries."""
        return Ranks(t2i=self.ranks, i2t=np.zeros(0, np.int64))

    def scores(self) -> dict[str, float]:
        """Return the scores (see `grounding_scores`)."""
        return grounding_scores(self.ranks, self.pointed)


def grounding_scores(ranks: Ints, pointed: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return recall@1, 5 and 10, its upper bound for the candidates, and pointing accuracy, in percent, and the median rank."""
    recalls = {f"t2i_r{k}": hit_rate(ranks, k) for k in CUTOFFS}
    bound, pointing = hit_rate(ranks, MISSED - 1), float(100 * pointed.mean())
    return recalls | {"t2i_median_rank": float(np.median(ranks)), "upper_bound": bound, "pointing": pointing}


def ground(texts: Floats, views: Floats, grounding: Grounding, regions: Regions) -> GroundingResult:
    """Rank the regions of each phrase's image by the cosine of phrase and region.

    texts: (m, d), embeddings of the phrases. views: (r, d), embeddings of the regions. Ties count against the encoder, in ranks
    and in pointing. If a phrase has several ground-truth boxes, a region matches if it matches any of them (the "any box"
    protocol of MDETR, arXiv 2104.12763). Raises HarnessError if there is no phrase.
    """
    if not len(texts):
        raise HarnessError(f"nothing to ground: no phrase of the {grounding.lang} captions has a box")
    phrases, candidates = unit_rows(texts), unit_rows(views)
    starts = group_starts(regions.box_images, len(regions.images.ids))
    places = gallery_places(regions, grounding.images)[grounding.caption_images]
    true_starts = group_starts(grounding.target_captions, len(texts))
    ranks, found = np.full(len(texts), MISSED, np.int64), np.zeros((len(texts), 4), np.int64)
    pointed, odds = np.zeros(len(texts), bool), np.zeros((len(texts), len(CUTOFFS)))
    for phrase, place in enumerate(places.tolist()):
        part = slice(starts[place], starts[place + 1])
        boxes, true = regions.boxes[part], grounding.targets[true_starts[phrase] : true_starts[phrase + 1]]
        if not len(boxes):
            continue
        scores = candidates[part] @ phrases[phrase]
        right = (box_ious(boxes, true) >= MIN_IOU).any(1)
        if right.any():
            ranks[phrase] = 1 + np.count_nonzero(~right & (scores >= scores[right].max() - TOLERANCE))
        found[phrase] = boxes[scores.argmax()]
        pointed[phrase] = bool(centres_inside(boxes[scores >= scores.max() - TOLERANCE], true).any(1).all())
        odds[phrase] = [chance_of_hit(len(boxes), int(right.sum()), k) for k in CUTOFFS]
    means = 100 * odds.mean(0)
    return GroundingResult(ranks, pointed, found, {f"t2i_r{k}": float(mean) for k, mean in zip(CUTOFFS, means, strict=True)})


def box_ious(boxes: Ints, others: Ints) -> Doubles:
    """Return the intersection over union (n, m) of boxes (n, 4) and others (m, 4).

    >>> box_ious(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]])).round(2).tolist()
    [[1.0, 0.33, 0.0]]
    """
    a, b = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    common = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(-1) for each in (a, b)]
    shares: Doubles = common / (areas[0] + areas[1] - common)
    return shares


def centres_inside(boxes: Ints, others: Ints) -> npt.NDArray[np.bool_]:
    """Return whether the centre of each of the boxes (n, 4) lies inside each of the others (m, 4), as (n, m)."""
    centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    return np.asarray(((centres >= others[None, :, :2]) & (centres < others[None, :, 2:])).all(-1))
