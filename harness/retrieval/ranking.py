"""Ranks by a stated tie rule, and the hit rates read off them.

A score is the dot product of two L2-normalised embeddings. The rank of a query is one more than the number of *other* items
(those not relevant to it) that score at least as high as its best relevant one, less TOLERANCE: ties count against the encoder,
so that an encoder that says the same of everything scores 0 and never 100.

One float32 matrix product serves both directions, a tile of captions by images at a time. It only decides the clear cases: where
a score lies nearer to its bar than a float32 product can be trusted, the pair is scored again in float64. The ranks are therefore
those of the float64 score matrix, whatever the tile, the number of threads, the device or the BLAS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from math import comb, isqrt
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

import numpy as np

from harness.core.data import Floats, Ints, Ranks
from harness.core.errors import HarnessError

if TYPE_CHECKING:
    from torch import Tensor

Params = ParamSpec("Params")
Result = TypeVar("Result")
TOLERANCE = 1e-6
"""How far below the best relevant score another item still counts as tied with it (scores lie in [-1, 1]).

Two embeddings that are equal in exact arithmetic reach us with each component rounded twice to float32, by the encoder that
stored it and by the normalisation here: a unit vector is off by at most 2u in norm, u = 2**-24. A score has two such vectors and
a comparison two scores, so mathematically equal scores differ by at most 8u = 4.8e-7 (Cauchy-Schwarz). 1e-6 is twice that, and
far below any difference that means something. The product's own rounding does not enter: see `_slack`.
"""
CUTOFFS = (1, 5, 10)
MISSED = np.iinfo(np.int32).max
"""The rank of what is not found at all: nothing covers a phrase's place, or no relevant text is among the first that are kept."""
_STRIPE = 1024  # rows or pairs held in float64 at once, small enough for the cache
_OWN = 64  # captions whose own images are scored at once: those of an image stand together, so that few pairs are scored in vain
_DENSE = 64  # when more than one score in so many is in doubt, a float64 product of the tile is cheaper than scoring pairs
_WIDE = 64  # images are filled up with zeros to a multiple: GPUs have no quick product for an odd width, and 31,783 is one
_CHUNK = {"cpu": 16 << 20, "cuda": 1 << 30}  # bytes of scores: what a cache holds, and what keeps a GPU busy
_FEW = 1 << 24  # scores that torch has counted before numba is imported


