"""Sentence pairs as token ids, with what alignment rules read of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from harness.distill.alignment.cooccurrence import Sparse, association, balance, occurrences
from harness.distill.alignment.distributional import DistributionalContext
from harness.distill.alignment.orthography import Spelling
from harness.distill.model.tower import Tokens

TokenPairs: TypeAlias = Sequence[tuple[Sequence[int], Sequence[int]]]


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
        if not kernel.nnz:
            return kernel
        return balance(kernel, self.counts[0].sum(0), self.counts[1].sum(0))
