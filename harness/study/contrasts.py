"""The planned contrasts of a study, and the families in which their p-values are corrected.

A transport arm is tested against the best standard arm (`statistics.inference.against_the_best`). A test needs all its seeds.
Holm counts every planned test, so that results of an unfinished study remain valid when it is complete.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from harness.core.arms import STEPLESS
from harness.core.config import field_label
from harness.records.files import load_facets
from harness.statistics.comparison_schema import BY_LANGUAGE, BY_NOTHING, BY_TIER, ComparisonLine, ComparisonOptions, Estimate
from harness.statistics.comparison_sections import comparison_section, secondary_outcomes
from harness.statistics.inference import ALPHA, PairedArms, against_the_best, contrasts, holm
from harness.statistics.matching import RecordPair, StoredRecord
from harness.statistics.measurement import DIRECTIONS, Measurement
from harness.statistics.methods.equivalence import equivalence_to_best, one_sided_tests
from harness.statistics.methods.meta_analysis import random_effects
from harness.statistics.paired_runs import PairedRuns
from harness.study.design import Arm, StudyConfig
from harness.study.findings import (
    Ablation,
    ArmScore,
    ContrastFamily,
    Heterogeneity,
    LanguageSummary,
    PlannedContrast,
    RivalContrast,
    SecondaryContrast,
)
from harness.study.grid import GridPosition

_LEAST_RESAMPLES = 10_000


@dataclass(frozen=True)
class StudyRecords:
    """The records of a study.

    grid: every position that the data allow. done: the existing records. looks: at the data, this one included.
    """

    config: StudyConfig
    languages: Mapping[str, LanguageSummary]
    grid: frozenset[GridPosition]
    done: Mapping[GridPosition, StoredRecord]
    looks: int = 1
    _read: dict[Path, Measurement] = field(default_factory=dict, init=False, repr=False, compare=False)

    def read(self, label: str, folder: Path) -> Measurement:
        """Return a record with its ranks. Each record is read once."""
        if folder not in self._read:
            self._read[folder] = Measurement.read(label, folder)
        return self._read[folder]

    def entries(self, arm: str, lang: str, pairs: int | None, seeds: Iterable[int]) -> tuple[StoredRecord, ...]:
        """Return the existing records of an arm in ascending order of seed."""
        places = (GridPosition(arm, lang, pairs, seed) for seed in sorted(seeds))
        return tuple(self.done[place] for place in places if place in self.done)

    def possible(self, pairs: int | None) -> list[str]:
        """Return the languages with enough sentence pairs for a size."""
        return [lang for lang in self.languages if any(place.lang == lang and place.pairs == pairs for place in self.grid)]

    def galleries(self, pairs: int | None) -> list[list[str]]:
        """Group these languages by evaluation images. Scores over different galleries are not averaged."""
        groups: dict[str, list[str]] = {}
        for lang in self.possible(pairs):
            groups.setdefault(self.languages[lang].gallery, []).append(lang)
        return list(groups.values())

    @cached_property
    def resamples(self) -> int:
        """Number of resamples and sign flips: enough for a significant p-value after Holm over all planned tests."""
        tests = len(self.config.on("transport")) * sum(len(self.possible(pairs)) for pairs in self.config.sizes)
        # The smallest p-value of m flips is 1 / (m + 1). Holm and Bonferroni multiply it by tests and rivals.
        needed = len(self.config.rivals) * tests / ALPHA
        return self.config.resamples or max(_LEAST_RESAMPLES, int(np.ceil(needed / 1000)) * 1000)

    def question(self, *by: str) -> ComparisonOptions:
        """Return the options for comparing two arms."""
        return ComparisonOptions("r1", (self.config.direction,), by, resamples=self.resamples)


def arm_scores(evidence: StudyRecords) -> list[ArmScore]:
    """Return the scores of every arm for each language, and the means over the languages of a gallery."""
    found = []
    for pairs in evidence.config.sizes:
        for langs in evidence.galleries(pairs):
            found += gallery_scores(evidence, pairs, langs)
    return found


def gallery_scores(evidence: StudyRecords, pairs: int | None, langs: Sequence[str]) -> list[ArmScore]:
    """Return the scores at one size in the languages of one gallery, all from the same resamples."""
    cells = {
        (arm.name, lang): entries
        for arm in evidence.config.arms
        for lang in langs
        if (entries := evidence.entries(arm.name, lang, pairs, evidence.config.seeds))
    }
    if not cells:
        return []
    keys = list(cells)
    rows = [{at: 1.0} for at in range(len(keys))]
    for arm in evidence.config.arms:
        at = [keys.index((arm.name, lang)) for lang in langs if (arm.name, lang) in cells]
        seeds = {tuple(entry.seed() for entry in cells[keys[place]]) for place in at}
        if len(langs) > 1 and len(at) == len(langs) and len(seeds) == 1:
            rows.append(dict.fromkeys(at, 1 / len(at)))
    # Only the interval of each arm alone is needed.
    arms = [paired_with_itself(evidence, entries) for entries in cells.values()]
    scored = contrasts(arms, rows, resamples=evidence.resamples)
    return [
        arm_score(evidence, pairs, [keys[at] for at in row], cells, Estimate.of(each.a))
        for row, each in zip(rows, scored, strict=True)
    ]


def paired_with_itself(evidence: StudyRecords, entries: Sequence[StoredRecord]) -> PairedArms:
    """Return the hits of an arm in one language as both sides of a pair."""
    direction = evidence.config.direction
    towers = [evidence.read(entry.record.text_tower, entry.folder) for entry in entries]
    hits = np.stack([tower.hits(direction)[:, 0] for tower in towers])
    seeds = tuple(str(entry.seed()) for entry in entries)
    return PairedArms(hits, hits, towers[0].clusters(direction), seeds, seeds, 100)


def arm_score(
    evidence: StudyRecords,
    pairs: int | None,
    keys: Sequence[tuple[str, str]],
    cells: Mapping[tuple[str, str], Sequence[StoredRecord]],
    score: Estimate,
) -> ArmScore:
    """Return one score with the cells that it comes from."""
    entries = [entry for key in keys for entry in cells[key]]
    other = "i2t" if evidence.config.direction == "t2i" else "t2i"
    used = [entry.record.tower.bitext.used for entry in entries if entry.record.tower]
    return ArmScore(
        arm=keys[0][0],
        langs=tuple(lang for _, lang in keys),
        pairs=pairs,
        used=float(np.mean(used)),
        seeds=tuple(entry.record.tower.config.seed for entry in cells[keys[0]] if entry.record.tower),
        score=score,
        other_way=float(np.mean([entry.record.scores[f"{other}_r1"] for entry in entries])),
        cells=tuple(entry.record.cell for entry in entries),
    )


LineKey = tuple[str, str, tuple[str, ...]]
"""Grouping, group and languages of a line."""


def compare_arms(
    evidence: StudyRecords, a: str, b: str, pairs: int | None, seeds: Sequence[int], *facets: str
) -> dict[LineKey, ComparisonLine]:
    """Compare two arms by language where both have all seeds, and by tier and overall if no language is missing.

    facets: group by these instead of languages and tiers.
    """
    found: dict[LineKey, ComparisonLine] = {}
    for langs in evidence.galleries(pairs):
        sides = {lang: tuple(evidence.entries(arm, lang, pairs, seeds) for arm in (a, b)) for lang in langs}
        ready = {lang: both for lang, both in sides.items() if all(len(entries) == len(seeds) for entries in both)}
        if not ready:
            continue
        laid = [PairedRuns.of(RecordPair(*both), [], evidence.read) for both in ready.values()]
        whole = len(ready) == len(langs)
        by = facets or ((BY_LANGUAGE, BY_TIER) if whole else (BY_LANGUAGE,))
        for line in comparison_section(laid, evidence.config.direction, "R@1", evidence.question(*by)).lines:
            if whole or line.by == BY_LANGUAGE:
                found[line.by, line.value, line.langs] = line
    return found


def transport_contrasts(evidence: StudyRecords, seeds: Sequence[int]) -> list[PlannedContrast]:
    """Compare every transport arm with the best arm without transport by language, by tier and overall. Not adjusted."""
    found = []
    for pairs in evidence.config.sizes:
        for arm in evidence.config.on("transport"):
            rivals = {other.name: compare_arms(evidence, arm.name, other.name, pairs, seeds) for other in evidence.config.rivals}
            first, *others = rivals.values()
            for key in first:
                if all(key in other for other in others):
                    lines = {name: of[key] for name, of in rivals.items()}
                    found.append(contrast_with_best(arm.name, pairs, seeds, lines, evidence.config.margin))
    return found


def contrast_with_best(
    arm: str, pairs: int | None, seeds: Sequence[int], lines: Mapping[str, ComparisonLine], margin: float | None
) -> PlannedContrast:
    """Return the contrast of an arm with the best of others.

    The shown rival has the highest score. The p-values do not depend on that choice.
    """
    differences = [line.difference.estimate or 0.0 for line in lines.values()]
    best = list(lines)[int(np.argmin(differences))]
    shown = lines[best]
    return PlannedContrast(
        arm=arm,
        rival=best,
        pairs=pairs,
        by=shown.by,
        value=shown.value,
        langs=shown.langs,
        seeds=tuple(seeds),
        a=shown.a,
        b=shown.b,
        difference=shown.difference,
        p_value=against_the_best(differences, [line.p_value for line in lines.values()]),
        p_holm=1.0,
        outcome="tie",
        p_equivalence=equivalence_p_value(lines.values(), margin),
        relative=shown.gain,
        rivals=tuple(
            RivalContrast(arm=name, difference=line.difference, p_value=line.p_value, error=line.error)
            for name, line in lines.items()
        ),
    )


def equivalence_p_value(lines: Iterable[ComparisonLine], margin: float | None) -> float | None:
    """Return the p-value of equivalence with the best of some arms; None without a margin or a standard error."""
    if margin is None:
        return None
    tests = [
        one_sided_tests(
            line.difference.estimate or 0.0,
            math.nan if line.error is None else line.error,
            math.inf if line.freedom is None else line.freedom,
            margin,
        )
        for line in lines
    ]
    p_value = equivalence_to_best(tests)
    return None if math.isnan(p_value) else p_value


def adjusted_family(name: str, members: Sequence[PlannedContrast], planned: int, looks: int) -> ContrastFamily:
    """Return a family with p-values after Holm over all planned tests, times the looks. Missing tests count with p = 1."""
    missing = planned - len(members)
    adjusted = holm([each.p_value for each in members] + [1.0] * missing)
    adjusted = [min(1.0, looks * p) for p in adjusted]
    same = holm([1.0 if each.p_equivalence is None else each.p_equivalence for each in members] + [1.0] * missing)
    told = [
        each.model_copy(update={"p_holm": p, "outcome": contrast_outcome(each, p), "p_equivalence": each.p_equivalence and q})
        for each, p, q in zip(members, adjusted, same, strict=False)
    ]
    return ContrastFamily(name=name, planned=planned, verdicts=tuple(told))


def contrast_outcome(of: PlannedContrast, p_holm: float) -> str:
    """Return the outcome of a contrast: a tie unless it is significant."""
    ahead = of.difference.estimate or 0.0
    return "tie" if p_holm >= ALPHA or ahead == 0 else "win" if ahead > 0 else "loss"


def transport_families(evidence: StudyRecords, seeds: Sequence[int]) -> tuple[ContrastFamily, ContrastFamily, ContrastFamily]:
    """Return the families of transport against the best arm without it: by language, overall, and by tier.

    A tier that holds all languages of a mean is that mean, and is not tested twice.
    """
    found, arms = transport_contrasts(evidence, seeds), len(evidence.config.on("transport"))
    groups = [langs for pairs in evidence.config.sizes for langs in evidence.galleries(pairs)]
    planned = {
        BY_LANGUAGE: sum(map(len, groups)),
        BY_NOTHING: sum(len(langs) > 1 for langs in groups),
        BY_TIER: sum(len(own) for langs in groups if len(own := {evidence.languages[lang].tier for lang in langs}) > 1),
    }
    galleries = [set(langs) for langs in groups]
    tested = [each for each in found if each.by != BY_TIER or set(each.langs) not in galleries]
    names = {BY_LANGUAGE: "languages", BY_NOTHING: "means", BY_TIER: "tiers"}
    by_lang, means, tiers = (
        adjusted_family(names[by], [each for each in tested if each.by == by], arms * count, evidence.looks)
        for by, count in planned.items()
    )
    return by_lang, means, tiers


def secondary_contrasts(evidence: StudyRecords, chosen: Sequence[PlannedContrast]) -> list[SecondaryContrast]:
    """Return each chosen contrast with its shown rival by the secondary measures of both directions."""
    found = []
    for each in chosen:
        sides = {
            lang: tuple(evidence.entries(arm, lang, each.pairs, each.seeds) for arm in (each.arm, each.rival))
            for lang in each.langs
        }
        laid = [PairedRuns.of(RecordPair(*both), [], evidence.read) for both in sides.values()]
        outcomes = secondary_outcomes(laid, [(evidence.config.direction, "R@1")], DIRECTIONS, evidence.resamples)
        place = {"arm": each.arm, "rival": each.rival, "pairs": each.pairs, "langs": each.langs}
        found += [SecondaryContrast(**outcome.model_dump(), **place) for outcome in outcomes]
    return found


def heterogeneity(means: Sequence[PlannedContrast], languages: Sequence[PlannedContrast]) -> Iterator[Heterogeneity]:
    """Yield the random-effects mean of each mean over languages, against the rival that is shown with it."""
    for each in means:
        alike = [of for of in languages if of.arm == each.arm and of.pairs == each.pairs and of.langs[0] in each.langs]
        rivals = [rival for of in alike for rival in of.rivals if rival.arm == each.rival]
        known = [(rival.difference.estimate, rival.error) for rival in rivals]
        pairs = [(estimate, error) for estimate, error in known if estimate is not None and error]
        if len(pairs) == len(each.langs) > 1:
            found = random_effects(*zip(*pairs, strict=True))
            yield Heterogeneity(
                arm=each.arm,
                rival=each.rival,
                pairs=each.pairs,
                langs=each.langs,
                mean=Estimate(estimate=found.estimate, low=found.low, high=found.high),
                tau=found.tau,
                q=found.q,
                p_heterogeneity=found.p_heterogeneity,
                i_squared=found.i_squared,
            )


def facet_families(evidence: StudyRecords) -> list[ContrastFamily]:
    """Return the families of transport arms against the first standard arm, one for each facet that all records have."""
    config = evidence.config
    if config.direction != "t2i":
        return []
    baseline, arms = config.on("standard")[0].name, [arm.name for arm in config.on("transport")]
    # Seeds share the captions and so the facets: one record for each arm and language is enough.
    firsts = {(place.arm, place.lang, place.pairs): entry.folder for place, entry in evidence.done.items() if place.arm in arms}
    there = {key: load_facets(folder) for key, folder in firsts.items()}
    found = []
    for name in config.by:
        if there and all(name in names for names in there.values()):
            values = {lang: {value for of in names[name] for value in of} for (_, lang, _), names in there.items()}
            members = [
                contrast_with_best(arm, pairs, config.seeds, {baseline: line}, config.margin)
                for pairs in config.sizes
                for arm in arms
                for line in compare_arms(evidence, arm, baseline, pairs, config.seeds, name).values()
                if line.by == name
            ]
            groups = [langs for pairs in config.sizes for langs in evidence.galleries(pairs)]
            planned = len(arms) * sum(len(set().union(*(values.get(lang, set()) for lang in langs))) for langs in groups)
            found.append(adjusted_family(name, members, planned, evidence.looks))
    return found


def find_ablations(config: StudyConfig) -> list[Ablation]:
    """Return pairs of arms that differ in one thing.

    Pairs that differ only in the objective, and that the study compares anyway, are omitted. A is the arm with transport. If both
    or neither have transport, it is the later one.
    """
    found = []
    for one, other in combinations(config.arms, 2):
        a, b = (one, other) if one.side == "transport" != other.side else (other, one)
        if what := single_change(a, b):
            found.append(Ablation(a=a.name, b=b.name, what=what))
    return found


def single_change(a: Arm, b: Arm) -> str:
    """Return the single difference between two arms, or an empty text if there are several or it is no ablation."""
    changes = [
        field_label(key) for key in sorted(a.options.keys() | b.options.keys()) if a.options.get(key) != b.options.get(key)
    ]
    if a.init != b.init:
        changes.append("start")
    if a.objective != b.objective:
        changes.append("training" if {a.objective, b.objective} & set(STEPLESS) else "objective")
    if changes == ["objective"]:
        # An objective with transport against one without is an ablation only if both arms use transport.
        both = a.side == b.side == "transport"
        return "objective" if both and ("ot-" in a.objective) != ("ot-" in b.objective) else ""
    return changes[0] if len(changes) == 1 else ""


def ablation_families(
    evidence: StudyRecords, pairs_of_arms: Sequence[Ablation], seeds: Sequence[int]
) -> tuple[ContrastFamily, ContrastFamily]:
    """Return the families of ablations: by language and overall."""
    found = [
        contrast_with_best(each.a, pairs, seeds, {each.b: line}, evidence.config.margin)
        for each in pairs_of_arms
        for pairs in evidence.config.sizes
        for line in compare_arms(evidence, each.a, each.b, pairs, seeds).values()
    ]
    groups = [langs for pairs in evidence.config.sizes for langs in evidence.galleries(pairs)]
    counts = {BY_LANGUAGE: sum(map(len, groups)), BY_NOTHING: sum(len(langs) > 1 for langs in groups)}
    names = {BY_LANGUAGE: "ablations", BY_NOTHING: "ablation means"}
    by_lang, means = (
        adjusted_family(names[by], [each for each in found if each.by == by], len(pairs_of_arms) * count, evidence.looks)
        for by, count in counts.items()
    )
    return by_lang, means
