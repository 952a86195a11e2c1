"""Retrieval by grounding entities (arXiv 2505.02278): an image stands for itself and for those of its regions that are asked for.

v' = v + sum_k s_k v_k over the phrases k of the caption: v the image's embedding, v_k that of the region of *this* image that the
phrase finds (the largest cosine), both unnormalised, s_k = cos(phrase_k, v_k). The score is cos(caption, v').
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.core.data import Doubles, Floats, Ints, Ranks
from harness.core.errors import HarnessError
from harness.retrieval.ranking import TOLERANCE, rank
from harness.runtime.vectors import unit_rows

_AUDITED = 32


@dataclass(frozen=True)
class RegionGallery:
    """What a scorer may know of the images: (n, d) embeddings, and those of each image's regions, (r_i, d), perhaps none."""

    images: Floats
    regions: tuple[Floats, ...]

    def reordered(self, order: Ints) -> RegionGallery:
        """The same images in another order."""
        return RegionGallery(self.images[order], tuple(self.regions[place] for place in order))


@dataclass(frozen=True)
class CaptionPhrases:
    """m captions: (m, d) embeddings, and those of each one's phrases, (k_i, d), perhaps none."""

    texts: Floats
    phrases: tuple[Floats, ...]


def split_rows(rows: Floats, counts: Sequence[int]) -> tuple[Floats, ...]:
    """Cut (sum(counts), d) into one piece a count."""
    ends = np.cumsum(counts)
    return tuple(rows[end - count : end] for end, count in zip(ends.tolist(), counts, strict=True))


# A way of scoring one gallery: the number of a caption and the places of some images to the images' scores.
ScoreImages = Callable[[int, Ints], Doubles]


def make_image_scorer(captions: CaptionPhrases, gallery: RegionGallery) -> ScoreImages:
    """The scorer of the paper. An image without regions, and a caption without phrases, are scored by v alone."""
    texts = unit_rows(captions.texts)
    counts = np.array([len(of) for of in gallery.regions])
    starts = np.concatenate([[0], np.cumsum(counts)])
    raw = np.concatenate([gallery.images[:0], *gallery.regions]).astype(np.float64)
    directions = unit_rows(raw)

    def score(caption: int, images: Ints) -> Doubles:
        composed = gallery.images[images].astype(np.float64)
        phrases = unit_rows(captions.phrases[caption])
        with_regions = np.flatnonzero(counts[images])
        if len(phrases) and len(with_regions):
            there = images[with_regions]
            rows = np.concatenate([np.arange(starts[image], starts[image + 1]) for image in there])
            firsts = np.concatenate([[0], np.cumsum(counts[there])[:-1]])
            cosines = phrases @ directions[rows].T
            strengths = np.maximum.reduceat(cosines, firsts, axis=1)
            # The first region of each image that reaches its largest cosine: rounding must not choose among equal ones.
            reached = cosines >= np.repeat(strengths, counts[there], axis=1) - TOLERANCE
            found = np.minimum.reduceat(np.where(reached, np.arange(len(rows)), len(rows)), firsts, axis=1)
            composed[with_regions] += np.einsum("kp,kpd->pd", strengths, raw[rows[found]])
        scores: Doubles = unit_rows(composed) @ texts[caption]
        return scores

    return score


def rerank(captions: CaptionPhrases, gallery: RegionGallery, owner: Ints, first: int) -> Ranks:
    """Ranks with the first images of each caption, and the first captions of each image, sorted anew by `make_image_scorer`.

    first: how many of the plain scorer's; 0 for all. What the plain scorer has further back stays there. Of those on the border
    that are tied, the wrong ones come first. Raises HarnessError as `ranking.rank`, and if the scorer is not blind.
    """
    plain = rank(gallery.images, captions.texts, owner)
    check_blind(lambda those: make_image_scorer(captions, those), gallery, len(captions.texts))
    score = make_image_scorer(captions, gallery)
    cosines = unit_rows(captions.texts) @ unit_rows(gallery.images).T
    own = owner[:, None] == np.arange(len(gallery.images))
    by_text, by_image = (
        top_candidates(cosines, own, first or cosines.shape[1]),
        top_candidates(cosines.T, own.T, first or len(cosines)).T,
    )
    composed = np.full(cosines.shape, -np.inf)
    for caption, wanted in enumerate(by_text | by_image):
        images = np.flatnonzero(wanted)
        composed[caption, images] = score(caption, images)
    return Ranks(
        t2i=updated_ranks(plain.t2i, np.where(by_text, composed, -np.inf), own),
        i2t=updated_ranks(plain.i2t, np.where(by_image, composed, -np.inf).T, own.T),
    )


def top_candidates(cosines: Doubles, own: npt.NDArray[np.bool_], first: int) -> npt.NDArray[np.bool_]:
    """Which candidates stand among the first of each row; of those that are tied, the wrong ones before the right."""
    leads = np.zeros(cosines.shape, bool)
    if first >= cosines.shape[1]:
        return ~leads
    shown = np.where(own, cosines - TOLERANCE, cosines)
    best = np.argpartition(-shown, first - 1, axis=1)[:, :first]
    np.put_along_axis(leads, best, True, axis=1)
    return leads


def updated_ranks(plain: Ints, composed: Doubles, own: npt.NDArray[np.bool_]) -> Ints:
    """Ranks by the new scores (-inf for what was not scored anew) where a right one was among the first; else the plain rank."""
    best = np.where(own, composed, -np.inf).max(1)
    above = (~own & (composed >= best[:, None] - TOLERANCE)).sum(1)
    return np.where(np.isfinite(best), 1 + above, plain)


def check_blind(make: Callable[[RegionGallery], ScoreImages], gallery: RegionGallery, captions: int) -> None:
    """Raise HarnessError unless a scorer's scores hang on what an image shows alone, and not on which image it is.

    The images change places: each must keep its score under every caption. A scorer that knows the right image of a caption, or
    shows it by regions that others do not get, still favours its old place.
    """
    order = np.roll(np.arange(len(gallery.images)), 1)
    before, after, places = make(gallery), make(gallery.reordered(order)), np.arange(len(gallery.images))
    for caption in np.unique(np.linspace(0, captions - 1, _AUDITED).astype(int)).tolist():
        moved = np.abs(before(caption, places)[order] - after(caption, places)) > TOLERANCE
        if moved.any():
            raise HarnessError(
                f"the scorer leaks: {int(moved.sum())} of {len(places)} images score otherwise under caption {caption} once they "
                "stand elsewhere; every image must be scored by its own regions, chosen without knowing the caption's image"
            )
