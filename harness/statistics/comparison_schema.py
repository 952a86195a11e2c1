"""Options and results of a comparison. The results are the schema of `compare --format json`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from harness.core.data import Sought
from harness.core.errors import HarnessError
from harness.records.schema import Schema
from harness.statistics.inference import Interval
from harness.statistics.measurement import Direction

BY_LANGUAGE, BY_TIER, BY_SOURCE, BY_NOTHING = "lang", "tier", "source", "all"


LANGUAGE_GROUPINGS = (
    BY_LANGUAGE,
    BY_TIER,
    BY_SOURCE,
    BY_NOTHING,
)  # groupings that are not facets: they do not split the queries of a language


@dataclass(frozen=True)
class ComparisonOptions:
    """Options of a comparison.

    by: groupings of the queries. langs: languages, () for all. pairs: size of the bitext. metric: a column such as `r1`, `R@10`
    or `ndcg@10`; empty for each task's primary measure. margin: of equivalence, in points; None for no equivalence test.
    """

    metric: str = ""
    directions: tuple[Direction, ...] = ("t2i", "i2t")
    by: tuple[str, ...] = (BY_LANGUAGE,)
    langs: tuple[str, ...] = ()
    pairs: int | None = None
    resamples: int = 10_000
    margin: float | None = None

    def __post_init__(self) -> None:
        """Raise HarnessError if facets are requested for images."""
        facets = [name for name in self.by if name not in LANGUAGE_GROUPINGS]
        if facets and "t2i" not in self.directions:
            raise HarnessError(f"--by {facets[0]}: only captions have facets; use --direction t2i")


class Estimate(Schema):
    """An estimate with its 95 % confidence interval. Missing values are null."""

    estimate: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, interval: Interval) -> Estimate:
        """Convert an interval."""
        return cls(
            estimate=finite_or_none(interval.estimate), low=finite_or_none(interval.low), high=finite_or_none(interval.high)
        )


class ComparisonLine(Schema):
    """A against B over one group of queries.

    Scores are in percent, differences in points, p-values two-sided.
    """

    by: str = Field(description="grouping of the queries: all, lang, tier, source, or a facet of the captions")
    value: str = Field(description="group of the queries")
    langs: tuple[str, ...] = Field(description="languages, with equal weights")
    queries: int = Field(description="queries of one seed, over all languages")
    a: Estimate
    b: Estimate
    difference: Estimate = Field(description="A minus B, from a bootstrap of images, and of seeds if there are several")
    p_value: float = Field(
        description="of the difference; with several seeds, the larger one of p_sign_flip and of a t-test over seeds and images"
    )
    p_holm: float = Field(description="p_value after Holm over all lines of the same grouping in the same section")
    p_sign_flip: float = Field(description="sign-flip test over images, with the seeds held fixed")
    outcome: Literal["win", "tie", "loss"] = Field(description="of A: significant if p_holm < 0.05, else a tie")
    only_a: int | None = Field(description="McNemar's b: queries that only A got right; null if the seeds differ")
    only_b: int | None = Field(description="McNemar's c: queries that only B got right")
    p_mcnemar: float | None = Field(description="exact; null unless there is one seed, one language and one query for each image")
    error: float | None = Field(description="standard error of the difference, over images and seeds")
    freedom: float | None = Field(description="degrees of freedom of that error; null for infinitely many")
    p_equivalence: float | None = Field(
        description="two one-sided tests of |difference| < margin, after Holm over the lines of p_holm; null without a margin"
    )
    image_error: float | None = Field(description="standard error of the difference from the choice of images")
    seed_error: float | None = Field(description="addition to it from the choice of seeds; null with one seed")
    gain: Estimate = Field(description="A / B - 1; without ends if B is not clearly above 0")
    gap_a: Estimate | None = Field(description="share of the gap to English that A recovers; null without floor or ceiling")
    gap_b: Estimate | None


class ComparisonSection(Schema):
    """One direction. wins, ties, losses: numbers of languages, from the side of A. A tie is inconclusive or equivalent."""

    direction: Direction
    wins: int
    ties: int
    losses: int
    lines: tuple[ComparisonLine, ...]


class SecondaryOutcome(Schema):
    """A against B by a measure other than the primary one, over all languages of a setting. In percent and points."""

    direction: Direction
    metric: str
    a: Estimate
    b: Estimate
    difference: Estimate
    p_value: float
    p_holm: float = Field(description="p_value after Holm over all secondary outcomes of the setting")


class PairedRecords(Schema):
    """The records of both sides in one language."""

    lang: str
    source: str
    kind: str
    captions: int
    cells_a: tuple[str, ...]
    cells_b: tuple[str, ...]
    seeds_a: tuple[int | None, ...]
    seeds_b: tuple[int | None, ...]


class ComparisonSetting(Schema):
    """A group of languages that may be averaged: they share the gallery, the encoder and the recipe of each side."""

    metric: str = Field(description="compared measure: `R@1` or another measure of the records")
    sought: Sought = Field(description="kind of candidate")
    task: str
    task_version: str
    split: str
    sample: bool
    images: int
    images_digest: str
    encoders: tuple[str, ...] = Field(description="of A and B, once if both have the same")
    a: str = Field(description="A's text tower")
    b: str
    pairs: tuple[int, ...] = Field(description="numbers of sentence pairs of the distilled towers")
    differences: tuple[str, ...] = Field(description="differences between A and B other than the objective")
    paired: tuple[PairedRecords, ...]
    sections: tuple[ComparisonSection, ...]
    secondary: tuple[SecondaryOutcome, ...] = Field(description="both directions, as far as they were compared")


class UnpairedRecord(Schema):
    """A record without a counterpart, and the reason."""

    side: str
    cell: str
    lang: str
    text_tower: str
    reason: str


class Comparison(Schema):
    """The comparison of A with B."""

    schema_version: int = 1
    a: str = Field(description="as requested")
    b: str
    metric: str = Field(description="as requested; empty for each task's primary measure")
    resamples: int
    margin: float | None = Field(description="of equivalence, in points; null if none was given")
    settings: tuple[ComparisonSetting, ...]
    unpaired: tuple[UnpairedRecord, ...]


def finite_or_none(value: float) -> float | None:
    """Return a number, or None for NaN and infinity, which JSON cannot hold."""
    return float(value) if math.isfinite(value) else None
