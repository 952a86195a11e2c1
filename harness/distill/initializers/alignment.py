"""Subword embeddings as weighted means of the teacher's English token embeddings, aligned by sentence pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, cast

import numpy as np
import torch
from scipy import sparse
from tokenizers import Tokenizer

from harness.core.config import DistillConfig
from harness.core.data import Bitext, Doubles, Ints
from harness.core.languages import ENGLISH
from harness.core.protocols import TextEncoder, TokenLocator
from harness.distill.data.bitext import MonolingualText
from harness.distill.data.subwords import subword_spans, tokenize
from harness.distill.initializers.cooccurrence import (
    MARGINAL_EXPONENT,
    Sparse,
    association,
    balance,
    divide_rows,
    occurrences,
    safe_ratio,
)
from harness.distill.initializers.distributional import DistributionalContext
from harness.distill.initializers.interface import LearnedSubwords
from harness.distill.initializers.orthography import Spelling, bitext_spelling
from harness.distill.initializers.teacher import layers_of, student_of_layers
from harness.distill.model.tower import TextTower, Tokens
from harness.distill.transport.problem import Solver
from harness.distill.transport.solvers import solve

TokenPairs: TypeAlias = Sequence[tuple[Sequence[int], Sequence[int]]]

# Chosen before any training step: by translation retrieval on held-out pairs; ROUNDS and POWER_OF_ROUNDS on val images
# (docs/decisions.md).
SHARPENING = 3.0
ROUNDS, ROUND_SHARPENING = 4, 2.0
LOOSE_MARGINALS = Solver("unbalanced", eps=1.0, rho=MARGINAL_EXPONENT / (1 - MARGINAL_EXPONENT))
# The largest cost, of tokens of a sentence pair that are associated with others of it but not with each other: exp(-25) is 0.
LARGEST_COST = 25.0
# Smaller shares of a token's mass are dropped.
SMALLEST_MASS = 1e-4
PAIRS_A_BATCH = 256


@dataclass(frozen=True)
class TokenizedBitext:
    """n sentence pairs as ids of f foreign subwords and e English tokens.

    spelling: strengthens the kernel for tokens that are spelled alike.
    context: the contexts of tokens in monolingual text and in the pairs.
    """

    foreign: Tokens
    english: Tokens
    sizes: tuple[int, int]
    spelling: Spelling | None = None
    context: DistributionalContext | None = None

    @cached_property
    def counts(self) -> tuple[Sparse, Sparse]:
        """The tokens' counts in each text, (n, f) and (n, e)."""
        return occurrences(self.foreign, self.sizes[0]), occurrences(self.english, self.sizes[1])

    @cached_property
    def kernel(self) -> Sparse:
        """The association kernel K (f, e), with larger entries for tokens of similar spelling."""
        kernel = association(*self.counts)
        return self.spelling.strengthen(kernel) if self.spelling else kernel

    @cached_property
    def sorted_pairs(self) -> TokenPairs:
        """The pairs in an order that they alone decide, since the order decides how sums are rounded."""
        pairs = zip(map(tuple, self.foreign), map(tuple, self.english), strict=True)
        return sorted(pairs, key=lambda pair: (len(pair[0]), pair))

    def balanced(self, kernel: Sparse) -> Sparse:
        """Return the plan (f, e) of a kernel whose marginals are the tokens' counts; see `balance`."""
        return balance(kernel, self.counts[0].sum(0), self.counts[1].sum(0))


class AlignedVocabulary(LearnedSubwords, ABC):
    """Copy the teacher's layers, and make subword embeddings of the teacher's English ones.

    A subword that is aligned with no English token keeps the random embedding of the initializer `teacher`.
    reads_contexts: whether `TokenizedBitext.context` is computed.
    """

    reads_contexts = False

    @abstractmethod
    def align(self, bitext: TokenizedBitext) -> Sparse:
        """Return `weights` for a kernel that has entries."""

    def weights(self, bitext: TokenizedBitext) -> Sparse:
        """Return weights W (f, e) of the teacher's tokens in the embedding of each subword.

        A row sums to 1, or is empty where the bitext associates its subword with nothing. The order of pairs changes no bit.
        """
        return self.align(bitext) if bitext.kernel.nnz else bitext.kernel

    @torch.no_grad()
    def student(
        self, teacher: TextEncoder, tokenizer: Tokenizer, config: DistillConfig, bitext: Bitext, text: MonolingualText
    ) -> TextTower:
        """Return the student. Raises HarnessError if the teacher cannot lend its layers."""
        donated = layers_of(teacher)
        student = student_of_layers(donated, tokenizer, config)
        known = donated.weights["token_embedding.weight"].double().numpy()
        sizes, longest = (student.config.vocab_size, len(known)), student.config.max_length
        ids = tokenize(tokenizer, bitext.foreign, longest), donated.tokenize(bitext.english)
        context, spelling = None, None
        if self.reads_contexts:
            more = tokenize(tokenizer, text.foreign, longest), donated.tokenize(text.english)
            context = DistributionalContext([*ids[0], *more[0]], [*ids[1], *more[1]], sizes)
        if config.spelling:
            places = cast(TokenLocator, teacher).locate_tokens(bitext.english, ENGLISH)
            spelling = bitext_spelling(bitext, ids, (subword_spans(tokenizer, bitext.foreign, longest), places), config.spelling)
        weights = self.weights(TokenizedBitext(*ids, sizes, spelling, context))
        rows = np.flatnonzero(np.diff(weights.indptr))
        student.token_embedding.weight[torch.from_numpy(rows)] = torch.from_numpy(
            weighted_embeddings(weights[rows], known)
        ).float()
        return student


