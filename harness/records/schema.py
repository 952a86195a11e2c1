"""The schema of a record and of a tower's card."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.core.builtins import default_learning_rate
from harness.core.config import DistillConfig
from harness.core.data import QUERY_UNITS, Sought, is_english_side

SCHEMA_VERSION = 1
ENGLISH_TOWER, TRANSLATE_TEST = "english", "translate-test"
"""Values of `Record.text_tower`: the encoder's own text tower on the captions, and on their translations."""


class Schema(BaseModel):
    """A typed piece of a record."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(BaseModel):
    """The field of a record that every version can read."""

    schema_version: int = 1


class Provenance(Schema):
    """The code that made a number, and where and when it ran."""

    version: str = Field(description="version of this harness")
    commit: str | None = Field(description="its commit, if it ran from a checkout")
    dirty: bool | None = Field(description="whether that checkout had uncommitted changes")
    python: str
    platform: str
    packages: dict[str, str] = Field(description="versions of the libraries that may affect a result")
    device: str
    created: str = Field(description="UTC, ISO 8601")
    command: str = Field(description="the command line")


class BitextCard(Schema):
    """The sentence pairs a tower was distilled from."""

    lang: str
    source: str
    kind: str = Field(description="how the translations were made")
    offered: int = Field(description="pairs in the source")
    dropped: int = Field(description="pairs that the leakage guard dropped")
    used: int = Field(description="pairs used, including those held out for validation")
    digest: str = Field(description="digest of the used pairs, in order")
    notes: tuple[str, ...] = ()


class Trial(Schema):
    """One tried combination of the searched options, and its score."""

    learning_rate: float
    vocabulary: int | None = Field(None, description="None in records of earlier versions")
    steps: int | None = Field(None, description="optimiser steps of the trial; None in records of earlier versions")
    score: float = Field(description="mean reciprocal rank over both directions in percent, of held-out pairs or of val images")
    seconds: float | None = Field(None, description="training time of the trial; None in records of earlier versions")


class TowerCard(Schema):
    """How a distilled tower was made."""

    digest: str = Field(description="digest of everything that decides its weights; its name in the store")
    lang: str
    config: DistillConfig
    teacher: str
    teacher_fingerprint: str
    bitext: BitextCard
    steps: int
    losses: tuple[float, ...] = Field(description="mean losses over at most 100 equal ranges of steps")
    validations: tuple[tuple[int, float], ...] = Field((), description="step and score of each validation on the held-out pairs")
    unconverged: int = Field(0, description="transport problems of all steps that did not converge")
    agreement: float | None = Field(
        None, description="correlation of the student's centred embeddings with the teacher's on training pairs"
    )
    notes: tuple[str, ...] = Field((), description="on the training, such as one without progress")
    tuning: tuple[Trial, ...] = Field((), description="the trials of the search, if it was tuned")
    seconds: float = Field(description="training time")
    provenance: Provenance

    @property
    def requested(self) -> DistillConfig:
        """The requested options. Tuned values are not requested, and may differ between seeds of one recipe."""
        config, defaults = self.config, DistillConfig()
        rate = default_learning_rate(config.init) if self.tuning else config.peak_learning_rate
        vocabulary = defaults.vocabulary if config.tune_vocabulary else config.vocabulary
        steps = defaults.steps if config.tune_steps else config.steps
        return config.model_copy(update={"learning_rate": rate, "vocabulary": vocabulary, "steps": steps})


class TranslationCard(Schema):
    """The English translations that the text tower read instead of the captions."""

    by: Literal["file", "translator"]
    source: str = Field(description="name of the file or the translator")
    digest: str = Field(description="digest of the translations, in the order of the captions")


class RegionCard(Schema):
    """The regions of the images, where scores depend on them."""

    source: str = Field(description="`boxes` drawn by people, or `proposals` of a detector")
    view: str = Field(description="how a region is shown to the encoder")
    count: int = Field(description="regions of all images of the split")
    digest: str


class Record(Schema):
    """The scores of one cell. A record holds ids and digests, never a caption or an image, so that it can be published."""

    schema_version: int = SCHEMA_VERSION
    cell: str = Field(description="digest of everything that decides the scores; its name in the store")
    task: str
    task_version: str
    lang: str
    split: str
    source: str = Field(description="caption source")
    kind: str = Field(description="how the captions were made")
    sample: bool = Field(description="whether it is the embedded sample, which says nothing about Flickr30k")
    images: int = Field(description="images in the gallery; in text-to-text retrieval, images that the queries belong to")
    captions: int = Field(description="captions, phrases or queries ranked against the gallery")
    documents: int | None = Field(None, description="texts in the gallery of text-to-text retrieval")
    headline: str = Field("R@1", description="the measure that towers are compared by")
    images_digest: str
    texts_digest: str
    encoder: str
    encoder_fingerprint: str
    text_tower: str = Field(
        description="`english` for the encoder's own, `translate-test` for the same tower on translations, else the arm"
    )
    tower: TowerCard | None = Field(description="how the text tower was made, if it was distilled")
    translations: TranslationCard | None = Field(None, description="the translations that the English tower read")
    scorer: str = Field("plain", description="how the gallery is ranked: the cosine of embeddings, or another of `list scorers`")
    regions: RegionCard | None = None
    scores: dict[str, float] = Field(description="hit rates and measures in percent, median ranks, mean of the six hit rates")
    chance: dict[str, float] = Field(description="expected scores of a random ranking, in percent")
    hubness: dict[str, float] = Field(
        default_factory=dict,
        description="skewness of N_10 over the candidates of each direction, t2i and i2t; empty in records of earlier versions",
    )
    notes: tuple[str, ...] = ()
    provenance: Provenance

    @model_validator(mode="after")
    def _name_arm(self) -> Self:
        """Give the records of version 0.1, which name the objective alone, the name of their arm."""
        if self.tower and self.text_tower == self.tower.config.objective:
            object.__setattr__(self, "text_tower", self.tower.config.arm)
        return self

    @property
    def sought(self) -> Sought:
        """The kind of candidates: texts, regions or images."""
        return "texts" if self.documents is not None else "regions" if "pointing" in self.scores else "images"

    @property
    def unit(self) -> str:
        """The name of the queries, in the plural."""
        return QUERY_UNITS[self.sought]

    @property
    def is_english_side(self) -> bool:
        """Return whether its captions are the English ones behind translations: see `Retrieval.in_english`."""
        return is_english_side(self.source)
