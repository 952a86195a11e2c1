"""Scorers: how what a text looks for is ranked. The plain one is measured always, and one more beside it where a run asks for it.

Adding one takes a class with the members of `Scorer`, a function that makes it for a run, and a line in `harness.core.builtins`.
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
    """What texts found. columns: what is kept of each beside its rank."""

    ranks: Ranks
    scores: dict[str, float]
    chance: dict[str, float]
    columns: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    @classmethod
    def from_images(cls, ranks: Ranks, retrieval: Retrieval) -> RetrievalResult:
        """What captions and images found of each other."""
        return cls(ranks, retrieval_scores(ranks), chance_rates(retrieval.caption_images, len(retrieval.images.ids)))

    @classmethod
    def from_texts(cls, retrieval: TextRetrieval, sides: SearchStates, device: str) -> RetrievalResult:
        """What queries found among documents."""
        from harness.retrieval.dense_search import search_documents

        searched = search_documents(retrieval, sides.queries, sides.documents, device)
        columns = {f"{MEASURE_PREFIX}{name}": values for name, values in searched.values.items()}
        return cls(searched.as_ranks, searched.scores(), searched.chance, columns)


@dataclass(frozen=True)
class SearchStates:
    """States of the queries, and of the documents, which are read as often as they are asked for."""

    queries: PackedStates
    documents: Callable[[], Iterable[PackedStates]]


@dataclass(frozen=True)
class Embedder:
    """What a scorer compares, from the store where it lies. tower: reads the texts that ask; encoder: what they look for."""

    encoder: Encoder
    tower: TextEncoder
    store: Store
    console: Console
    device: str

    def captions(self, retrieval: Retrieval) -> Floats:
        """Embeddings (m, d) of the captions."""
        return embed_captions(self.tower, retrieval, self.store)

    def texts(self, texts: list[str], lang: str) -> Floats:
        """Embeddings of some texts of their language."""
        return embed_texts(self.tower, texts, lang, self.store)

    def tokens(self, retrieval: Retrieval) -> PackedStates:
        """Token states of the captions."""
        return embed_tokens(self.tower, retrieval.captions, retrieval.lang, self.store)

    def pictures(self, images: Images, what: str = "images") -> Floats:
        """Embeddings (n, d) of pictures."""
        with self.console.stage(f"embeds {what}", len(images.ids), what) as advance:
            return embed_images(self.encoder, images, self.store, lambda count: advance(count, ""))

    def patches(self, images: Images) -> PackedStates:
        """Patch states of pictures."""
        with self.console.stage("embeds patches", len(images.ids), "images") as advance:
            return embed_patches(self.encoder, images, self.store, lambda count: advance(count, ""))

    def documents(self, documents: Documents) -> Iterator[PackedStates]:
        """Embeddings of documents, a part at a time."""
        from harness.storage.packed_states import PackedStates

        with self.console.stage("embeds documents", len(documents), "documents") as advance:
            for ids, texts in documents.parts():
                yield PackedStates.single(embed_documents(self.encoder, ids, texts, self.store, lambda count: advance(count, "")))

    def document_tokens(self, documents: Documents) -> Iterator[PackedStates]:
        """Token states of documents, a part at a time."""
        with self.console.stage("embeds tokens", len(documents), "documents") as advance:
            for _, texts in documents.parts():
                yield embed_tokens(self.encoder, texts, ENGLISH, self.store, lambda count: advance(count, ""))


class Scorer(Protocol):
    """A way of ranking, made ready for one retrieval."""

    @property
    def name(self) -> str:
        """What records call it."""
        ...

    @property
    def views(self) -> RegionViews | None:
        """The regions of images that it looks at."""
        ...

    def cache_key_parts(self) -> list[object]:
        """What decides its ranks beside retrieval, encoder and text tower: with theirs it makes a cell's name."""
        ...

    def rank(self, retrieval: Retrieval, embed: Embedder) -> RetrievalResult:
        """Embed and rank. Raises HarnessError if the encoder does not offer what it compares."""
        ...


# What makes a scorer for each retrieval of a run. Raises HarnessError for what it cannot score.
ScorerFactory: TypeAlias = Callable[[Retrieval], Scorer]


@dataclass(frozen=True)
class CosineScorer:
    """The cosine of two embeddings."""

    name: ClassVar[str] = PLAIN
    views: ClassVar[None] = None

    def cache_key_parts(self) -> list[object]:
        """Nothing more."""
        return []

    def rank(self, retrieval: Retrieval, embed: Embedder) -> RetrievalResult:
        """Images by caption, and captions by image; or documents by query."""
        if isinstance(retrieval, TextRetrieval):
            return RetrievalResult.from_texts(retrieval, self.search_states(retrieval, embed), embed.device)
        images = embed.pictures(retrieval.images)
        ranks = rank(images, embed.captions(retrieval), retrieval.caption_images, device=embed.device)
        return RetrievalResult.from_images(ranks, retrieval)

    def search_states(self, retrieval: TextRetrieval, embed: Embedder) -> SearchStates:
        """One state each."""
        from harness.storage.packed_states import PackedStates

        return SearchStates(PackedStates.single(embed.captions(retrieval)), lambda: embed.documents(retrieval.documents))


