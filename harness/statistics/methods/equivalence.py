"""Equivalence of two towers: two one-sided tests against a margin."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from typing import NamedTuple

from scipy.special import ndtr, stdtr


class OneSided(NamedTuple):
    """The p-values of two one-sided tests. below: of a difference of at most -margin. above: of one of at least +margin."""

    below: float
    above: float

    @property
    def p_value(self) -> float:
        """The p-value of equivalence: both hypotheses must be rejected."""
        return max(self)


def one_sided_tests(estimate: float, error: float, freedom: float, margin: float) -> OneSided:
    """Return the two one-sided tests of |difference| < margin (Schuirmann 1987, J. Pharmacokinetics and Biopharmaceutics 15).

    estimate, error: the difference and its standard error, over images and seeds. freedom: its degrees of freedom, infinite for
    the normal distribution. An unknown error gives NaN. An error of 0 gives 0 or 1.

    >>> one_sided_tests(0.0, 1.0, float("inf"), 1.959963984540054)
    OneSided(below=0.025, above=0.025)
    """
    if not isfinite(error):
        return OneSided(nan, nan)
    if error == 0:
        return OneSided(float(estimate <= -margin), float(estimate >= margin))
    scores = ((-estimate - margin) / error, (estimate - margin) / error)
    below, above = (float(ndtr(score) if freedom == float("inf") else stdtr(freedom, score)) for score in scores)
    return OneSided(round(below, 15), round(above, 15))


def equivalence_to_best(tests: Sequence[OneSided]) -> float:
    """Return the p-value of equivalence with the best of k others. tests: against each of them.

    An arm is within the margin below the best if it is within the margin below each (the largest p-value). It is within the
    margin above the best if it is so above some (the smallest p-value times k).

    >>> equivalence_to_best([OneSided(0.01, 0.02), OneSided(0.03, 0.01)])
    0.03
    """
    below = max(test.below for test in tests)
    return max(below, min(1.0, len(tests) * min(test.above for test in tests)))
