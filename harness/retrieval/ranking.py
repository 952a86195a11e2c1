"""Ranks of relevant items, with ties counted against the encoder, and hit rates.

A score is the dot product of two L2-normalised embeddings. The rank of a query is one plus the number of irrelevant items whose
score is at least the score of its best relevant item minus TOLERANCE. Ties therefore count against the encoder. An encoder with
the same output for all inputs has a hit rate of 0, not 100.

One float32 matrix product serves both directions, one tile of captions by images at a time. It decides the clear cases only.
Where a score is closer to its threshold than the error bound of the float32 product, the pair is scored again in float64. The
ranks are therefore those of the float64 score matrix. They do not depend on the tile, the number of threads, the device or BLAS.

A score may have a bias for each candidate (`CandidateBias`). It is a dot product too, with the bias as further dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from math import comb, isqrt
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from harness.core.data import Doubles, Floats, Ints, Ranks
from harness.core.errors import HarnessError
from harness.retrieval.cosines import check_one_space, exact_device, unit_tensor

if TYPE_CHECKING:
    from torch import Tensor

Params = ParamSpec("Params")
Result = TypeVar("Result")
TOLERANCE = 1e-6
"""The distance below the best relevant score within which an item counts as tied. Scores lie in [-1, 1].

Each component of an embedding is rounded twice to float32: by the encoder that stored it, and by the normalisation here. The
error of a unit vector is therefore at most 2u in norm, with u = 2**-24. A score involves two such vectors, and a comparison
involves two scores. Scores that are equal in exact arithmetic therefore differ by at most 8u = 4.8e-7 (Cauchy-Schwarz). The
tolerance of 1e-6 is twice this bound, and far below any meaningful difference. The rounding of the product itself does not enter
(see `float32_slack`).
"""
CUTOFFS = (1, 5, 10)
MISSED = np.iinfo(np.int32).max
"""The rank of a query without a hit: no candidate region matches its phrase, or its list of documents has no relevant one."""
_STRIPE = 1024  # pairs in float64 at once, few enough for the processor's cache
_OWN = 64  # captions that are scored with their own images at once. Captions of an image are adjacent, so few pairs are wasted.
PAIR_COST = 64  # scoring one pair in float64 costs as much as this number of scores of a float64 product
_WIDE = 64  # the number of images is padded with zero rows to a multiple: GPU products are slow for odd widths, such as 31,783
_CHUNK = {"cpu": 16 << 20, "cuda": 1 << 30}  # bytes of scores that fit the processor's cache, or that keep a GPU busy
NUMBA_MIN_SCORES = 1 << 24  # below this number of scores, torch finishes before numba is imported


@dataclass(frozen=True)
class CandidateBias:
    """What is added to the cosines of one direction before candidates are ranked.

    values: (c,), the bias of each candidate. queries: (q,), the queries whose scores receive it, None for all.
    """

    values: Doubles
    queries: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Biases:
    """The biases of both directions: of images for captions (t2i) and of captions for images (i2t)."""

    t2i: CandidateBias
    i2t: CandidateBias


def rank(
    images: Floats,
    texts: Floats,
    owner: Ints,
    *,
    biases: Biases | None = None,
    chunk: int | None = None,
    device: str = "cpu",
) -> Ranks:
    """Rank every image for every caption, and every caption for every image.

    images: (n, d) and texts: (m, d), embeddings in one space. They are normalised here. A zero row stays zero and ties with all.
    owner: (m,), the index of each caption's image. Other captions of the same image never count against it.
    biases: what is added to the cosines. None adds nothing.
    chunk: bytes of float32 scores in memory at once, a square tile. The default is 16 MiB on a processor and 1 GiB on a GPU.
    Counting needs about as much memory again, and up to five times as much if nearly all scores are tied. The inputs are also
    copied for normalisation, and once more for each biased direction.
    device: the device of the products, `cuda` or a processor.
    Raises HarnessError if shapes do not fit, an image has no caption, or an embedding is not finite. NaN loses every comparison,
    so a broken encoder would otherwise have a hit rate of 100.

    >>> eye = np.eye(3, dtype=np.float32)
    >>> rank(eye, eye, np.arange(3)).t2i.tolist()
    [1, 1, 1]
    >>> rank(eye, np.ones_like(eye), np.arange(3)).t2i.tolist()
    [3, 3, 3]
    >>> favourite, none = CandidateBias(np.array([0.0, 0.0, 2.0])), CandidateBias(np.zeros(3))
    >>> rank(eye, eye, np.arange(3), biases=Biases(favourite, none)).t2i.tolist()
    [2, 2, 1]
    """
    import torch

    from harness.runtime.matmul import float32_matmul

    images, texts = np.asarray(images), np.asarray(texts)
    owners = torch.from_numpy(_checked_owner(np.asarray(owner), images, texts))
    device = exact_device(device)
    with torch.inference_mode(), float32_matmul(device):
        wide, long = unit_tensor(images, "image", _WIDE).to(device), unit_tensor(texts, "text").to(device)
        owners = owners.to(device)
        if biases is None:
            return _count_better(long, wide, owners, len(images), chunk)
        asked, found = _with_bias(long, wide[: len(images)], biases.t2i)
        t2i = _count_better(asked, _padded(found, len(wide)), owners, len(images), chunk, ("t2i",)).t2i
        asked, found = _with_bias(wide[: len(images)], long, biases.i2t)
        i2t = _count_better(found, _padded(asked, len(wide)), owners, len(images), chunk, ("i2t",)).i2t
        return Ranks(t2i, i2t)


def _count_better(
    long: Tensor, wide: Tensor, owners: Tensor, n: int, chunk: int | None, sides: tuple[str, ...] = ("t2i", "i2t")
) -> Ranks:
    """Return the ranks by the dot products of texts and images.

    long: (m, d), texts. wide: images, (n, d) and rows of padding. sides: the directions to rank; the ranks of others are 1.
    """
    import torch

    device, width = long.device, long.shape[1]
    own = _score_pairs(long, wide, torch.arange(len(long), device=device), owners)
    best = torch.full((len(wide),), -torch.inf, device=device, dtype=own.dtype).scatter_reduce(0, owners, own, "amax")
    slack = float32_slack(width) * max(1.0, float(long.norm(dim=1).max() * wide.norm(dim=1).max()))
    # No score reaches an infinite threshold, so that nothing counts in a direction that is not asked for.
    by_text = Bars.of(long, own if "t2i" in sides else torch.full_like(own, torch.inf), slack)
    by_image = Bars.of(wide, best if "i2t" in sides else torch.full_like(best, torch.inf), slack)
    few = n * len(long) < NUMBA_MIN_SCORES
    count = _count if device.type == "cuda" else single_threaded(_count) if few else _counting()

    side = max(isqrt((chunk or _CHUNK[device.type]) // 4), 1)
    scores = torch.empty(min(side, len(long)) * min(side, len(wide)), device=device)
    t2i, i2t = (torch.ones(len(rows), dtype=torch.int64, device=device) for rows in (long, wide))
    for rows in _slices(len(long), side):
        for columns in _slices(len(wide), side):
            own, real = owners[rows] - columns.start, n - columns.start
            reached = _reached(scores, by_text.cut(rows), by_image.cut(columns), own, real, count)
            t2i[rows] += reached[0]
            i2t[columns] += reached[1]
    return Ranks(t2i.cpu().numpy(), i2t[:n].cpu().numpy())


def _with_bias(queries: Tensor, candidates: Tensor, bias: CandidateBias) -> tuple[Tensor, Tensor]:
    """Return queries and candidates with two more dimensions, so that their dot products are the biased scores.

    A candidate has its bias there, as a sum of two float32 numbers, which is exact to 48 bits. A query has (1, 1) if its scores
    receive the bias, else (0, 0). A constant in all biases changes no rank, so the middle is subtracted to keep them small.
    """
    import torch

    device = candidates.device
    values = torch.from_numpy(np.asarray(bias.values, np.float64)).to(device)
    values = values - (values.max() + values.min()) / 2
    high = values.float()
    low = (values - high.double()).float()
    switch = torch.ones(len(queries)) if bias.queries is None else torch.from_numpy(bias.queries).float()
    switch = switch.to(device)[:, None]
    return torch.cat([queries, switch, switch], 1), torch.cat([candidates, high[:, None], low[:, None]], 1)


def _padded(rows: Tensor, length: int) -> Tensor:
    """Return the rows with rows of zeros up to a length."""
    import torch

    return torch.cat([rows, rows.new_zeros(length - len(rows), rows.shape[1])])


# Returns the float32 scores (r, c) of some captions with some images. Both are given by their indices.
ScoreFunction = Callable[[Ints, Ints], Floats]


def rank_by_score(
    score: ScoreFunction, owner: Ints, n: int, *, chunk: int = 64 << 20, observe: Callable[[Floats], None] | None = None
) -> Ranks:
    """Rank n images for every caption, and every caption for every image, by any score in [-1, 1].

    Ties are handled as in `rank`. owner: (m,), the index of each caption's image. chunk: bytes of scores in memory at once, at
    least those of one caption. observe: receives the scores (r, n) of all captions, some after another, in order.
    A pair of a caption and its image is scored twice: for the thresholds, and with all other pairs. Scores of two calls may
    therefore differ, but by far less than TOLERANCE, as rounding differs between products of two shapes.
    Raises HarnessError if an image has no caption.

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
        if observe:
            observe(scores)
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
    """Return the percentage (0-100) of queries whose best relevant item is among the first k.

    >>> hit_rate(np.array([1, 2, 7, 30]), 5)
    50.0
    """
    return float(100 * np.mean(ranks <= k))


