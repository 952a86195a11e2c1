"""The scorer of late interaction (see `harness.retrieval.late_interaction`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness.core.data import Retrieval, TextRetrieval
from harness.retrieval.scorers.interface import (
    Embedder,
    RetrievalResult,
    ScoredRun,
    ScorerFactory,
    SearchStates,
    refuse_argument,
)


@dataclass(frozen=True)
class MaxSimScorer:
    """The scorer of late interaction (see `harness.retrieval.late_interaction`)."""

    name: ClassVar[str] = "maxsim"
    views: ClassVar[None] = None

    def cache_key_parts(self) -> list[object]:
        """Return the version of the scorer. Increase it when the same states no longer give the same ranks."""
        return ["maxsim 1"]

    def rank(self, retrieval: Retrieval, embed: Embedder) -> RetrievalResult:
        """Rank images by caption and captions by image, or documents by query."""
        from harness.retrieval.hubness import OccurrenceCounter
        from harness.retrieval.late_interaction import rank_patches

        if isinstance(retrieval, TextRetrieval):
            return RetrievalResult.from_texts(retrieval, self.search_states(retrieval, embed), embed.device)
        tokens, patches = embed.tokens(retrieval), embed.patches(retrieval.images)
        counter = OccurrenceCounter(len(patches))
        ranks = rank_patches(patches, tokens, retrieval.caption_images, embed.device, lambda scores: counter.add(scores, scores))
        return RetrievalResult.from_images(ranks, retrieval, counter.hubness())

    def search_states(self, retrieval: TextRetrieval, embed: Embedder) -> SearchStates:
        """Return the token states of queries and documents."""
        return SearchStates(embed.tokens(retrieval), lambda: embed.document_tokens(retrieval.documents))


def make_maxsim_scorer(argument: str, run: ScoredRun) -> ScorerFactory:  # noqa: ARG001 (the parameters of every scorer)
    """Return the factory of the late-interaction scorer (arXiv 2004.12832).

    It compares each token of a text with the patch or token that matches it best. docs/late-interaction.md describes it. Raises
    HarnessError for an argument.
    """
    refuse_argument("maxsim", argument)
    return lambda retrieval: MaxSimScorer()  # noqa: ARG005
