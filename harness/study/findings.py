"""Findings of a study as data: scores, contrasts, missing cells and origins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from harness.core.arms import InitializerName, Side
from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.records.schema import Schema
from harness.statistics.comparison_schema import Estimate, SecondaryOutcome
from harness.storage.plain_files import check_plain_file


class ArmSummary(Schema):
    """An arm with its options, learning rates and training time."""

    name: str
    side: Side
    objective: str
    init: InitializerName
    options: dict[str, Any] = Field(description="options of this arm only")
    rates: tuple[tuple[float, int], ...] = Field(description="learning rates of its towers, with the number of towers")
    vocabularies: tuple[tuple[int, int], ...] = Field((), description="numbers of subwords that a search chose, with the towers")
    steps: tuple[tuple[int, int], ...] = Field((), description="numbers of steps that a search chose, with the towers")
    hours: float = Field(description="training time of its towers, without the search")
    trials: int = Field(0, description="trainings of its search; 0 in findings of earlier versions")
    search_hours: float = Field(0.0, description="training time of its search; 0 in findings of earlier versions")


class LanguageSummary(Schema):
    """A language, its captions and its bitext."""

    code: str
    name: str
    script: str
    tier: int | None
    gallery: str = Field(description="digest of the images; only languages with equal digests are averaged")
    images: int
    captions: int
    source: str
    kind: str = Field(description="how the captions were made")
    texts_digest: str
    usable: int = Field(description="sentence pairs that the leakage guard left")
    dropped: int = Field(description="pairs that the guard dropped")
    bitext: str
    bitext_kind: str
    notes: tuple[str, ...]
    searched: int = Field(0, description="val captions used for the search of learning rates; 0 for none")
    sample: bool = Field(description="whether this is the embedded sample and not Flickr30k")
    floor: float | None = Field(description="R@1 of the English tower on these captions; null if not measured")
    ceiling: float | None = Field(description="R@1 of the English tower on the English captions")
    chance: float


class ArmScore(Schema):
    """R@1 of an arm at one size in percent: the mean over its seeds, with a confidence interval over images and seeds."""

    arm: str
    langs: tuple[str, ...] = Field(description="one, or those of a mean with equal weights")
    pairs: int | None = Field(description="as requested; null for all")
    used: float = Field(description="sentence pairs used, mean over languages")
    seeds: tuple[int, ...]
    score: Estimate
    other_way: float = Field(description="R@1 in the other direction")
    cells: tuple[str, ...]


class RivalContrast(Schema):
    """The difference from one rival arm."""

    arm: str
    difference: Estimate
    p_value: float
    error: float | None = Field(None, description="standard error of the difference; null in findings of earlier versions")


class PlannedContrast(Schema):
    """An arm minus another, or minus the best of several, in points of R@1 over the same images and seeds."""

    arm: str = Field(description="A")
    rival: str = Field(description="B: of several, the one with the highest score")
    pairs: int | None
    by: str = Field(description="grouping of the queries: lang, all, tier or a facet")
    value: str = Field(description="group of the queries")
    langs: tuple[str, ...]
    seeds: tuple[int, ...]
    a: Estimate
    b: Estimate
    difference: Estimate = Field(description="from that rival, with the confidence interval of that pair alone")
    p_value: float = Field(description="two-sided, of A against the best of its rivals")
    p_holm: float = Field(description="p_value after Holm over all planned tests of the family")
    outcome: Literal["win", "tie", "loss"] = Field(description="of A: significant if p_holm < 0.05, else a tie")
    p_equivalence: float | None = Field(
        None, description="of equivalence with the best of its rivals, after Holm over the family; null without a margin"
    )
    relative: Estimate | None = Field(None, description="A / B - 1 with its interval; null in findings of earlier versions")
    rivals: tuple[RivalContrast, ...] = Field(description="all arms that A was compared with")

    @model_validator(mode="before")
    @classmethod
    def _without_post_hoc_power(cls, value: object) -> object:
        """Drop the minimum detectable effect, which findings of earlier versions have."""
        if isinstance(value, dict):
            return {key: each for key, each in value.items() if key != "minimal_detectable"}
        return value

    @property
    def gain(self) -> float | None:
        """The difference in percent of B."""
        if self.relative:
            return None if self.relative.estimate is None else 100 * self.relative.estimate
        return (
            100 * self.difference.estimate / self.b.estimate if self.b.estimate and self.difference.estimate is not None else None
        )


class ContrastFamily(Schema):
    """Contrasts with a family-wise error rate of 5 % after Holm's correction. planned: their number in the complete study."""

    name: str
    planned: int
    verdicts: tuple[PlannedContrast, ...]


