"""Scorers rank the candidates of queries. Every run measures the plain scorer, and one more scorer if the run requests it.

A new scorer needs a class with the members of `Scorer`, a function that makes it for a run, and a line in
`harness.core.builtins`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from harness.core.data import MEASURE_PREFIX, Documents, Floats, Grounding, Images, Ranks, Retrieval, TextRetrieval
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH
from harness.core.protocols import Encoder, RegionTask, Task, TextEncoder
from harness.retrieval.phrases import caption_phrases
from harness.retrieval.ranking import chance_rates, rank, retrieval_scores
from harness.retrieval.regions import RegionViews, regions_by_image
from harness.storage.embeddings import embed_captions, embed_documents, embed_images, embed_patches, embed_texts, embed_tokens

if TYPE_CHECKING:
    from harness.core.config import RunConfig
    from harness.runtime.console import Console
    from harness.storage.packed_states import PackedStates
    from harness.storage.store import Store

PLAIN = "plain"


@dataclass(frozen=True)
class RetrievalResult:
    """The ranks and scores of one retrieval.

    chance: expected scores of a random order. columns: values for each query that records store with its rank.
    """

    ranks: Ranks
    scores: dict[str, float]
    chance: dict[str, float]
    columns: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    @classmethod
    def from_images(cls, ranks: Ranks, retrieval: Retrieval) -> RetrievalResult:
        """Return the result of a retrieval between captions and images."""
        return cls(ranks, retrieval_scores(ranks), chance_rates(retrieval.caption_images, len(retrieval.images.ids)))

    @classmethod
    def from_texts(cls, retrieval: TextRetrieval, sides: SearchStates, device: str) -> RetrievalResult:
        """Search the documents for every query and return the result."""
        from harness.retrieval.dense_search import search_documents

        searched = search_documents(retrieval, sides.queries, sides.documents, device)
        columns = {f"{MEASURE_PREFIX}{name}": values for name, values in searched.values.items()}
        return cls(searched.as_ranks, searched.scores(), searched.chance, columns)


@dataclass(frozen=True)
class SearchStates:
    """States of the queries and of the documents. documents: a function that reads the documents' states on each call."""

    queries: PackedStates
    documents: Callable[[], Iterable[PackedStates]]


@dataclass(frozen=True)
class Embedder:
    """Embeddings and states for scorers, read from the store where it has them.

    tower: the text tower of the queries. encoder: the encoder of the candidates.
    """

    encoder: Encoder
    tower: TextEncoder
    store: Store
    console: Console
    device: str

    def captions(self, retrieval: Retrieval) -> Floats:
        """Return the embeddings (m, d) of the captions."""
        return embed_captions(self.tower, retrieval, self.store)

    def texts(self, texts: list[str], lang: str) -> Floats:
        """Return the embeddings of texts of one language."""
        return embed_texts(self.tower, texts, lang, self.store)

    def tokens(self, retrieval: Retrieval) -> PackedStates:
        """Return the token states of the captions."""
        return embed_tokens(self.tower, retrieval.captions, retrieval.lang, self.store)

    def pictures(self, images: Images, what: str = "images") -> Floats:
        """Return the embeddings (n, d) of images."""
        with self.console.stage(f"embeds {what}", len(images.ids), what) as advance:
            return embed_images(self.encoder, images, self.store, lambda count: advance(count, ""))

    def patches(self, images: Images) -> PackedStates:
        """Return the patch states of images."""
        with self.console.stage("embeds patches", len(images.ids), "images") as advance:
            return embed_patches(self.encoder, images, self.store, lambda count: advance(count, ""))

    def documents(self, documents: Documents) -> Iterator[PackedStates]:
        """Yield the embeddings of documents, one part at a time."""
        from harness.storage.packed_states import PackedStates

        with self.console.stage("embeds documents", len(documents), "documents") as advance:
            for ids, texts in documents.parts():
                yield PackedStates.single(embed_documents(self.encoder, ids, texts, self.store, lambda count: advance(count, "")))

    def document_tokens(self, documents: Documents) -> Iterator[PackedStates]:
        """Yield the token states of documents, one part at a time."""
        with self.console.stage("embeds tokens", len(documents), "documents") as advance:
            for _, texts in documents.parts():
                yield embed_tokens(self.encoder, texts, ENGLISH, self.store, lambda count: advance(count, ""))


class Scorer(Protocol):
    """The ranking method for one retrieval."""

    @property
    def name(self) -> str:
        """The name of the scorer in records."""
        ...

    @property
    def views(self) -> RegionViews | None:
        """The views of image regions that the scorer compares, or None."""
        ...

    def cache_key_parts(self) -> list[object]:
        """Return what determines the ranks besides retrieval, encoder and text tower. It is a part of the cell's key."""
        ...

    def rank(self, retrieval: Retrieval, embed: Embedder) -> RetrievalResult:
        """Embed and rank. Raises HarnessError if the encoder does not provide the states that the scorer compares."""
        ...


