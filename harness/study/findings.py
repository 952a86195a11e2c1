"""What a study's records say, as data: scores, tests, what is missing, and where all of it came from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from harness.core.objective_terms import Side
from harness.records.schema import Schema
from harness.statistics.comparison_schema import Estimate


class ArmSummary(Schema):
    """An arm as it was asked for."""

    name: str
    side: Side
    objective: str
    init: str
    options: dict[str, Any] = Field(description="those of this arm alone")
    rates: tuple[tuple[float, int], ...] = Field(description="learning rates that its towers were trained with, and how many")
    hours: float = Field(description="of training, over its towers; the search for a rate is not counted")


class LanguageSummary(Schema):
    """A language, its captions and its bitext."""

    code: str
    name: str
    script: str
    tier: int | None
    gallery: str = Field(description="digest of the images; only languages with the same one are averaged")
    images: int
    captions: int
    source: str
    kind: str = Field(description="how the captions came to be")
    texts_digest: str
    usable: int = Field(description="sentence pairs left by the leakage guard")
    dropped: int = Field(description="pairs that the guard dropped")
    bitext: str
    bitext_kind: str
    notes: tuple[str, ...]
    searched: int = Field(0, description="val captions by which learning rates were searched for; 0 for none")
    sample: bool = Field(description="the embedded sample: says nothing about Flickr30k")
    floor: float | None = Field(description="R@1 of the English tower on these captions; null where it was not measured")
    ceiling: float | None = Field(description="R@1 of the English tower on the captions that these were translated from")
    chance: float


class ArmScore(Schema):
    """R@1 of an arm at one size, in percent: mean over its seeds, with an interval over images and seeds."""

    arm: str
    langs: tuple[str, ...] = Field(description="one, or those of a mean in which each counts alike")
    pairs: int | None = Field(description="as asked for; null for all")
    used: float = Field(description="pairs distilled from, mean over languages")
    seeds: tuple[int, ...]
    score: Estimate
    other_way: float = Field(description="R@1 in the other direction")
    cells: tuple[str, ...]


class RivalContrast(Schema):
    """An arm that another was compared with."""

    arm: str
    difference: Estimate
    p_value: float


class PlannedContrast(Schema):
    """An arm against another, or against the best of several: A less B, in points of R@1, over the same images and seeds."""

    arm: str = Field(description="A")
    rival: str = Field(description="B: of several, the one with the highest score here")
    pairs: int | None
    by: str = Field(description="what the queries are chosen by: lang, all, tier or a facet")
    value: str = Field(description="which of them these are")
    langs: tuple[str, ...]
    seeds: tuple[int, ...]
    a: Estimate
    b: Estimate
    difference: Estimate = Field(description="from that rival, with the interval of that pair alone")
    p_value: float = Field(description="two-sided, of A against the best of its rivals, whichever that is")
    p_holm: float = Field(description="adjusted for all tests that the family plans, made or not")
    outcome: Literal["win", "tie", "loss"] = Field(description="of A: told apart if p_holm < 0.05, else a tie")
    minimal_detectable: float | None = Field(description="true difference from that rival that would be found with 80 % power")
    rivals: tuple[RivalContrast, ...] = Field(description="each of those that A was compared with")

    @property
    def gain(self) -> float | None:
        """The difference in percent of B."""
        return (
            100 * self.difference.estimate / self.b.estimate if self.b.estimate and self.difference.estimate is not None else None
        )


class ContrastFamily(Schema):
    """Tests that are held to 5 % together, by Holm. planned: how many the study makes when it is whole."""

    name: str
    planned: int
    verdicts: tuple[PlannedContrast, ...]


class Ablation(Schema):
    """Two arms that differ in one thing."""

    a: str
    b: str
    what: str


class Replication(Schema):
    """A claim, and the same test made with the second seeds; null where that is not there yet."""

    family: str
    claim: PlannedContrast
    again: PlannedContrast | None

    @property
    def same_sign(self) -> bool | None:
        """Whether the second study has A on the same side of B."""
        if self.again is None or self.again.difference.estimate is None or self.claim.difference.estimate is None:
            return None
        return self.again.difference.estimate * self.claim.difference.estimate > 0

    @property
    def same(self) -> bool | None:
        """Whether it makes the same claim."""
        return None if self.again is None else self.again.outcome == self.claim.outcome


class MissingCells(Schema):
    """Cells of one language, size and block of seeds that are not there. reason: why, where it is known."""

    lang: str
    pairs: int | None
    seeds: tuple[int, ...]
    cells: int
    planned: int
    reason: str = ""


class Origin(Schema):
    """Code and machines that measured some of the records."""

    records: int
    version: str
    commit: str | None
    dirty: bool | None
    python: str
    platform: str
    packages: dict[str, str]
    device: str
    first: str
    last: str


class Findings(Schema):
    """A study's report as data."""

    schema_version: int = 1
    title: str
    question: str
    digest: str = Field(description="of the study's configuration")
    command: str = Field(description="that made this report")
    task: str
    task_version: str
    split: str
    sample: bool
    direction: Literal["t2i", "i2t"]
    encoder: str
    encoder_fingerprint: str
    sizes: tuple[int | None, ...]
    seeds: tuple[int, ...]
    replicate: tuple[int, ...]
    shared: dict[str, Any] = Field(description="options of distillation that all arms share, where they are not the defaults")
    tuned: bool
    resamples: int
    baseline: str = Field(description="the first standard arm, which facets are broken down against")
    arms: tuple[ArmSummary, ...]
    languages: tuple[LanguageSummary, ...]
    planned: int = Field(description="cells of the whole study")
    done: int
    points: tuple[ArmScore, ...]
    by_language: ContrastFamily
    means: ContrastFamily
    by_tier: ContrastFamily
    facets: tuple[ContrastFamily, ...]
    ablated: tuple[Ablation, ...]
    ablations: ContrastFamily
    ablation_means: ContrastFamily
    repeated: tuple[Replication, ...]
    found_later: int = Field(description="tests that only the second seeds told apart")
    left: tuple[MissingCells, ...]
    impossible: tuple[tuple[str, int | None, str], ...] = Field(description="language, size (0: every size) and reason")
    unconverged: int = Field(description="transport problems in training that had not converged")
    origins: tuple[Origin, ...]

    def arm(self, name: str) -> ArmSummary:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def language(self, code: str) -> str:
        """A language's name."""
        return next((each.name for each in self.languages if each.code == code), code)
