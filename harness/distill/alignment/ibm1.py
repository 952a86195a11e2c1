"""The rules `ibm1` and `ibm1-agreed`: IBM's Model 1, without transport."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from harness.core.data import Doubles
from harness.distill.alignment.cooccurrence import Sparse, safe_ratio
from harness.distill.alignment.fast_align import (
    ITERATIONS,
    Grid,
    Joint,
    Table,
    estimate_table,
    joint_probabilities,
    make_cells,
    posteriors,
    uniform_table,
)
from harness.distill.alignment.realignment import ROUND_SHARPENING, realigned_weights, sharpen
from harness.distill.alignment.token_bitext import TokenizedBitext


def model1_weights(bitext: TokenizedBitext) -> Sparse:
    """Return the expected counts of IBM's Model 1, sharpened (f, e): the control of `sentence_transport_weights`."""
    return realigned_weights(bitext.kernel, bitext.sorted_pairs, model1_posterior)


def model1_posterior(lifts: Doubles) -> Doubles:
    """Return the posterior of each foreign token's English token under IBM's Model 1 (Brown et al. 1993, eq. 13).

    It is a token's lifts (B, n, m) over their sum. The model's t(f | e) is P_fe / sum_k P_ke. A foreign token's own frequency,
    by which a lift differs from it, cancels.
    """
    sums: Doubles = lifts.sum(2, keepdims=True)
    return safe_ratio(lifts, np.broadcast_to(sums, lifts.shape))


def agreed_model1_weights(bitext: TokenizedBitext) -> Sparse:
    """Return the expected counts of two models that agree, sharpened (f, e)."""
    pairs = bitext.sorted_pairs
    if not any(foreign and english for foreign, english in pairs):
        return sparse.csr_array(bitext.sizes)
    cells = make_cells(pairs)
    agreed = agreed_posterior(cells.forward, cells.backward)
    counts = np.bincount(cells.forward.entry, agreed, len(cells.foreign))
    return sharpen(sparse.csr_array((counts, (cells.foreign, cells.english)), shape=bitext.sizes), ROUND_SHARPENING)


def agreed_posterior(forward: Grid, backward: Grid) -> Doubles:
    """Return the product of the posteriors of Model 1 in both directions, of each cell (C,), after ITERATIONS iterations.

    Each model has a NULL token that is as likely as each source token. Both tables are estimated from the product, so that the
    models are trained to agree (Liang, Taskar and Klein, NAACL 2006, section 4.2), and NULL from its own posterior.
    """
    tables = uniform_table(forward), uniform_table(backward)
    for _ in range(ITERATIONS):
        one, other = (model1_null_posterior(*way) for way in zip((forward, backward), tables, strict=True))
        agreed = one.cells * other.cells
        tables = (
            estimate_table(forward, Joint(agreed, one.null)),
            estimate_table(backward, Joint(agreed, other.null)),
        )
    return agreed


def model1_null_posterior(grid: Grid, table: Table) -> Joint:
    """Return the posterior of Model 1 with a NULL token: a_j is NULL or any of n source tokens with the same probability."""
    alike = 1 / (grid.shapes[:, 1] + 1)
    of_tokens = np.repeat(alike, grid.shapes[:, 0])
    return posteriors(grid, joint_probabilities(grid, table, of_tokens[grid.token], of_tokens))
