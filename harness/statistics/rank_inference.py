"""Ranks that say only what the data can tell: rows that cannot be told apart share one.

All pairwise differences between the rows are compared at once. Their simultaneous confidence intervals come from the bootstrap
distribution of the largest |t| over all pairs, so that with 95 % probability not one of them misses its true difference. From
these follow simultaneous confidence sets for the ranks (Mogstad, Romano, Shaikh and Wilhelm, "Inference for Ranks with
Applications to Mobility across Neighbourhoods and Academic Achievement across Countries", Review of Economic Studies 91(1), 2024,
doi:10.1093/restud/rdad006; the single-step version of their section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.core.data import Doubles


@dataclass(frozen=True)
class RankInterval:
    """The ranks that a row may have: one more than the rows found better, up to the number of rows less those found worse."""

    first: int
    last: int


def rank_intervals(estimates: Doubles, resampled: Doubles, level: float = 0.95) -> list[RankInterval]:
    """Ranks of p rows, the highest estimate first.

    estimates: (p,). resampled: (r, p), the same in r bootstrap resamples, each of one draw of images for all rows. A row is
    better than another where the simultaneous interval of their difference lies above 0.

    >>> draw = np.random.default_rng(0).normal(size=(1000, 3)) + [9.0, 0.0, 0.1]
    >>> rank_intervals(np.array([9.0, 0.0, 0.1]), draw)
    [Standing(first=1, last=1), Standing(first=2, last=3), Standing(first=2, last=3)]
    """
    p = len(estimates)
    centred = resampled - estimates
    spread = pairwise_standard_errors(resampled)
    largest = np.zeros(len(resampled))
    for row in range(p - 1):
        # Rows that hit the very same images differ by nothing in every resample.
        others = row + 1 + np.flatnonzero(spread[row, row + 1 :])
        if len(others):
            ratios = np.abs(centred[:, others] - centred[:, row : row + 1]) / spread[row, others]
            np.maximum(largest, ratios.max(axis=1), out=largest)
    critical = np.quantile(largest, level, method="higher")
    better = estimates[None, :] - estimates[:, None] > critical * spread + 1e-9
    return [RankInterval(1 + int(better[row].sum()), p - int(better[:, row].sum())) for row in range(p)]


def pairwise_standard_errors(resampled: Doubles) -> Doubles:
    """Standard errors (p, p) of the differences between columns of (r, p); exactly 0 where two are the same but for rounding.

    >>> pairwise_standard_errors(np.array([[1.0, 1.0, 3.0], [2.0, 2.0, 2.0], [3.0, 3.0, 1.0]]))[0].tolist()
    [0.0, 0.0, 2.0]
    """
    covariance = np.atleast_2d(np.cov(resampled, rowvar=False))
    variances = np.diag(covariance)
    squares = variances[:, None] + variances - 2 * covariance
    squares[squares < 1e-12 * (variances[:, None] + variances) + 1e-18] = 0
    return np.sqrt(squares)


def significant_differences(estimates: Doubles, resampled: Doubles, level: float = 0.95) -> list[bool]:
    """Which of p differences are not 0, all tested at once by the bootstrap distribution of their largest |t|.

    estimates: (p,). resampled: (r, p).
    """
    centred = resampled - estimates
    spread = centred.std(axis=0, ddof=1)
    differing = spread > 1e-9
    largest = np.abs(centred[:, differing] / spread[differing]).max(axis=1) if differing.any() else np.zeros(1)
    critical = np.quantile(largest, level, method="higher")
    return [bool(apart) for apart in np.abs(estimates) > critical * spread + 1e-9]