# Makes a scorer for each retrieval of a run. Raises HarnessError if the scorer does not support the retrieval.
ScorerFactory: TypeAlias = Callable[[Retrieval], Scorer]


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
        images = embed.pictures(retrieval.images)
        ranks = rank(images, embed.captions(retrieval), retrieval.caption_images, device=embed.device)
        return RetrievalResult.from_images(ranks, retrieval)

    def search_states(self, retrieval: TextRetrieval, embed: Embedder) -> SearchStates:
        """Return the embeddings of queries and documents, as one state for each text."""
        from harness.storage.packed_states import PackedStates

        return SearchStates(PackedStates.single(embed.captions(retrieval)), lambda: embed.documents(retrieval.documents))


@dataclass(frozen=True)
class RegionScorer:
    """The scorer of phrase grounding: the cosine of phrase and region."""

    views: RegionViews
    name: ClassVar[str] = PLAIN

    def cache_key_parts(self) -> list[object]:
        """Return the digest of the regions."""
        return [self.views.digest()]

    def rank(self, retrieval: Retrieval, embed: Embedder) -> RetrievalResult:
        """Rank the regions of each phrase's image."""
        from harness.retrieval.grounding import ground

        assert isinstance(retrieval, Grounding)
        regions = embed.pictures(self.views, "regions")
        grounded = ground(embed.captions(retrieval), regions, retrieval, self.views.regions)
        columns = {"pointed": grounded.pointed, "found": grounded.found}
        return RetrievalResult(grounded.as_ranks, grounded.scores(), grounded.chance, columns)


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

        words = embed.texts([phrase for phrases in self.phrases for phrase in phrases], retrieval.lang)
        captions = CaptionPhrases(embed.captions(retrieval), split_rows(words, [len(phrases) for phrases in self.phrases]))
        regions = embed.pictures(self.views, "regions")
        gallery = RegionGallery(embed.pictures(retrieval.images), regions_by_image(regions, self.views.regions, retrieval.images))
        return RetrievalResult.from_images(rerank(captions, gallery, retrieval.caption_images, self.first), retrieval)


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
        from harness.retrieval.late_interaction import rank_patches

        if isinstance(retrieval, TextRetrieval):
            return RetrievalResult.from_texts(retrieval, self.search_states(retrieval, embed), embed.device)
        tokens, patches = embed.tokens(retrieval), embed.patches(retrieval.images)
        return RetrievalResult.from_images(rank_patches(patches, tokens, retrieval.caption_images, embed.device), retrieval)

    def search_states(self, retrieval: TextRetrieval, embed: Embedder) -> SearchStates:
        """Return the token states of queries and documents."""
        return SearchStates(embed.tokens(retrieval), lambda: embed.document_tokens(retrieval.documents))


def make_plain_scorer(config: RunConfig, task: Task, data: Path) -> ScorerFactory:  # noqa: ARG001 (the parameters of every scorer)
    """Return the factory of the plain scorer, the cosine of a query's and a candidate's embedding. It is always measured."""
    return lambda retrieval: CosineScorer()  # noqa: ARG005


def make_region_scorer(config: RunConfig, task: Task, data: Path) -> ScorerFactory:
    """Return the factory of the only scorer of phrase grounding. Raises HarnessError if the run requests another one."""
    if config.scorer != PLAIN:
        raise HarnessError(f"--scorer {config.scorer} is for retrieval, and {task.card.name} is phrase grounding: leave it out")
    views = load_region_views(config, task, data)
    return lambda retrieval: RegionScorer(views)  # noqa: ARG005


def make_entity_scorer(config: RunConfig, task: Task, data: Path) -> ScorerFactory:
    """Return the factory of the scorer that reranks images by their regions (arXiv 2505.02278).

    The plain cosine is measured as well. docs/entities.md describes the scorer. Raises HarnessError if the task's images have no
    regions. The factory raises HarnessError for text-to-text retrieval.
    """
    views, choices = load_region_views(config, task, data), config.grounding

    def make(retrieval: Retrieval) -> Scorer:
        if not retrieval.opens_pictures:
            raise HarnessError(f"--scorer entities needs images as candidates, and {task.card.name} has texts")
        return EntityScorer(views, caption_phrases(retrieval, task, config.chunker), choices.rerank)

    return make


def make_maxsim_scorer(config: RunConfig, task: Task, data: Path) -> ScorerFactory:  # noqa: ARG001
    """Return the factory of the late-interaction scorer (arXiv 2004.12832).

    It compares each token of a text with the patch or token that matches it best. docs/late-interaction.md describes it.
    """
    return lambda retrieval: MaxSimScorer()  # noqa: ARG005


def load_region_views(config: RunConfig, task: Task, data: Path) -> RegionViews:
    """Return the region views of a split's images. Raises HarnessError if the task's images have no regions."""
    if not isinstance(task, RegionTask):
        raise HarnessError(f"--scorer {config.scorer} needs regions of the images, and {task.card.name} has none")
    return RegionViews(task.load_regions(data, config.split, config.grounding.candidates), config.grounding.view)