class SecondaryContrast(SecondaryOutcome):
    """A transport arm against the arm without transport that has the highest score, by another measure than the primary one."""

    arm: str
    rival: str
    pairs: int | None
    langs: tuple[str, ...]


class Heterogeneity(Schema):
    """The random-effects mean of a transport arm minus one rival over languages, in points, and how much the languages differ."""

    arm: str
    rival: str
    pairs: int | None
    langs: tuple[str, ...]
    mean: Estimate
    tau: float = Field(description="standard deviation of the difference between languages")
    q: float = Field(description="Cochran's Q")
    p_heterogeneity: float
    i_squared: float = Field(description="share of the variation that is not sampling error")


class Ablation(Schema):
    """Two arms that differ in one thing."""

    a: str
    b: str
    what: str


class Replication(Schema):
    """A significant contrast and its replication with other seeds, or null if that is missing."""

    family: str
    claim: PlannedContrast
    again: PlannedContrast | None

    @property
    def same_sign(self) -> bool | None:
        """Return whether the replication has the same sign."""
        if self.again is None or self.again.difference.estimate is None or self.claim.difference.estimate is None:
            return None
        return self.again.difference.estimate * self.claim.difference.estimate > 0

    @property
    def same(self) -> bool | None:
        """Return whether the replication has the same outcome."""
        return None if self.again is None else self.again.outcome == self.claim.outcome


class MissingCells(Schema):
    """Missing cells of one language, size and block of seeds. reason: empty if unknown."""

    lang: str
    pairs: int | None
    seeds: tuple[int, ...]
    cells: int
    planned: int
    reason: str = ""


class Origin(Schema):
    """Code and machine of some of the records."""

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
    """The findings of a study, from which its report is made."""

    schema_version: int = 1
    title: str
    question: str
    digest: str = Field(description="of the study's configuration")
    command: str = Field(description="command that made this report")
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
    shared: dict[str, Any] = Field(description="options of distillation that all arms share and that are not defaults")
    tuned: bool
    resamples: int
    margin: float | None = Field(None, description="of equivalence, in points; null if none was declared")
    looks: int = Field(1, description="reports with different sets of seeds, this one included; p_holm is multiplied by it")
    primary: Literal["means", "languages"] = Field("languages", description="the family that the answer is about")
    baseline: str = Field(description="first standard arm, the reference of the facets")
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
    secondary: tuple[SecondaryContrast, ...] = ()
    random_effects: tuple[Heterogeneity, ...] = ()
    repeated: tuple[Replication, ...]
    found_later: int = Field(description="contrasts that are significant with the replication seeds only")
    left: tuple[MissingCells, ...]
    impossible: tuple[tuple[str, int | None, str], ...] = Field(description="language, size (0: every size) and reason")
    unconverged: int = Field(description="transport problems in training that did not converge")
    origins: tuple[Origin, ...]

    def arm(self, name: str) -> ArmSummary:
        """Return the arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def language(self, code: str) -> str:
        """Return a language's name."""
        return next((each.name for each in self.languages if each.code == code), code)


def load_findings(path: Path) -> Findings:
    """Read the findings of a study from their JSON file. Raises HarnessError if the file is missing, or holds something else."""
    check_plain_file(path)
    try:
        return Findings.model_validate_json(path.read_bytes())
    except OSError as error:
        raise HarnessError(f"{path} cannot be read ({error.strerror}): pass the findings.json of a study's report") from None
    except ValidationError as error:
        raise HarnessError(f"{path} does not hold the findings of a study: {short_message(error)}") from None
