"""The plain scorer: the cosine of a query's and a candidate's embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness.core.data import Retrieval, TextRetrieval
from harness.retrieval.hubness import cosine_hubness
from harness.retrieval.ranking import rank
from harness.retrieval.scorers.interface import (
    PLAIN,
    Embedder,
    RetrievalResult,
    ScoredRun,
    ScorerFactory,
    SearchStates,
    refuse_argument,
)


@dataclass(frozen=True)
class CosineScorer:
    """The plain scorer: the cosine of two embeddings."""

    name: ClassVar[str] = PLAIN
    views: ClassVar[None] = None

    def cache_key_parts(self) -> list[object]:
        """Return an empty list, since the embeddings alone determine the ranks."""
        return []

    def rank(self, retrieval: Retrieval, embed: Embedder) -> RetrievalResult:
        """Rank images by caption and captions by image, or documents by query."""
        if isinstance(retrieval, TextRetrieval):
            return RetrievalResult.from_texts(retrieval, self.search_states(retrieval, embed), embed.device)
        images, captions = embed.pictures(retrieval.images), embed.captions(retrieval)
        ranks = rank(images, captions, retrieval.caption_images, device=embed.device)
        return RetrievalResult.from_images(ranks, retrieval, cosine_hubness(images, captions, device=embed.device))

    def search_states(self, retrieval: TextRetrieval, embed: Embedder) -> SearchStates:
        """Return the embeddings of queries and documents, as one state for each text."""
        from harness.storage.packed_states import PackedStates

        return SearchStates(PackedStates.single(embed.captions(retrieval)), lambda: embed.documents(retrieval.documents))


def make_plain_scorer(argument: str, run: ScoredRun) -> ScorerFactory:  # noqa: ARG001 (the parameters of every scorer)
    """Return the factory of the plain scorer, the cosine of a query's and a candidate's embedding. It is always measured.

    Raises HarnessError for an argument.
    """
    refuse_argument(PLAIN, argument)
    return lambda retrieval: CosineScorer()  # noqa: ARG005
