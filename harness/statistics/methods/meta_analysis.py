"""Random-effects meta-analysis of one difference over several languages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import chdtrc, stdtrit

from harness.core.errors import HarnessError


class RandomEffects(NamedTuple):
    """The mean difference over a population of languages, of which those at hand are a sample.

    low, high: its 95 % interval. tau: standard deviation between languages. q, p_heterogeneity: Cochran's test that all languages
    have one difference. i_squared: share of the variation that is not sampling error, from 0 to 1.
    """

    estimate: float
    low: float
    high: float
    tau: float
    q: float
    p_heterogeneity: float
    i_squared: float


def random_effects(estimates: Sequence[float], errors: Sequence[float]) -> RandomEffects:
    """Return the random-effects mean of k differences with known standard errors.

    The variance between languages is DerSimonian and Laird's (1986, Controlled Clinical Trials 7). The interval is Hartung and
    Knapp's (2001, Statistics in Medicine 20) with k - 1 degrees of freedom. Both take the k differences as independent. Languages
    that are measured on the same images are correlated, mostly positively, so that Q is then too small.
    Raises HarnessError for fewer than two differences, and for an error that is not positive.

    >>> found = random_effects([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
    >>> [round(number, 3) for number in found]
    [2.0, -0.484, 4.484, 0.866, 8.0, 0.018, 0.75]
    """
    effects, variances = np.asarray(estimates, np.float64), np.square(np.asarray(errors, np.float64))
    count = len(effects)
    if count < 2 or not (np.isfinite(effects).all() and np.isfinite(variances).all() and (variances > 0).all()):
        raise HarnessError(f"a meta-analysis needs two or more differences with positive errors, not {list(errors)}")
    weights = 1 / variances
    fixed = float(weights @ effects / weights.sum())
    q = float(weights @ np.square(effects - fixed))
    scale = float(weights.sum() - np.square(weights).sum() / weights.sum())
    tau_squared = max(0.0, (q - (count - 1)) / scale)
    weights = 1 / (variances + tau_squared)
    mean = float(weights @ effects / weights.sum())
    spread = float(weights @ np.square(effects - mean) / (count - 1))
    # A spread below 1 would make the interval shorter than that of sampling error alone (Jackson et al. 2017).
    error = float(np.sqrt(max(1.0, spread) / weights.sum()))
    out = float(stdtrit(count - 1, 0.975)) * error
    share = max(0.0, (q - (count - 1)) / q) if q > 0 else 0.0
    return RandomEffects(mean, mean - out, mean + out, float(np.sqrt(tau_squared)), q, float(chdtrc(count - 1, q)), share)