def retrieval_scores(ranks: Ranks) -> dict[str, float]:
    """Return the six hit rates and their mean in percent, and the two median ranks.

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
    """Return the six expected hit rates of a uniformly random ranking, in percent.

    owner: (m,), the index of each caption's image among n. The text-to-image rate is k/n. The image-to-text rate of an image with
    c of the m captions is 1 - C(m-c, k) / C(m, k). It is averaged over images.

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
    """Return the probability that at least one of the relevant candidates is among k candidates drawn at random.

    >>> chance_of_hit(4, 1, 1), chance_of_hit(4, 1, 10), chance_of_hit(4, 0, 10)
    (0.25, 1.0, 0.0)
    """
    drawn = min(k, candidates)
    return 1 - comb(candidates - right, drawn) / comb(candidates, drawn)


def _checked_owner(owner: Ints, images: Floats, texts: Floats) -> Ints:
    """Return the owners as int64. Raises HarnessError if shapes do not fit, or if an image has no caption."""
    check_one_space(images, texts)
    if owner.shape != (len(texts),) or not np.issubdtype(owner.dtype, np.integer):
        raise HarnessError(f"owner must be one integer for each of the {len(texts)} texts, not {owner.dtype} {owner.shape}")
    return _all_owned(owner, len(images))


def _all_owned(owner: Ints, n: int) -> Ints:
    """Return the owners as int64. Raises HarnessError if an owner is not an image index, or if an image has no caption."""
    if owner.min() < 0 or owner.max() >= n:
        raise HarnessError(f"owner names images {owner.min()} to {owner.max()}, but they are numbered 0 to {n - 1}")
    bare = np.flatnonzero(np.bincount(owner, minlength=n) == 0)
    if bare.size:
        raise HarnessError(f"{bare.size} of {n} images have no caption, the first is number {bare[0]}: leave them out")
    return owner.astype(np.int64)