def realigned_weights(plan: Sparse, pairs: TokenPairs, shared: Callable[[Doubles], Doubles]) -> Sparse:
    """Return the weights (f, e) of a plan that is realigned ROUNDS times."""
    for _ in range(ROUNDS):
        plan = realign(plan, pairs, shared)
    return sharpen(plan, ROUND_SHARPENING)


def realign(plan: Sparse, pairs: TokenPairs, shared: Callable[[Doubles], Doubles]) -> Sparse:
    """Return the mass that foreign and English tokens share (f, e), summed over the sentence pairs.

    shared: maps the lifts of the tokens of B pairs (B, n, m) to the masses that they share (B, n, m). The lift of tokens under
    the plan P (f, e) is lift_ij = P_ij / (sum_k P_ik sum_k P_kj). A lift of 0 shares no mass.
    """
    lift = divide_rows(plan, plan.sum(1))
    lift = sparse.csr_array(lift @ sparse.diags_array(safe_ratio(np.ones(plan.shape[1]), plan.sum(0))))
    entries, parts = entry_lookup(lift), []
    for first in range(0, len(pairs), PAIRS_A_BATCH):
        x, y = (pad_ids(side) for side in zip(*pairs[first : first + PAIRS_A_BATCH], strict=True))
        lifts = entries(x, y)
        some = lifts.any((1, 2))
        if not some.any():
            continue
        x, y, masses = x[some], y[some], shared(lifts[some])
        pair, i, j = np.nonzero(masses > SMALLEST_MASS)
        parts.append((masses[pair, i, j], x[pair, i], y[pair, j]))
    masses, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sparse.csr_array(sparse.coo_array((masses, (rows, columns)), shape=plan.shape))


def token_transport_plan(lifts: Doubles, solver: Solver = LOOSE_MARGINALS) -> Doubles:
    """Return transport plans (B, n, m) at `lift_costs`, by default unbalanced at eps 1 with marginals relaxed as in `balance`.

    Tokens compete for each other within their sentence, as in IBM's Model 1, but on both sides. Marginals are uniform over the
    tokens with a positive lift. The mass of a pair is the number of such tokens on its shorter side.
    """
    rows, columns = lifts.any(2), lifts.any(1)
    sides = torch.from_numpy(rows), torch.from_numpy(columns)
    plans: Doubles = solve(torch.from_numpy(lift_costs(lifts)), *sides, solver).plan.numpy()
    shorter: Ints = np.minimum(rows.sum(1), columns.sum(1))
    return plans * shorter[:, None, None]


def lift_costs(lifts: Doubles) -> Doubles:
    """Return -log lift (B, n, m) minus the minimum of each pair, at most LARGEST_COST."""
    with np.errstate(divide="ignore"):
        cost: Doubles = np.minimum(-np.log(lifts / lifts.max((1, 2), keepdims=True)), LARGEST_COST)
    return cost


def pad_ids(texts: Tokens) -> Ints:
    """Return the token ids (B, L) of B texts, padded with -1."""
    out = np.full((len(texts), max(map(len, texts))), -1)
    for row, text in zip(out, texts, strict=True):
        row[: len(text)] = text
    return out


def entry_lookup(matrix: Sparse) -> Callable[[Ints, Ints], Doubles]:
    """Return a function of rows (B, n) and columns (B, m) to a csr matrix's entries (B, n, m), 0 for rows or columns of -1.

    >>> entries = entry_lookup(sparse.csr_array(np.array([[1.0, 2.0], [0.0, 3.0]])))
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


def sharpen(plan: Sparse, power: float) -> Sparse:
    """Return weights W_ij = P_ij^power / sum_k P_ik^power. Rows without entries stay empty."""
    # Dividing by the row's maximum first avoids underflow of the power.
    weights = divide_rows(plan, plan.max(axis=1).toarray())
    weights.data **= power
    return divide_rows(weights, weights.sum(1))


def weighted_embeddings(weights: Sparse, known: Doubles) -> Doubles:
    """Return embeddings (f, width) of subwords with weights W (f, e), without empty rows, over known embeddings X (e, width).

    A mean of many embeddings lies near the mean of all, mu. Each is therefore scaled to the median distance of the known
    embeddings from mu: mu + (W X - mu) * median_j |X_j - mu| / |W X - mu|.
    """
    centre = known.mean(0)
    usual = np.median(np.linalg.norm(known - centre, axis=1))
    offsets = weights @ known - centre
    distances = np.linalg.norm(offsets, axis=1)
    moved: Doubles = centre + offsets * safe_ratio(np.full_like(distances, usual), distances)[:, None]
    return moved
