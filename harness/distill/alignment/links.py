"""Links between the tokens of sentence pairs: two directions made one, and counts of the links of two vocabularies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from scipy import sparse

from harness.distill.alignment.cooccurrence import Sparse, divide_rows
from harness.distill.alignment.token_bitext import TokenPairs

Link: TypeAlias = tuple[int, int]
"""The positions i and j of two tokens of a sentence pair."""

_AROUND = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]


def grow_diag_final_and(one: set[Link], other: set[Link]) -> set[Link]:
    """Return one alignment of a sentence pair from those of two directions (Koehn, Och and Marcu 2003).

    It starts from the links of both. Links of either are added, in order and until none is left to add, if they are beside or
    diagonal to a link and if a token of theirs has no link. In the end, first of `one` and then of `other`, links are added of
    which neither token has a link.

    >>> sorted(grow_diag_final_and({(0, 0), (1, 1), (3, 3)}, {(0, 0), (1, 0), (5, 3)}))
    [(0, 0), (1, 0), (1, 1), (3, 3)]
    """
    links = one & other
    rows, columns = {i for i, _ in links}, {j for _, j in links}

    def add(link: Link) -> None:
        links.add(link)
        rows.add(link[0])
        columns.add(link[1])

    waiting, grows = sorted((one | other) - links), True
    while grows:
        left = []
        for i, j in waiting:
            if (i in rows and j in columns) or not any((i + a, j + b) in links for a, b in _AROUND):
                left.append((i, j))
            else:
                add((i, j))
        waiting, grows = left, len(left) < len(waiting)
    for direction in (one, other):
        for i, j in sorted(direction - links):
            if i not in rows and j not in columns:
                add((i, j))
    return links


def count_links(pairs: TokenPairs, links: Sequence[Iterable[Link]], sizes: tuple[int, int]) -> Sparse:
    """Return how often tokens are linked (f, e). links: of each pair, the positions of a foreign and an English token.

    >>> count_links([((2, 0), (1, 1))], [[(0, 0), (0, 1)]], (3, 2)).toarray().tolist()
    [[0.0, 0.0], [0.0, 0.0], [0.0, 2.0]]
    """
    found = [(foreign[i], english[j]) for (foreign, english), own in zip(pairs, links, strict=True) for i, j in own]
    rows, columns = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return sparse.csr_array(sparse.coo_array((np.ones(len(found)), (rows, columns)), shape=sizes))


def one_each(entries: Mapping[int, int], shape: tuple[int, int]) -> Sparse:
    """Return a matrix with 1 in the column of each row that a mapping gives.

    >>> one_each({1: 0}, (2, 2)).toarray().tolist()
    [[0.0, 0.0], [1.0, 0.0]]
    """
    rows, columns = np.array(list(entries.items()), dtype=np.int64).reshape(-1, 2).T
    return sparse.csr_array(sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=shape))


def link_weights(counts: Sparse) -> Sparse:
    """Return W_fe = c_fe / sum_k c_fk of counts c (f, e). Rows without links stay empty."""
    return divide_rows(counts, counts.sum(1))
