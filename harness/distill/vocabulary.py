"""From which of the teacher's tokens the first embedding of each foreign subword is made, told by the bitext alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from harness.distill.tower import Tokens
from harness.distill.transport import Solver, solve

Doubles: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
# A `scipy.sparse.csr_array` of float64: scipy has no types.
Sparse: TypeAlias = Any
Alignment: TypeAlias = Literal["association", "ibm1", "ot-vocabulary", "ot-sentences"]

# Chosen before any training step: by translation retrieval on held-out pairs, ROUNDS and what they end in on val images
# (docs/decisions.md).
POWER, FIRMNESS = 3.0, 0.8
ROUNDS, POWER_OF_ROUNDS = 4, 2.0
ITERATIONS, TOLERANCE = 1000, 1e-9
# Of tokens in a sentence pair that are associated with others of it, but not with each other: exp(-25) is nothing.
FARTHEST = 25.0
# Of a token's mass; what is less is left out.
LEAST = 1e-4
PAIRS_AT_ONCE = 256


def alignment(foreign: Tokens, english: Tokens, sizes: tuple[int, int], way: Alignment) -> Sparse:
    """Weights W (f, e) of the teacher's e tokens in the embedding of each of f subwords, from n sentence pairs of token ids.

    A row sums to 1, or is empty where the bitext associates its subword with nothing. The order of the pairs makes no difference.

    - `association`: the kernel of that name, sharpened by POWER.
    - `ot-vocabulary`: the kernel is first scaled to how often the tokens stand in the texts (`balance`): an English token that
      many subwords are associated with is then taken by those that have nothing better.
    - `ot-sentences`: that plan is made anew ROUNDS times, by transport within each sentence pair (`realigned`), and sharpened by
      POWER_OF_ROUNDS.
    - `ibm1`: the same rounds without transport, from the kernel as it is and by IBM's Model 1 within each pair.
    """
    counts = [occurrences(texts, size) for texts, size in zip((foreign, english), sizes, strict=True)]
    plan = association(*counts)
    if plan.nnz and way.startswith("ot-"):
        plan = balance(plan, counts[0].sum(0), counts[1].sum(0))
    if not plan.nnz or way in ("association", "ot-vocabulary"):
        return sharpen(plan, POWER)
    # The order decides how sums are rounded.
    pairs = sorted(zip(map(tuple, foreign), map(tuple, english), strict=True), key=lambda pair: (len(pair[0]), pair))
    for _ in range(ROUNDS):
        plan = realigned(plan, pairs, posterior if way == "ibm1" else transported)
    return sharpen(plan, POWER_OF_ROUNDS)


def occurrences(texts: Tokens, vocabulary: int) -> Sparse:
    """How often each token stands in each text: (n, vocabulary)."""
    rows = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    ids = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
    return sparse.csr_array((np.ones(len(ids)), (rows, ids)), shape=(len(texts), vocabulary))


def association(foreign: Sparse, english: Sparse) -> Sparse:
    """How strongly tokens of n sentence pairs go together, from their occurrences (n, f) and (n, e): a kernel (f, e).

    K = Dice * max(PMI, 0), with Dice = 2 c / (c_f + c_e) and PMI = log(n c / (c_f c_e)), where c_f and c_e count the pairs in
    which a token stands, and c those in which both stand. Tokens that stand in every pair (the framing) go with none.
    PMI after Church and Hanks (1990), Dice after Smadja et al. (1996).
    """
    pairs = foreign.shape[0]
    foreign, english = foreign.sign(), english.sign()
    both = sparse.coo_array(foreign.T @ english)
    of_foreign, of_english = foreign.sum(0)[both.row], english.sum(0)[both.col]
    dice = 2 * both.data / (of_foreign + of_english)
    # Products of whole numbers are exact, and so is their ratio's logarithm where it is 0.
    pmi = np.log(pairs * both.data / (of_foreign * of_english))
    kernel = sparse.csr_array((dice * np.maximum(pmi, 0), (both.row, both.col)), shape=both.shape)
    kernel.eliminate_zeros()
    return kernel


def balance(kernel: Sparse, rows: Doubles, columns: Doubles, firmness: float = FIRMNESS) -> Sparse:
    """The plan P = diag(u) K diag(v) of a kernel K (f, e) whose row and column sums are held to the given ones.

    P minimises KL(P | K) + m KL(P 1 | a) + m KL(P' 1 | b), a and b being `rows` (f,) and `columns` (e,) in proportion, without
    those that K has no entries in: u = (a / K v)^r, v = (b / K' u)^r, r = `firmness` = m / (m + 1) (Chizat et al. 2018). At 1
    the sums are met (Sinkhorn; Cuturi 2013), wherever K's zeros leave a plan that does; below 1 there always is one limit.
    """
    by_column = sparse.csr_array(kernel.T)
    rows, columns = (np.where(sums > 0, wanted, 0.0) for sums, wanted in ((kernel.sum(1), rows), (kernel.sum(0), columns)))
    rows, columns = rows / rows.sum(), columns / columns.sum()
    v, sums = np.ones(len(columns)), np.zeros(len(rows))
    for _ in range(ITERATIONS):
        u = ratio(rows, kernel @ v) ** firmness
        v = ratio(columns, by_column @ u) ** firmness
        before, sums = sums, u * (kernel @ v)
        if np.abs(sums - before).sum() < TOLERANCE * sums.sum():
            break
    return sparse.csr_array(sparse.diags_array(u) @ kernel @ sparse.diags_array(v))


def realigned(plan: Sparse, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], shared: Callable[[Doubles], Doubles]) -> Sparse:
    """How much mass each foreign token shares with each English one, added up over the sentence pairs that they stand in.

    shared: what the tokens of B pairs share with each other, (B, n, m), from how often they go together by a plan P (f, e) over
    the vocabulary against chance, lift_ij = P_ij / (sum_k P_ik sum_k P_kj), (B, n, m). 0 stays 0.
    """
    lift = sparse.csr_array(sparse.diags_array(ratio(np.ones(plan.shape[0]), plan.sum(1))) @ plan)
    lift = sparse.csr_array(lift @ sparse.diags_array(ratio(np.ones(plan.shape[1]), plan.sum(0))))
    entries, parts = looked_up(lift), []
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        x, y = (padded(side) for side in zip(*pairs[first : first + PAIRS_AT_ONCE], strict=True))
        lifts = entries(x, y)
        some = lifts.any((1, 2))
        if not some.any():
            continue
        x, y, masses = x[some], y[some], shared(lifts[some])
        pair, i, j = np.nonzero(masses > LEAST)
        parts.append((masses[pair, i, j], x[pair, i], y[pair, j]))
    masses, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sparse.csr_array(sparse.coo_array((masses, (rows, columns)), shape=plan.shape))


def transported(lifts: Doubles) -> Doubles:
    """Plans (B, n, m) of unbalanced transport at costs -log lift, less the lowest of each pair, at eps 1.

    So tokens compete for each other within their sentence, as in IBM's Model 1, but on both sides. Marginals are even over the
    tokens that go with any of the other side, and as loose as in `balance`. A pair weighs as much as its shorter side has such
    tokens.
    """
    rows, columns = lifts.any(2), lifts.any(1)
    with np.errstate(divide="ignore"):
        cost = np.minimum(-np.log(lifts / lifts.max((1, 2), keepdims=True)), FARTHEST)
    solver = Solver("unbalanced", eps=1.0, rho=FIRMNESS / (1 - FIRMNESS))
    plans: Doubles = solve(torch.from_numpy(cost), torch.from_numpy(rows), torch.from_numpy(columns), solver).plan.numpy()
    shorter: Ints = np.minimum(rows.sum(1), columns.sum(1))
    return plans * shorter[:, None, None]


def posterior(lifts: Doubles) -> Doubles:
    """Which English token each foreign one translates by IBM's Model 1: its lifts over their sum (Brown et al. 1993, eq. 13).

    The model's t(f | e) is P_fe / sum_k P_ke; a foreign token's own frequency, by which a lift differs from it, cancels.
    """
    sums: Doubles = lifts.sum(2, keepdims=True)
    return ratio(lifts, np.broadcast_to(sums, lifts.shape))


def padded(texts: Tokens) -> Ints:
    """Token ids (B, L) of B texts, and -1 after their ends."""
    out = np.full((len(texts), max(map(len, texts))), -1)
    for row, text in zip(out, texts, strict=True):
        row[: len(text)] = text
    return out


def looked_up(matrix: Sparse) -> Callable[[Ints, Ints], Doubles]:
    """What gives the entries (B, n, m) of a csr matrix at all pairs of rows (B, n) and columns (B, m); 0 where either is -1.

    >>> entries = looked_up(sparse.csr_array(np.array([[1.0, 2.0], [0.0, 3.0]])))
    >>> entries(np.array([[1, 0]]), np.array([[0, 1, -1]])).tolist()
    [[[0.0, 3.0, 0.0], [1.0, 2.0, 0.0]]]
    """
    matrix, width = matrix.sorted_indices(), matrix.shape[1]
    keys = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)) * width + matrix.indices

    def entries(rows: Ints, columns: Ints) -> Doubles:
        rows, columns = rows[:, :, None], columns[:, None, :]
        wanted = np.where((rows < 0) | (columns < 0), -1, rows * width + columns)
        places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[places] == wanted, matrix.data[places], 0.0)

    return entries


def ratio(part: Doubles, whole: Doubles) -> Doubles:
    """part / whole, and 0 where the whole is."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def sharpen(plan: Sparse, power: float) -> Sparse:
    """Weights W_ij = P_ij^power / sum_k P_ik^power. Rows without an entry stay empty."""
    ones = np.ones(plan.shape[0])
    # Relative to the row's largest, so that no power of a small number is lost.
    weights = sparse.csr_array(sparse.diags_array(ratio(ones, plan.max(axis=1).toarray())) @ plan)
    weights.data **= power
    return sparse.csr_array(sparse.diags_array(ratio(ones, weights.sum(1))) @ weights)


def embed(weights: Sparse, known: Doubles) -> Doubles:
    """Embeddings (f, width) of subwords with weights W (f, e), none of them empty, over known ones X (e, width).

    A mean of many lies near the mean of all, mu. Each is therefore moved along its own line from mu, to the known ones' median
    distance: mu + (W X - mu) * median_j |X_j - mu| / |W X - mu|.
    """
    centre = known.mean(0)
    usual = np.median(np.linalg.norm(known - centre, axis=1))
    offsets = weights @ known - centre
    distances = np.linalg.norm(offsets, axis=1)
    moved: Doubles = centre + offsets * ratio(np.full_like(distances, usual), distances)[:, None]
    return moved
