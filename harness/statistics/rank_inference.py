"""Confidence sets for ranks: rows whose differences are not significant share a rank.

All pairwise differences between the rows are tested together. Their simultaneous confidence intervals come from the bootstrap
distribution of the largest |t| over all pairs, so that with 95 % probability all of them contain the true differences. They give
simultaneous confidence sets for the ranks (Mogstad, Romano, Shaikh and Wilhelm, "Inference for Ranks with
Applications to Mobility across Neighbourhoods and Academic Achievement across Countries", Review of Economic Studies 91(1), 2024,
doi:10.1093/restud/rdad006; the single-step version of their section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.core.data import Doubles


@dataclass(frozen=True)
class RankInterval:
    """The confidence set of a rank.

    first: 1 + the number of rows that are significantly better. last: the number of rows minus the significantly worse ones.
    """

    first: int
    last: int


def rank_intervals(estimates: Doubles, resampled: Doubles, level: float = 0.95) -> list[RankInterval]:
    """Return the confidence sets of the ranks of p rows. The row with the highest estimate has rank 1.

    estimates: (p,). resampled: (r, p), the estimates in r bootstrap resamples, which share their draws of images. A row is
    significantly better than another if the simultaneous interval of their difference is above 0.

    >>> draw = np.random.default_rng(0).normal(size=(1000, 3)) + [9.0, 0.0, 0.1]
    >>> rank_intervals(np.array([9.0, 0.0, 0.1]), draw)
    [RankInterval(first=1, last=1), RankInterval(first=2, last=3), RankInterval(first=2, last=3)]
    """
    p = len(estimates)
    centred = resampled - estimates
    spread = pairwise_standard_errors(resampled)
    largest = np.zeros(len(resampled))
    for row in range(p - 1):
        # The difference of two rows that hit the same images is 0 in every resample.
        others = row + 1 + np.flatnonzero(spread[row, row + 1 :])
        if len(others):
            ratios = np.abs(centred[:, others] - centred[:, row : row + 1]) / spread[row, others]
            np.maximum(largest, ratios.max(axis=1), out=largest)
    critical = np.quantile(largest, level, method="higher")
    better = estimates[None, :] - estimates[:, None] > critical * spread + 1e-9
    return [RankInterval(1 + int(better[row].sum()), p - int(better[:, row].sum())) for row in range(p)]


def pairwise_standard_errors(resampled: Doubles) -> Doubles:
    """Return the standard errors (p, p) of the differences between columns of (r, p).

    They are exactly 0 for columns that are equal up to rounding.

    >>> pairwise_standard_errors(np.array([[1.0, 1.0, 3.0], [2.0, 2.0, 2.0], [3.0, 3.0, 1.0]]))[0].tolist()
    [0.0, 0.0, 2.0]
    """
    covariance = np.atleast_2d(np.cov(resampled, rowvar=False))
    variances = np.diag(covariance)
    squares = variances[:, None] + variances - 2 * covariance
    squares[squares < 1e-12 * (variances[:, None] + variances) + 1e-18] = 0
    return np.sqrt(squares)


def significant_differences(estimates: Doubles, resampled: Doubles, level: float = 0.95) -> list[bool]:
    """Return which of p differences are significant, tested together by the bootstrap distribution of the largest |t|.

    estimates: (p,). resampled: (r, p).
    """
    centred = resampled - estimates
    spread = centred.std(axis=0, ddof=1)
    differing = spread > 1e-9
    largest = np.abs(centred[:, differing] / spread[differing]).max(axis=1) if differing.any() else np.zeros(1)
    critical = np.quantile(largest, level, method="higher")
    return [bool(each) for each in np.abs(estimates) > critical * spread + 1e-9]
