"""Options and results of a comparison: the schema of the JSON that `compare --format json` prints."""

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
)  # what is not a facet: chosen by these, a language's queries stay together


@dataclass(frozen=True)
class ComparisonOptions:
    """What is asked of two sides. by: what lines are chosen by; langs: which languages, () for all; pairs: size of the bitext.

    metric: a column of the tables, as `r1`, `R@10` or `ndcg@10`; empty for what each task compares towers by.
    """

    metric: str = ""
    directions: tuple[Direction, ...] = ("t2i", "i2t")
    by: tuple[str, ...] = (BY_LANGUAGE,)
    langs: tuple[str, ...] = ()
    pairs: int | None = None
    resamples: int = 10_000

    def __post_init__(self) -> None:
        """Raises HarnessError if facets are asked for where there are none."""
        facets = [name for name in self.by if name not in LANGUAGE_GROUPINGS]
        if facets and "t2i" not in self.directions:
            raise HarnessError(f"--by {facets[0]}: facets are of captions; ask with --direction t2i")


class Estimate(Schema):
    """An estimate with its 95 % interval; null where none can be given."""

    estimate: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, interval: Interval) -> Estimate:
        """Take over an interval."""
        return cls(
            estimate=finite_or_none(interval.estimate), low=finite_or_none(interval.low), high=finite_or_none(interval.high)
        )


class ComparisonLine(Schema):
    """A against B over some of the queries. Scores are hit rates in percent, differences in points; p-values are two-sided."""

    by: str = Field(description="what the queries are chosen by: all, lang, tier, source, or a facet of the captions")
    value: str = Field(description="which of them these are")
    langs: tuple[str, ...] = Field(description="languages, each of the same weight")
    queries: int = Field(description="queries of one seed, over all languages")
    a: Estimate
    b: Estimate
    difference: Estimate = Field(description="A less B: bootstrap of images, and of seeds where there are several")
    p_value: float = Field(
        description="of the difference; with several seeds the larger of p_sign_flip and a t over seeds and images"
    )
    p_holm: float = Field(description="p_value adjusted for all lines that are chosen by the same thing in the same table")
    p_sign_flip: float = Field(description="sign flips over images, of these very towers")
    outcome: Literal["win", "tie", "loss"] = Field(description="of A: told apart if p_holm < 0.05, else a tie")
    only_a: int | None = Field(description="McNemar's b: queries that A alone got right; null where seeds are not the same")
    only_b: int | None = Field(description="McNemar's c: queries that B alone got right")
    p_mcnemar: float | None = Field(description="exact; null unless there is one seed, one language, and one query an image")
    minimal_detectable: float | None = Field(description="true difference that would be found with 80 % power")
    image_error: float | None = Field(description="standard error of the difference from the choice of images")
    seed_error: float | None = Field(description="what the choice of seeds adds to it; null with one seed")
    gap_a: Estimate | None = Field(description="share of the gap to English that A recovers; null without floor and ceiling")
    gap_b: Estimate | None


class ComparisonSection(Schema):
    """One direction. wins, ties, losses: languages, of A."""

    direction: Direction
    wins: int
    ties: int
    losses: int
    lines: tuple[ComparisonLine, ...]


class PairedRecords(Schema):
    """The records that were laid side by side in one language."""

    lang: str
    source: str
    kind: str
    captions: int
    cells_a: tuple[str, ...]
    cells_b: tuple[str, ...]
    seeds_a: tuple[int | None, ...]
    seeds_b: tuple[int | None, ...]


class ComparisonSetting(Schema):
    """What may be averaged: one gallery, one encoder and one recipe a side, in all languages that have them."""

    metric: str = Field(description="what is compared: `R@1`, or a measure of the records")
    sought: Sought = Field(description="what the queries look for")
    task: str
    task_version: str
    split: str
    sample: bool
    images: int
    images_digest: str
    encoders: tuple[str, ...] = Field(description="A's and B's, or the one that both have")
    a: str = Field(description="A's text tower")
    b: str
    pairs: tuple[int, ...] = Field(description="sentence pairs that the towers were distilled from")
    differences: tuple[str, ...] = Field(description="what else than the objective differs between A and B")
    paired: tuple[PairedRecords, ...]
    sections: tuple[ComparisonSection, ...]


class UnpairedRecord(Schema):
    """A record that could not be compared, and why."""

    side: str
    cell: str
    lang: str
    text_tower: str
    reason: str


class Comparison(Schema):
    """A against B."""

    schema_version: int = 1
    a: str = Field(description="as it was asked for")
    b: str
    metric: str = Field(description="as it was asked for; empty: what each task compares towers by")
    resamples: int
    settings: tuple[ComparisonSetting, ...]
    unpaired: tuple[UnpairedRecord, ...]


def finite_or_none(value: float) -> float | None:
    """A number, or None for NaN and infinity, which JSON has no word for."""
    return float(value) if math.isfinite(value) else None
