"""The interface of scorers, what they receive, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from harness.core.data import MEASURE_PREFIX, Documents, Floats, Images, Ranks, Retrieval, TextRetrieval
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH
from harness.core.protocols import Encoder, Task, TextEncoder
from harness.retrieval.ranking import chance_rates, retrieval_scores
from harness.retrieval.regions import RegionViews
from harness.storage.embeddings import embed_captions, embed_documents, embed_images, embed_patches, embed_texts, embed_tokens

if TYPE_CHECKING:
    from harness.core.config import RunConfig
    from harness.runtime.console import Console
    from harness.storage.packed_states import PackedStates
    from harness.storage.store import Store

PLAIN = "plain"
BANKED, TRANSDUCTIVE = "banked", "transductive"
"""The forms of scorers that compare candidates with queries: those of the val split, or the test queries together."""


@dataclass(frozen=True)
class RetrievalResult:
    """The ranks and scores of one retrieval.

    chance: expected scores of a random order. columns: values for each query that records store with its rank.
    hubness: by direction, of image retrieval (see `harness.retrieval.hubness`).
    """

    ranks: Ranks
    scores: dict[str, float]
    chance: dict[str, float]
    columns: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    hubness: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_images(cls, ranks: Ranks, retrieval: Retrieval, hubness: Mapping[str, float] | None = None) -> RetrievalResult:
        """Return the result of a retrieval between captions and images."""
        chance = chance_rates(retrieval.caption_images, len(retrieval.images.ids))
        return cls(ranks, retrieval_scores(ranks), chance, hubness=hubness or {})

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
class ScoredRun:
    """A run in one language, for which scorers are made. `config.lang` is the code of the language."""

    config: RunConfig
    task: Task
    data: Path


def refuse_argument(name: str, argument: str) -> None:
    """Raise HarnessError for an argument of a scorer that takes none."""
    if argument:
        raise HarnessError(f"--scorer {name}:{argument}: {name} takes no argument")


def scorer_spec(name: str) -> str:
    """Return what `--scorer` takes for a scorer, from its name in a record. The options of scorers are left out.

    >>> scorer_spec("sinkhorn, transductive, tau 0.05, 10 iterations"), scorer_spec("entities, first 10 sorted anew")
    ('sinkhorn:transductive', 'entities')
    """
    scorer, form = [*name.split(", "), ""][:2]
    return f"{scorer}:{form}" if form in (BANKED, TRANSDUCTIVE) else scorer


# The words around an option's value in a scorer's name.
_OPTIONS = {
    ("tau ", ""): "--score-temperature",
    ("", " iterations"): "--score-iterations",
    ("k ", ""): "--score-neighbours",
    ("first ", " sorted anew"): "--rerank",
}


def scorer_arguments(name: str) -> list[str]:
    """Return the options of `run` that measure a scorer, from its name in a record.

    >>> scorer_arguments("csls, banked, k 10"), scorer_arguments("maxsim")
    (['--scorer', 'csls:banked', '--score-neighbours', '10'], ['--scorer', 'maxsim'])
    """
    words = ["--scorer", scorer_spec(name)]
    for part in name.split(", ")[1:]:
        for (before, after), option in _OPTIONS.items():
            value = part.removeprefix(before).removesuffix(after)
            if part == f"{before}{value}{after}" and value.replace(".", "", 1).isdecimal():
                words += [option, value]
    return words


def is_transductive(name: str) -> bool:
    """Return whether the scorer with this name in a record ranks the test queries together.

    >>> is_transductive("csls, transductive, k 10"), is_transductive("csls, banked, k 10"), is_transductive("plain")
    (True, False, False)
    """
    return scorer_spec(name).endswith(f":{TRANSDUCTIVE}")
