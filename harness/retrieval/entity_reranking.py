"""Retrieval with entity grounding (arXiv 2505.02278): images are reranked with the regions that a caption's phrases match.

The embedding of an image is composed for each caption: v' = v + sum_k s_k v_k over the phrases k of the caption. v is the image's
embedding. v_k is the embedding of the region of *this* image with the largest cosine with the phrase. Both are unnormalised.
s_k = cos(phrase_k, v_k). The score is cos(caption, v').
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
_BELOW = 3.0  # subtracted from the cosines of candidates that are not reranked, so that they follow the reranked ones


@dataclass(frozen=True)
class RegionGallery:
    """The data of the images that a scorer may use.

    images: (n, d), embeddings. regions: n arrays (r_i, d), the embeddings of each image's regions. An image may have none.
    """

    images: Floats
    regions: tuple[Floats, ...]

    def reordered(self, order: Ints) -> RegionGallery:
        """Return a copy with the images in the given order."""
        return RegionGallery(self.images[order], tuple(self.regions[place] for place in order))


@dataclass(frozen=True)
class CaptionPhrases:
    """The embeddings of m captions and their phrases.

    texts: (m, d), embeddings. phrases: m arrays (k_i, d), the embeddings of each caption's phrases. A caption may have none.
    """

    texts: Floats
    phrases: tuple[Floats, ...]


def split_rows(rows: Floats, counts: Sequence[int]) -> tuple[Floats, ...]:
    """Split rows (sum(counts), d) into one array for each count."""
    ends = np.cumsum(counts)
    return tuple(rows[end - count : end] for end, count in zip(ends.tolist(), counts, strict=True))


# Returns the scores of some images of a gallery, given the index of a caption and the indices of the images.
ScoreImages = Callable[[int, Ints], Doubles]


def make_image_scorer(captions: CaptionPhrases, gallery: RegionGallery) -> ScoreImages:
    """Return the scorer of the paper. Images without regions and captions without phrases are scored by v alone."""
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
            # Of the regions tied at an image's largest cosine, the first is chosen, so that rounding does not decide.
            reached = cosines >= np.repeat(strengths, counts[there], axis=1) - TOLERANCE
            found = np.minimum.reduceat(np.where(reached, np.arange(len(rows)), len(rows)), firsts, axis=1)
            composed[with_regions] += np.einsum("kp,kpd->pd", strengths, raw[rows[found]])
        scores: Doubles = unit_rows(composed) @ texts[caption]
        return scores

    return score


def rerank(
    captions: CaptionPhrases,
    gallery: RegionGallery,
    owner: Ints,
    first: int,
    observe: Callable[[Doubles, Doubles], None] | None = None,
) -> Ranks:
    """Return ranks after `make_image_scorer` reranks the first images of each caption and the first captions of each image.

    first: the number of candidates that are reranked, 0 for all. They are the best candidates of the plain scorer, and all others
    retain their plain ranks. Of candidates tied at the border, irrelevant ones come first. observe: receives two arrays (m, n),
    whose rows order the images for each caption and whose columns order the captions for each image.
    Raises HarnessError as `ranking.rank` does, and if the scorer is not blind (see `check_blind`).
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
    if observe:
        below = cosines - _BELOW
        observe(np.where(by_text, composed, below), np.where(by_image, composed, below))
    return Ranks(
        t2i=updated_ranks(plain.t2i, np.where(by_text, composed, -np.inf), own),
        i2t=updated_ranks(plain.i2t, np.where(by_image, composed, -np.inf).T, own.T),
    )


def top_candidates(cosines: Doubles, own: npt.NDArray[np.bool_], first: int) -> npt.NDArray[np.bool_]:
    """Return which candidates are among the first of each row. Of tied candidates, irrelevant ones come before relevant ones."""
    leads = np.zeros(cosines.shape, bool)
    if first >= cosines.shape[1]:
        return ~leads
    shown = np.where(own, cosines - TOLERANCE, cosines)
    best = np.argpartition(-shown, first - 1, axis=1)[:, :first]
    np.put_along_axis(leads, best, True, axis=1)
    return leads


def updated_ranks(plain: Ints, composed: Doubles, own: npt.NDArray[np.bool_]) -> Ints:
    """Return the ranks by the new scores, or the plain rank of a row whose relevant candidates were not reranked.

    composed: the new scores, -inf for candidates that were not reranked.
    """
    best = np.where(own, composed, -np.inf).max(1)
    above = (~own & (composed >= best[:, None] - TOLERANCE)).sum(1)
    return np.where(np.isfinite(best), 1 + above, plain)


def check_blind(make: Callable[[RegionGallery], ScoreImages], gallery: RegionGallery, captions: int) -> None:
    """Raise HarnessError if the scores of images depend on their index, and not on their embeddings alone.

    The images are reordered, and the score of each image must stay the same under each of _AUDITED captions. A scorer that knows
    the relevant image of a caption, or gives it regions that other images do not get, still favours its old index.
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