@dataclass(frozen=True)
class RegionScorer:
    """The cosine of phrase and region: how a grounding is ranked."""

    views: RegionViews
    name: ClassVar[str] = PLAIN

    def cache_key_parts(self) -> list[object]:
        """The regions."""
        return [self.views.digest()]

    def rank(self, retrieval: Retrieval, embed: Embedder) -> RetrievalResult:
        """The regions of each phrase's image."""
        from harness.retrieval.grounding import ground

        assert isinstance(retrieval, Grounding)
        regions = embed.pictures(self.views, "regions")
        grounded = ground(embed.captions(retrieval), regions, retrieval, self.views.regions)
        columns = {"pointed": grounded.pointed, "found": grounded.found}
        return RetrievalResult(grounded.as_ranks, grounded.scores(), grounded.chance, columns)


@dataclass(frozen=True)
class EntityScorer:
    """Images found by their regions too: see `harness.retrieval.entity_reranking`.

    phrases: of each caption. first: how many are sorted anew.
    """

    views: RegionViews
    phrases: tuple[tuple[str, ...], ...]
    first: int

    @property
    def name(self) -> str:
        """With how much it sorts anew."""
        return f"entities, {f'first {self.first}' if self.first else 'all'} sorted anew"

    def cache_key_parts(self) -> list[object]:
        """Regions, phrases, and how much is sorted anew."""
        return ["entities", self.first, self.views.digest(), self.phrases]

    def rank(self, retrieval: Retrieval, embed: Embedder) -> RetrievalResult:
        """Images by caption, and captions by image."""
        from harness.retrieval.entity_reranking import CaptionPhrases, RegionGallery, rerank, split_rows

        words = embed.texts([phrase for phrases in self.phrases for phrase in phrases], retrieval.lang)
        captions = CaptionPhrases(embed.captions(retrieval), split_rows(words, [len(phrases) for phrases in self.phrases]))
        regions = embed.pictures(self.views, "regions")
        gallery = RegionGallery(embed.pictures(retrieval.images), regions_by_image(regions, self.views.regions, retrieval.images))
        return RetrievalResult.from_images(rerank(captions, gallery, retrieval.caption_images, self.first), retrieval)


@dataclass(frozen=True)
class MaxSimScorer:
    """Late interaction: see `harness.retrieval.late_interaction`."""

    name: ClassVar[str] = "maxsim"
    views: ClassVar[None] = None

    def cache_key_parts(self) -> list[object]:
        """How it scores: raise the number when the same states no longer give the same ranks."""
        return ["maxsim 1"]

    def rank(self, retrieval: Retrieval, embed: Embedder) -> RetrievalResult:
        """Images by caption, and captions by image; or documents by query."""
        from harness.retrieval.late_interaction import rank_patches

        if isinstance(retrieval, TextRetrieval):
            return RetrievalResult.from_texts(retrieval, self.search_states(retrieval, embed), embed.device)
        tokens, patches = embed.tokens(retrieval), embed.patches(retrieval.images)
        return RetrievalResult.from_images(rank_patches(patches, tokens, retrieval.caption_images, embed.device), retrieval)

    def search_states(self, retrieval: TextRetrieval, embed: Embedder) -> SearchStates:
        """Their tokens."""
        return SearchStates(embed.tokens(retrieval), lambda: embed.document_tokens(retrieval.documents))


def make_plain_scorer(config: RunConfig, task: Task, data: Path) -> ScorerFactory:  # noqa: ARG001 (what every scorer is told)
    """The cosine of a text's embedding and that of what it looks for: always measured."""
    return lambda retrieval: CosineScorer()  # noqa: ARG005


def make_region_scorer(config: RunConfig, task: Task, data: Path) -> ScorerFactory:
    """How phrases are grounded, which has no other scorer. Raises HarnessError if one is asked for."""
    if config.scorer != PLAIN:
        raise HarnessError(f"--scorer {config.scorer} is for retrieval; {task.card.name} ranks regions as they are")
    views = load_region_views(config, task, data)
    return lambda retrieval: RegionScorer(views)  # noqa: ARG005


def make_entity_scorer(config: RunConfig, task: Task, data: Path) -> ScorerFactory:
    """Images found by their regions too, beside the plain cosine (arXiv 2505.02278): docs/entities.md."""
    views, choices = load_region_views(config, task, data), config.grounding

    def make(retrieval: Retrieval) -> Scorer:
        if not retrieval.opens_pictures:
            raise HarnessError(f"--scorer entities looks at regions of images, and {task.card.name} looks for texts")
        return EntityScorer(views, caption_phrases(retrieval, task, config.chunker), choices.rerank)

    return make


def make_maxsim_scorer(config: RunConfig, task: Task, data: Path) -> ScorerFactory:  # noqa: ARG001
    """The best patch or token for each token of a text, late interaction (arXiv 2004.12832): docs/late-interaction.md."""
    return lambda retrieval: MaxSimScorer()  # noqa: ARG005


def load_region_views(config: RunConfig, task: Task, data: Path) -> RegionViews:
    """The regions of a split's images, as they are shown. Raises HarnessError if the task's images have none."""
    if not isinstance(task, RegionTask):
        raise HarnessError(f"--scorer {config.scorer} needs regions of the images, and {task.card.name} has none")
    return RegionViews(task.load_regions(data, config.split, config.grounding.candidates), config.grounding.view)
