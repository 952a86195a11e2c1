"""Scorers that add a bias to the cosine of every candidate, so that hubs rank lower (docs/scorers.md).

They differ in the rule of the bias alone. A rule compares the candidates of the test split with a set of queries, in one of two
forms: `banked`, the captions and images of the val split, so that every test query is ranked by itself; or `transductive`, the
test queries, which are then ranked together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from harness.core.data import CaptionReader, Retrieval, Unseen, original_source
from harness.core.errors import HarnessError
from harness.core.registry import split_spec
from harness.retrieval.cosines import check_one_space, exact_device, unit_tensor
from harness.retrieval.hubness import cosine_hubness
from harness.retrieval.ranking import Biases, CandidateBias, rank
from harness.retrieval.scorers.interface import BANKED, TRANSDUCTIVE, Embedder, RetrievalResult, ScoredRun, Scorer, ScorerFactory

if TYPE_CHECKING:
    from torch import Tensor

BANK_SPLIT = "val"


class Sides(NamedTuple):
    """Unit embeddings of images (n, d) and texts (m, d), float32."""

    images: Tensor
    texts: Tensor


class BiasRule(Protocol):
    """A rule for the biases of candidates."""

    @property
    def name(self) -> str:
        """The name of the scorer."""
        ...

    @property
    def options(self) -> str:
        """The options that the rule reads, with their values."""
        ...

    def biases(self, test: Sides, bank: Sides) -> Biases:
        """Return the biases of the test images, compared with the bank's texts, and of the test texts, with its images.

        bank: `test` itself in the transductive form.
        """
        ...


class DirectionalRule(ABC):
    """A rule whose biases of one side's candidates do not depend on those of the other side."""

    @abstractmethod
    def bias(self, candidates: Tensor, queries: Tensor, bank: Tensor) -> CandidateBias:
        """Return the bias of each candidate (c, d), compared with the bank's queries (b, d), for the test queries (q, d)."""

    def biases(self, test: Sides, bank: Sides) -> Biases:
        """Return the biases of test images and test texts."""
        return Biases(self.bias(test.images, test.texts, bank.texts), self.bias(test.texts, test.images, bank.images))


@dataclass(frozen=True)
class BiasedScorer:
    """The cosine with a bias for each candidate. bank: the captions and images of the val split, None if transductive."""

    rule: BiasRule
    bank: Retrieval | None
    views: ClassVar[None] = None

    @property
    def form(self) -> str:
        """The queries that the biases are computed from: `banked` or `transductive`."""
        return BANKED if self.bank else TRANSDUCTIVE

    @property
    def name(self) -> str:
        """The name in records, with form and options."""
        return f"{self.rule.name}, {self.form}, {self.rule.options}"

    def cache_key_parts(self) -> list[object]:
        """Return the version of the scorers, the name and the digests of the bank.

        Increase the version when the same embeddings no longer give the same ranks.
        """
        return ["biased 1", self.name, *([self.bank.images.digest(), self.bank.texts_digest()] if self.bank else [])]

    def rank(self, retrieval: Retrieval, embed: Embedder) -> RetrievalResult:
        """Rank images by caption and captions by image."""
        import torch

        images, texts = embed.pictures(retrieval.images), embed.captions(retrieval)
        check_one_space(images, texts)
        device = exact_device(embed.device)
        test = Sides(unit_tensor(images, "image").to(device), unit_tensor(texts, "text").to(device))
        bank = test
        if self.bank:
            pictures, captions = embed.pictures(self.bank.images, f"{BANK_SPLIT} images"), embed.captions(self.bank)
            bank = Sides(unit_tensor(pictures, "image").to(device), unit_tensor(captions, "text").to(device))
        with torch.inference_mode():
            biases = self.rule.biases(test, bank)
        ranks = rank(images, texts, retrieval.caption_images, biases=biases, device=embed.device)
        return RetrievalResult.from_images(ranks, retrieval, cosine_hubness(images, texts, biases, embed.device))


def biased_scorers(rule: BiasRule, argument: str, run: ScoredRun) -> ScorerFactory:
    """Return the factory of a rule's scorers in the form that the argument names.

    Raises HarnessError unless the argument is a form. The factory raises HarnessError for text-to-text retrieval, and if the data
    have no bank for the retrieval.
    """
    if argument not in (BANKED, TRANSDUCTIVE):
        raise HarnessError(
            f"--scorer {run.config.scorer}: write {rule.name}:{BANKED}, by the captions and images of the {BANK_SPLIT} split, "
            f"or {rule.name}:{TRANSDUCTIVE}, by the test queries together"
        )
    bank_of = cache(partial(load_bank, run))

    def make(retrieval: Retrieval) -> Scorer:
        if retrieval.sought != "images":
            raise HarnessError(f"--scorer {run.config.scorer} needs images as candidates, and {run.task.card.name} has texts")
        if argument == TRANSDUCTIVE:
            return BiasedScorer(rule, None)
        lang = run.config.lang if retrieval.is_english_side else retrieval.lang
        source, pictures = original_source(retrieval.source), not isinstance(retrieval.images, Unseen)
        return BiasedScorer(rule, bank_of(lang, source, retrieval.is_english_side, pictures))

    return make


def load_bank(run: ScoredRun, lang: str, source: str, english: bool, pictures: bool) -> Retrieval:
    """Return the val split of a language and source.

    english: take the captions that its captions were translated from. pictures: whether the images are opened.
    Raises HarnessError if the run measures the val split itself, and if the data do not have the captions or images.
    """
    config, task = run.config, run.task
    name = split_spec(config.scorer)[0]
    if config.split == BANK_SPLIT:
        raise HarnessError(
            f"--scorer {config.scorer} has the {BANK_SPLIT} split as its bank, which --split {BANK_SPLIT} ranks itself: "
            f"use {name}:{TRANSDUCTIVE}"
        )
    try:
        if BANK_SPLIT not in task.card.splits:
            raise HarnessError(f"{task.card.name} has no {BANK_SPLIT} split")
        load = task.load_captions if isinstance(task, CaptionReader) and not pictures else task.load
        bank = load(run.data, lang, BANK_SPLIT, config.source if lang == config.lang else None)
        if bank.source != source:  # the first source with captions of this split is another one
            bank = load(run.data, lang, BANK_SPLIT, source)
        return bank.in_english() if english else bank
    except HarnessError as error:
        raise HarnessError(
            f"--scorer {config.scorer} needs the {BANK_SPLIT} split of {source} in {lang} as its bank: {error}; "
            f"{name}:{TRANSDUCTIVE} needs none"
        ) from error
