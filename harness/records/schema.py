"""The schema of a record and of a tower's card."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.core.config import DistillConfig
from harness.core.data import QUERY_UNITS, Sought, is_english_side

SCHEMA_VERSION = 1
ENGLISH_TOWER, TRANSLATE_TEST = "english", "translate-test"
"""Values of `Record.text_tower`: the encoder's own text tower on the captions, and on their translations."""


class Schema(BaseModel):
    """A typed piece of a record."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(BaseModel):
    """What of a record can be read whatever else has changed in it."""

    schema_version: int = 1


class Provenance(Schema):
    """Which code made a number, where and when."""

    version: str = Field(description="version of this harness")
    commit: str | None = Field(description="its commit, where it ran from a checkout")
    dirty: bool | None = Field(description="whether that checkout had uncommitted changes")
    python: str
    platform: str
    packages: dict[str, str] = Field(description="versions of the libraries that touch a number")
    device: str
    created: str = Field(description="UTC, ISO 8601")
    command: str = Field(description="the command line that asked for it")


class BitextCard(Schema):
    """The sentence pairs a tower was distilled from."""

    lang: str
    source: str
    kind: str = Field(description="how the translations came to be")
    offered: int = Field(description="pairs in the source")
    dropped: int = Field(description="pairs that the leakage guard left out")
    used: int = Field(description="pairs distilled from, those held out for validation among them")
    digest: str = Field(description="digest of the pairs used, in order")
    notes: tuple[str, ...] = ()


class Trial(Schema):
    """One learning rate that was tried."""

    learning_rate: float
    score: float = Field(
        description="of translations among pairs held out, or of val images: mean reciprocal rank, both directions, in percent"
    )


class TowerCard(Schema):
    """Everything that made a distilled tower."""

    digest: str = Field(description="of all that decides its weights; its name in the store")
    lang: str
    config: DistillConfig
    teacher: str
    teacher_fingerprint: str
    bitext: BitextCard
    steps: int
    losses: tuple[float, ...] = Field(description="mean losses over equal stretches of the steps, 100 at most")
    validations: tuple[tuple[int, float], ...] = Field((), description="step and score of each validation on the pairs held out")
    unconverged: int = Field(0, description="transport problems, of all steps, that had not converged")
    tuning: tuple[Trial, ...] = Field((), description="how the learning rate was chosen, if it was")
    seconds: float = Field(description="training time")
    provenance: Provenance

    @property
    def requested(self) -> DistillConfig:
        """The options as they were chosen: a rate that was tuned is found, and may differ between seeds of one recipe."""
        default = DistillConfig.model_fields["learning_rate"].default
        return self.config.model_copy(update={"learning_rate": default}) if self.tuning else self.config


class TranslationCard(Schema):
    """The English that was read instead of the captions."""

    by: Literal["file", "translator"]
    source: str = Field(description="name of that file or translator")
    digest: str = Field(description="of the translations, in the order of the captions")


class RegionCard(Schema):
    """The regions of the images, where a score hangs on them."""

    source: str = Field(description="`boxes` that people drew or `proposals` of a detector")
    view: str = Field(description="how a region is shown to the encoder")
    count: int = Field(description="regions of all images of the split")
    digest: str


class Record(Schema):
    """One cell, measured. Holds ids and digests, never a caption or a picture, so that it can be published."""

    schema_version: int = SCHEMA_VERSION
    cell: str = Field(description="digest of all that decides the scores; its name in the store")
    task: str
    task_version: str
    lang: str
    split: str
    source: str = Field(description="caption source")
    kind: str = Field(description="how the captions came to be")
    sample: bool = Field(description="the embedded sample: says nothing about Flickr30k")
    images: int = Field(description="images in the gallery; where texts are looked for, what the queries belong to")
    captions: int = Field(description="captions ranked against it")
    documents: int | None = Field(None, description="texts in the gallery, where texts are looked for")
    headline: str = Field("R@1", description="the measure that towers are compared by")
    images_digest: str
    texts_digest: str
    encoder: str
    encoder_fingerprint: str
    text_tower: str = Field(
        description="`english` for the encoder's own, `translate-test` for the same on translations, else the objective"
    )
    tower: TowerCard | None = Field(description="how the text tower was made, if it was distilled")
    translations: TranslationCard | None = Field(None, description="what the English tower read instead of the captions")
    scorer: str = Field("plain", description="how the gallery is ranked: the cosine of embeddings, or another of `list scorers`")
    regions: RegionCard | None = None
    scores: dict[str, float] = Field(description="hit rates and measures in percent, median ranks, mean of the six hit rates")
    chance: dict[str, float] = Field(description="what a random ranking is expected to have, in percent")
    notes: tuple[str, ...] = ()
    provenance: Provenance

    @property
    def sought(self) -> Sought:
        """What its queries look for."""
        return "texts" if self.documents is not None else "regions" if "pointing" in self.scores else "images"

    @property
    def unit(self) -> str:
        """What its queries are called, in the plural."""
        return QUERY_UNITS[self.sought]

    @property
    def is_english_side(self) -> bool:
        """Whether its captions are the English ones behind translations: see `Retrieval.in_english`."""
        return is_english_side(self.source)