def rank(images: Floats, texts: Floats, owner: Ints, *, chunk: int | None = None, device: str = "cpu") -> Ranks:
    """Rank every image for every caption, and every caption for every image.

    images: (n, d) and texts: (m, d), embeddings in one space, normalised here (a zero row stays zero and ties with everything).
    owner: (m,), the index of each caption's image; other captions of the same image never count against it.
    chunk: bytes of float32 scores held at once, a tile as high as wide (16 MiB on a processor, 1 GiB on a GPU); counting takes
    about as much again, up to five times where nearly everything is tied, and there is a normalised copy of the inputs. device:
    where products are taken, `cuda` or a processor.
    Raises HarnessError if shapes do not fit, an image has no caption, or an embedding is not finite (NaN loses every comparison,
    so a broken encoder would score 100).

    >>> eye = np.eye(3, dtype=np.float32)
    >>> rank(eye, eye, np.arange(3)).t2i.tolist()
    [1, 1, 1]
    >>> rank(eye, np.ones_like(eye), np.arange(3)).t2i.tolist()
    [3, 3, 3]
    """
    import torch

    from harness.runtime.matmul import float32_matmul

    images, texts = np.asarray(images), np.asarray(texts)
    owners = torch.from_numpy(_checked_owner(np.asarray(owner), images, texts))
    kind = "cuda" if device.startswith("cuda") else "cpu"  # others have no float64
    device = device if kind == "cuda" else "cpu"
    with torch.inference_mode(), float32_matmul(device):
        wide, long, owners = _unit(images, "image").to(device), _unit(texts, "text").to(device), owners.to(device)
        own = _score_pairs(long, wide, torch.arange(len(long), device=device), owners)
        best = torch.full((len(wide),), -torch.inf, device=device, dtype=own.dtype).scatter_reduce(0, owners, own, "amax")
        by_text, by_image = Bars.of(long, own), Bars.of(wide, best)
        few = len(images) * len(texts) < _FEW
        count = _count if kind == "cuda" else single_threaded(_count) if few else _counting()

        side = max(isqrt((chunk or _CHUNK[kind]) // 4), 1)
        scores = torch.empty(min(side, len(long)) * min(side, len(wide)), device=device)
        t2i, i2t = (torch.ones(len(rows), dtype=torch.int64, device=device) for rows in (long, wide))
        for rows in _slices(len(long), side):
            for columns in _slices(len(wide), side):
                own, real = owners[rows] - columns.start, len(images) - columns.start
                reached = _reached(scores, by_text.cut(rows), by_image.cut(columns), own, real, count)
                t2i[rows] += reached[0]
                i2t[columns] += reached[1]
        return Ranks(t2i.cpu().numpy(), i2t[: len(images)].cpu().numpy())


# Scores (r, c), float32, of some captions with some images, both given by their places.
ScoreFunction = Callable[[Ints, Ints], Floats]


def rank_by_score(score: ScoreFunction, owner: Ints, n: int, *, chunk: int = 64 << 20) -> Ranks:
    """Rank n images for every caption, and every caption for every image, by any score in [-1, 1]; ties as in `rank`.

    owner: (m,), the index of each caption's image. chunk: bytes of scores held at once, at least one caption's. A pair is scored
    once to find the bars, and once among all: a score may differ from call to call by far less than TOLERANCE, as the rounding of
    a product of another shape does. Raises HarnessError if an image has no caption.

    >>> table = np.array([[0.9, 0.1], [0.5, 0.4]], np.float32)
    >>> rank_by_score(lambda captions, images: table[np.ix_(captions, images)], np.array([0, 1]), 2)
    Ranks(t2i=array([1, 2]), i2t=array([1, 1]))
    """
    owner = _all_owned(owner, n)
    images, own = np.arange(n), np.empty(len(owner), np.float32)
    for part in _slices(len(owner), _OWN):
        mine, places = np.unique(owner[part], return_inverse=True)
        rows = np.arange(len(owner))[part]
        own[part] = score(rows, mine)[np.arange(len(rows)), places]
    best = np.full(n, -np.inf, np.float32)
    np.maximum.at(best, owner, own)
    t2i, i2t = np.ones(len(owner), np.int64), np.ones(n, np.int64)
    for part in _slices(len(owner), max(chunk // (4 * n), 1)):
        scores = score(np.arange(len(owner))[part], images)
        scores[np.arange(len(scores)), owner[part]] = -np.inf
        t2i[part] += np.count_nonzero(scores >= own[part, None] - np.float32(TOLERANCE), axis=1)
        i2t += np.count_nonzero(scores >= best - np.float32(TOLERANCE), axis=0)
    return Ranks(t2i, i2t)


def mean_reciprocal_rank(ranks: Ranks) -> float:
    """Return the mean reciprocal rank, averaged over both directions, in percent.

    >>> mean_reciprocal_rank(Ranks(np.array([1, 2]), np.array([1, 4])))
    68.75
    """
    return 50 * float((1 / ranks.t2i).mean() + (1 / ranks.i2t).mean())


def hit_rate(ranks: Ints, k: int) -> float:
    """Percentage of queries whose best relevant item is among the first k (0-100).

    >>> hit_rate(np.array([1, 2, 7, 30]), 5)
    50.0
    """
    return float(100 * np.mean(ranks <= k))


def retrieval_scores(ranks: Ranks) -> dict[str, float]:
    """The six hit rates and their mean in percent, and the two median ranks.

    >>> of = retrieval_scores(Ranks(t2i=np.array([1, 1, 6, 20]), i2t=np.array([1, 2])))
    >>> of["t2i_r10"], of["i2t_median_rank"]
    (75.0, 1.5)
    >>> list(of)
    ['t2i_r1', 't2i_r5', 't2i_r10', 'i2t_r1', 'i2t_r5', 'i2t_r10', 't2i_median_rank', 'i2t_median_rank', 'mean_recall']
    """
    sides = {"t2i": ranks.t2i, "i2t": ranks.i2t}
    rates = {f"{side}_r{k}": hit_rate(of, k) for side, of in sides.items() for k in CUTOFFS}
    medians = {f"{side}_median_rank": float(np.median(of)) for side, of in sides.items()}
    return {**rates, **medians, "mean_recall": float(np.mean(list(rates.values())))}


def chance_rates(owner: Ints, n: int) -> dict[str, float]:
    """The six hit rates that a uniformly random ranking is expected to have, in percent.

    owner: (m,), the index of each caption's image among n. Text to image it is k/n; image to text, for an image with c of the m
    captions, 1 - C(m-c, k) / C(m, k), averaged over images.

    >>> chance_rates(np.array([0, 0, 1, 1]), 2)["i2t_r1"]
    50.0
    """
    m = len(owner)
    captions = np.bincount(owner, minlength=n)
    drawn = np.arange(min(max(CUTOFFS), m))
    # Column k - 1: the probability that the first k captions, drawn without replacement, all belong to other images.
    missed = np.cumprod(np.maximum(m - captions[:, None] - drawn, 0) / (m - drawn), axis=1).mean(axis=0)
    t2i = {f"t2i_r{k}": 100 * min(k / n, 1.0) for k in CUTOFFS}
    return t2i | {f"i2t_r{k}": float(100 * (1 - missed[min(k, m) - 1])) for k in CUTOFFS}


@cache
def chance_of_hit(candidates: int, right: int, k: int) -> float:
    """The probability that one of the right candidates is among k drawn at random.

    >>> chance_of_hit(4, 1, 1), chance_of_hit(4, 1, 10), chance_of_hit(4, 0, 10)
    (0.25, 1.0, 0.0)
    """
    drawn = min(k, candidates)
    return 1 - comb(candidates - right, drawn) / comb(candidates, drawn)


def _checked_owner(owner: Ints, images: Floats, texts: Floats) -> Ints:
    """Refuse shapes that do not fit and images without captions."""
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        raise HarnessError(f"images {images.shape} and texts {texts.shape} must be (n, d) and (m, d), embedded in one space")
    if owner.shape != (len(texts),) or not np.issubdtype(owner.dtype, np.integer):
        raise HarnessError(f"owner must be one integer for each of the {len(texts)} texts, not {owner.dtype} {owner.shape}")
    if not len(images) or not len(texts):
        raise HarnessError(f"nothing to rank: {len(images)} images and {len(texts)} texts")
    return _all_owned(owner, len(images))


def _all_owned(owner: Ints, n: int) -> Ints:
    """Refuse owners that are no image, and images without captions."""
    if owner.min() < 0 or owner.max() >= n:
        raise HarnessError(f"owner names images {owner.min()} to {owner.max()}, but they are numbered 0 to {n - 1}")
    bare = np.flatnonzero(np.bincount(owner, minlength=n) == 0)
    if bare.size:
        raise HarnessError(f"{bare.size} of {n} images have no caption, the first is number {bare[0]}: leave them out")
    return owner.astype(np.int64)


class Bars(NamedTuple):
    """Unit rows (k, d), and bars (k,): what another score must reach to count against each, in float64; and in float32, what is
    reached for certain, and what perhaps."""

    rows: Tensor
    bars: Tensor
    sure: Tensor
    perhaps: Tensor

    @classmethod
    def of(cls, rows: Tensor, best: Tensor) -> Bars:
        """best: (k,), float64, the score of the best relevant one."""
        bars, slack = best - TOLERANCE, _slack(rows.shape[1])
        return cls(rows, bars, (bars + slack).float(), (bars - slack).float())

    def cut(self, part: slice) -> Bars:
        """Some of them."""
        return Bars(*(of[part] for of in self))


def _unit(rows: Floats, side: str) -> Tensor:
    """L2-normalise each row in float64 and round once to float32; refuse rows that are not finite. Images are filled up."""
    import torch

    with np.errstate(over="ignore"):  # float64 input beyond float32 becomes inf, and is refused as such
        rows = np.asarray(rows, np.float32)
    filled = len(rows) + (-len(rows) % _WIDE if side == "image" else 0)
    unit, norms = np.zeros((filled, rows.shape[1]), np.float32), np.empty(len(rows))
    for part in _slices(len(rows), _STRIPE):
        wide = rows[part].astype(np.float64)
        norms[part] = np.sqrt(
            np.einsum("ij,ij->i", wide, wide)
        )  # finite if and only if the row is: float64 holds float32 squared
        if np.isfinite(norms[part]).all():
            unit[part][: len(wide)] = wide / np.where(norms[part] > 0, norms[part], 1)[:, None]
    broken = np.count_nonzero(~np.isfinite(norms))
    if broken:
        raise HarnessError(f"{broken} of {len(rows)} {side} embeddings hold NaN or infinity; look at the encoder's precision")
    return torch.from_numpy(unit)


def single_threaded(work: Callable[Params, Result]) -> Callable[Params, Result]:
    """The function on one of torch's threads: in small work several wait for each other, 13 ms a time where a machine is busy."""

    @wraps(work)
    def by_one_thread(*words: Params.args, **more: Params.kwargs) -> Result:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return work(*words, **more)
        finally:
            torch.set_num_threads(threads)

    return by_one_thread


@single_threaded
def _score_pairs(texts: Tensor, images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Scores of chosen (text, image) pairs in float64."""
    import torch

    out = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for part in _slices(len(rows), _STRIPE):
        out[part] = (texts[rows[part]].double() * images[columns[part]]).sum(1)
    return out


def _slack(width: int) -> float:
    """Bound on |float32 product - exact dot product| of two unit vectors, plus the rounding of a bar to float32.

    In any order of summation, fused or not, the error is at most gamma_d |a|'|b| with gamma_d = d u / (1 - d u) (Higham, Accuracy
    and Stability of Numerical Algorithms, 2nd ed., section 3.1), and |a|'|b| <= 1 up to rounding. The bound is about 3e-5 at d =
    512; errors seen are about 1e-7, but a few more pairs in doubt cost less than a rank that depends on the machine.
    """
    unit_roundoff = 2.0**-24
    return width * unit_roundoff / (1 - width * unit_roundoff) + 4 * unit_roundoff


# Of scores (r, c), how many reach each text's bar for certain, (r,), and each image's, (c,), and the rows and columns of those
# that are too near a bar to tell.
CountReached = Callable[["Tensor", Bars, Bars], tuple["Tensor", "Tensor", "Tensor", "Tensor"]]


def _reached(scores: Tensor, texts: Bars, images: Bars, owner: Tensor, real: int, count: CountReached) -> tuple[Tensor, Tensor]:
    """Count the images that reach each text's bar, (r,), and the texts that reach each image's bar, (c,), own pairs left out.

    scores: room for the product. owner: (r,), the place of each text's image, if it is among these. real: how many images there
    are before those that only fill up.
    """
    import torch

    product = scores[: len(owner) * len(images.rows)].view(len(owner), -1)
    torch.mm(texts.rows, images.rows.T, out=product)
    own = ((owner >= 0) & (owner < len(images.rows))).nonzero()[:, 0]

    def leave_out(product: Tensor) -> None:
        product[own, owner[own]] = -torch.inf
        product[:, max(real, 0) :] = -torch.inf

    leave_out(product)
    by_text, by_image, rows, columns = count(product, texts, images)
    if len(rows) * _DENSE > product.numel():  # a collapsed encoder: nearly everything is tied
        exact = texts.rows.double() @ images.rows.double().T
        leave_out(exact)
        return (exact >= texts.bars[:, None]).sum(1, dtype=torch.int32), (exact >= images.bars).sum(0, dtype=torch.int32)
    near, exact = product[rows, columns], _score_pairs(texts.rows, images.rows, rows, columns)

    def settled(side: Bars, places: Tensor) -> Tensor:
        reached = (near < side.sure[places]) & (exact >= side.bars[places])
        return torch.bincount(places[reached], minlength=len(side.rows))

    return by_text + settled(texts, rows), by_image + settled(images, columns)


def _count(scores: Tensor, texts: Bars, images: Bars) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A `CountReached` by torch, on any device."""
    import torch

    by_text, by_image = scores >= texts.sure[:, None], scores >= images.sure
    doubts = (scores >= texts.perhaps[:, None]).logical_xor_(by_text)
    doubts |= (scores >= images.perhaps).logical_xor_(by_image)
    rows, columns = doubts.nonzero().unbind(1)
    # torch's sum of truths takes 15 times as long in its default, int64.
    return by_text.sum(1, dtype=torch.int32), by_image.sum(0, dtype=torch.int32), rows, columns


@cache
def _counting() -> CountReached:
    """A `CountReached` by numba, where it is installed: all in one read of the scores."""
    return import_module("harness.retrieval.ranking_numba").count_reached if find_spec("numba") else _count


def _slices(length: int, size: int) -> Iterator[slice]:
    """Cut range(length) into runs of `size`."""
    return (slice(start, start + size) for start in range(0, length, size))
