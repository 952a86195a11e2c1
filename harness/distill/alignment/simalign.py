"""SimAlign: links between tokens whose states in an encoder are similar (Jalili Sabet et al., Findings of EMNLP 2020).

S_ij = (1 + cos(x_i, y_j)) / 2 between the states x (n, d) and y (m, d) of the two sentences of a pair.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from harness.core.data import Doubles, Floats
from harness.distill.alignment.links import Link
from harness.runtime.vectors import unit_rows

# Of itermax: the factor of the similarity of a linked token with others, and the rounds.
DISCOUNT, ROUNDS_OF_ITERMAX = 0.9, 2
# Sentences with fewer tokens have one round.
FEWEST_TOKENS = 3


def state_similarities(foreign: Floats, english: Floats) -> Doubles:
    """Return S (n, m) of states (n, d) and (m, d)."""
    cosines: Doubles = unit_rows(foreign) @ unit_rows(english).T
    return (1 + cosines) / 2


def links_of(matrix: Doubles) -> set[Link]:
    """Return the places of the entries of a matrix that are not 0."""
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(matrix), strict=True)}


def mutual_best(similarities: Doubles) -> Doubles:
    """Return a matrix (n, m) with 1 where an entry is the first largest of its row and of its column."""
    best = np.zeros_like(similarities)
    rows = similarities.argmax(1)
    kept = similarities.argmax(0)[rows] == np.arange(len(rows))
    best[kept, rows[kept]] = 1
    return best


def argmax_links(similarities: Doubles) -> set[Link]:
    """Return the tokens that are each other's most similar one.

    >>> sorted(argmax_links(np.array([[0.9, 0.8], [0.7, 0.1]])))
    [(0, 0)]
    """
    return links_of(mutual_best(similarities))


def itermax_links(similarities: Doubles) -> set[Link]:
    """Return the links of `argmax_links`, and those of a second round among tokens of which at most one has a link.

    In the second round the similarities of a token that has a link count DISCOUNT of themselves. There is none if all tokens of a
    side have links.

    >>> sorted(itermax_links(np.array([[0.9, 0.85, 0.1], [0.8, 0.2, 0.1], [0.1, 0.2, 0.5]])))
    [(0, 0), (0, 1), (1, 0), (2, 2)]
    """
    links = mutual_best(similarities)
    if min(similarities.shape) < FEWEST_TOKENS:
        return links_of(links)
    for _ in range(ROUNDS_OF_ITERMAX - 1):
        rows, columns = (np.asarray(links.any(axis)) for axis in (1, 0))
        if rows.all() or columns.all():
            break
        factors = np.where(rows[:, None] & columns, 0.0, np.where(rows[:, None] | columns, DISCOUNT, 1.0))
        links = np.maximum(links, mutual_best(similarities * factors) * (factors > 0))
    return links_of(links)


def match_links(similarities: Doubles) -> set[Link]:
    """Return the one-to-one links with the largest sum of similarities, min(n, m) of them.

    >>> sorted(match_links(np.array([[0.9, 0.8], [0.7, 0.1]])))
    [(0, 1), (1, 0)]
    """
    rows, columns = linear_sum_assignment(similarities, maximize=True)
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


LINK_RULES: dict[str, Callable[[Doubles], set[Link]]] = {
    "argmax": argmax_links,
    "itermax": itermax_links,
    "match": match_links,
}
"""The rules by their name in `--init simalign:NAME`."""