class Bars(NamedTuple):
    """Rows and the thresholds that an irrelevant item's score must reach to count against each row.

    rows: (k, d), vectors. bars: (k,), the thresholds, float64. sure: (k,), float32: a float32 score of at least this value
    certainly reaches the threshold. perhaps: (k,), float32: a float32 score below this value certainly does not.
    """

    rows: Tensor
    bars: Tensor
    sure: Tensor
    perhaps: Tensor

    @classmethod
    def of(cls, rows: Tensor, best: Tensor, slack: float) -> Bars:
        """Return the thresholds of rows. best: (k,), float64, the score of each row's best relevant item.

        slack: a bound on the error of a float32 score and of a threshold's rounding.
        """
        bars = best - TOLERANCE
        return cls(rows, bars, (bars + slack).float(), (bars - slack).float())

    def cut(self, part: slice) -> Bars:
        """Return the rows and thresholds of a slice."""
        return Bars(*(of[part] for of in self))


def single_threaded(work: Callable[Params, Result]) -> Callable[Params, Result]:
    """Return the function, run with one torch thread.

    In small functions, several threads wait for each other: 13 ms a call on a busy machine.
    """

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
    """Return the float64 scores of the given (text, image) pairs."""
    import torch

    out = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for part in _slices(len(rows), _STRIPE):
        out[part] = (texts[rows[part]].double() * images[columns[part]]).sum(1)
    return out


