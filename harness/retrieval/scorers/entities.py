"""The scorer of entities: images are reranked by their regions (see `harness.retrieval.entity_reranking`)."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.data import Retrieval
from harness.core.errors import HarnessError
from harness.retrieval.phrases import caption_phrases
from harness.retrieval.regions import RegionViews, regions_by_image
from harness.retrieval.scorers.interface import Embedder, RetrievalResult, ScoredRun, Scorer, ScorerFactory, refuse_argument
from harness.retrieval.scorers.phrase_regions import load_region_views


@dataclass(frozen=True)
class EntityScorer:
    """Retrieval with images reranked by their regions (see `harness.retrieval.entity_reranking`).

    phrases: the phrases of each caption. first: the number of candidates that are reranked, 0 for all.
    """

    views: RegionViews
    phrases: tuple[tuple[str, ...], ...]
    first: int

    @property
    def name(self) -> str:
        """The name in records, with the number of reranked candidates."""
        return f"entities, {f'first {self.first}' if self.first else 'all'} sorted anew"

    def cache_key_parts(self) -> list[object]:
        """Return the number of reranked candidates, the digest of the regions, and the phrases."""
        return ["entities", self.first, self.views.digest(), self.phrases]

    def rank(self, retrieval: Retrieval, embed: Embedder) -> RetrievalResult:
        """Rank images by caption, and captions by image."""
        from harness.retrieval.entity_reranking import CaptionPhrases, RegionGallery, rerank, split_rows
        from harness.retrieval.hubness import OccurrenceCounter

        words = embed.texts([phrase for phrases in self.phrases for phrase in phrases], retrieval.lang)
        captions = CaptionPhrases(embed.captions(retrieval), split_rows(words, [len(phrases) for phrases in self.phrases]))
        regions = embed.pictures(self.views, "regions")
        gallery = RegionGallery(embed.pictures(retrieval.images), regions_by_image(regions, self.views.regions, retrieval.images))
        counter = OccurrenceCounter(len(gallery.images))
        ranks = rerank(captions, gallery, retrieval.caption_images, self.first, counter.add)
        return RetrievalResult.from_images(ranks, retrieval, counter.hubness())


def make_entity_scorer(argument: str, run: ScoredRun) -> ScorerFactory:
    """Return the factory of the scorer that reranks images by their regions (arXiv 2505.02278).

    The plain cosine is measured as well. docs/entities.md describes the scorer. Raises HarnessError for an argument, and if the
    task's images have no regions. The factory raises HarnessError for text-to-text retrieval.
    """
    refuse_argument("entities", argument)
    views, task = load_region_views(run), run.task

    def make(retrieval: Retrieval) -> Scorer:
        if not retrieval.opens_pictures:
            raise HarnessError(f"--scorer entities needs images as candidates, and {task.card.name} has texts")
        return EntityScorer(views, caption_phrases(retrieval, task, run.config.chunker), run.config.grounding.rerank)

    return make
