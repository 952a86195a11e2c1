"""The wording of test results. Runs, comparisons, boards and studies use the same words.

"No difference" is stated by an equivalence test alone. A difference that is not significant is inconclusive, and its confidence
interval says which differences are compatible with the data.
"""

from __future__ import annotations

import math

from harness.statistics.inference import ALPHA

INCONCLUSIVE = "inconclusive"
ONE_SEED = "One seed: the tests are about these towers, not about the methods that made them. Other seeds may differ."
SEVERAL_SEEDS = "A seed varies the subset of the sentence pairs, the initial weights and the order of batches."
"""What a seed varies. With all pairs the subset is the same."""


def verdict_text(p_adjusted: float, low: float, high: float, unit: str = "points") -> str:
    """Return the result of a test. p_adjusted: after Holm. low, high: the 95 % confidence interval, NaN if there is none.

    >>> verdict_text(0.0123, 0.4, 3.25)
    'differs (Holm-adjusted p = 0.0123, 95 % CI [+0.4, +3.2])'
    >>> verdict_text(0.31, -0.4, 3.2), verdict_text(1.0, math.nan, math.nan)
    ('inconclusive: compatible with -0.4 to +3.2 points', 'inconclusive')
    """
    known = not math.isnan(low)
    if p_adjusted < ALPHA:
        interval = f", 95 % CI [{low:+.1f}, {high:+.1f}]" if known else ""
        return f"differs (Holm-adjusted p {p_relation(p_adjusted)}{interval})"
    return f"{INCONCLUSIVE}: compatible with {low:+.1f} to {high:+.1f} {unit}" if known else INCONCLUSIVE


def p_relation(p: float) -> str:
    """Format a p-value behind the letter p.

    >>> p_relation(0.0312), p_relation(0.00001), p_relation(1.0)
    ('= 0.0312', '< 0.001', '= 1')
    """
    return "< 0.001" if p < 0.001 else f"= {p:.3g}"


def equivalent_text(margin: float) -> str:
    """Return the result of a significant equivalence test.

    >>> equivalent_text(1.5)
    'equivalent within ±1.5'
    """
    return f"equivalent within ±{margin:g}"