def float32_slack(width: int) -> float:
    """Return a bound on |float32 product - exact dot product| of two unit vectors, plus the rounding of a threshold to float32.

    In any order of summation, fused or not, the error is at most gamma_d |a|'|b| with gamma_d = d u / (1 - d u) (Higham, Accuracy
    and Stability of Numerical Algorithms, 2nd ed., section 3.1), and |a|'|b| <= 1 up to rounding. The bound is about 3e-5 at
    d = 512. Observed errors are about 1e-7. The loose bound costs a few more float64 pairs and makes ranks machine-independent.
    """
    unit_roundoff = 2.0**-24
    return width * unit_roundoff / (1 - width * unit_roundoff) + 4 * unit_roundoff


# Takes scores (r, c) and the thresholds of texts and images. Returns the number of scores that certainly reach each text's
# threshold, (r,), and each image's threshold, (c,), and the rows and columns of the uncertain scores.
CountReached = Callable[["Tensor", Bars, Bars], tuple["Tensor", "Tensor", "Tensor", "Tensor"]]


def _reached(scores: Tensor, texts: Bars, images: Bars, owner: Tensor, real: int, count: CountReached) -> tuple[Tensor, Tensor]:
    """Count the images that reach each text's threshold, (r,), and the texts that reach each image's threshold, (c,).

    A text and its own image are not counted. scores: a buffer for the product. owner: (r,), the column of each text's image, out
    of range if the image is in another tile. real: the number of images before the padding.
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
    if len(rows) * PAIR_COST > product.numel():  # nearly all scores of a collapsed encoder are tied
        exact = texts.rows.double() @ images.rows.double().T
        leave_out(exact)
        return (exact >= texts.bars[:, None]).sum(1, dtype=torch.int32), (exact >= images.bars).sum(0, dtype=torch.int32)
    near, exact = product[rows, columns], _score_pairs(texts.rows, images.rows, rows, columns)

    def settled(side: Bars, places: Tensor) -> Tensor:
        reached = (near < side.sure[places]) & (exact >= side.bars[places])
        return torch.bincount(places[reached], minlength=len(side.rows))

    return by_text + settled(texts, rows), by_image + settled(images, columns)


def _count(scores: Tensor, texts: Bars, images: Bars) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Count scores with torch, on any device (see `CountReached`)."""
    import torch

    by_text, by_image = scores >= texts.sure[:, None], scores >= images.sure
    doubts = (scores >= texts.perhaps[:, None]).logical_xor_(by_text)
    doubts |= (scores >= images.perhaps).logical_xor_(by_image)
    rows, columns = doubts.nonzero().unbind(1)
    # A sum of booleans takes 15 times as long with torch's default type, int64.
    return by_text.sum(1, dtype=torch.int32), by_image.sum(0, dtype=torch.int32), rows, columns


@cache
def _counting() -> CountReached:
    """Return the counter of numba, which reads the scores once, or the counter of torch if numba is not installed."""
    return import_module("harness.retrieval.ranking_numba").count_reached if find_spec("numba") else _count


def _slices(length: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of `size` that cover range(length)."""
    return (slice(start, start + size) for start in range(0, length, size))
