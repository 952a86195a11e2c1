"""A study's arms against each other: which tests there are, what they say, and in which family each is corrected.

A transport arm is tested against the best standard arm, whichever that is (`statistics.against_the_best`). A test is made once
all its seeds are there, and Holm counts every test that the study plans: what is claimed of a part is claimed of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from harness.core.config import field_label
from harness.core.objective_terms import STEPLESS
from harness.records.files import load_facets
from harness.statistics.comparison_schema import BY_LANGUAGE, BY_NOTHING, BY_TIER, ComparisonLine, ComparisonOptions, Estimate
from harness.statistics.comparison_sections import comparison_section
from harness.statistics.inference import ALPHA, PairedArms, against_the_best, contrasts, holm
from harness.statistics.matching import RecordPair, StoredRecord
from harness.statistics.measurement import Measurement
from harness.statistics.paired_runs import PairedRuns
from harness.study.design import Arm, StudyConfig
from harness.study.findings import Ablation, ArmScore, ContrastFamily, LanguageSummary, PlannedContrast, RivalContrast
from harness.study.grid import GridPosition

_LEAST_RESAMPLES = 10_000


@dataclass(frozen=True)
class StudyRecords:
    """What a study has to tell from. grid: every place that the data allow; done: the records that are there."""

    config: StudyConfig
    languages: Mapping[str, LanguageSummary]
    grid: frozenset[GridPosition]
    done: Mapping[GridPosition, StoredRecord]
    _read: dict[Path, Measurement] = field(default_factory=dict, init=False, repr=False, compare=False)

    def read(self, label: str, folder: Path) -> Measurement:
        """A record with its ranks. Each stands in many comparisons and is read once."""
        if folder not in self._read:
            self._read[folder] = Measurement.read(label, folder)
        return self._read[folder]

    def entries(self, arm: str, lang: str, pairs: int | None, seeds: Iterable[int]) -> tuple[StoredRecord, ...]:
        """The records of an arm that are there, in order of seed."""
        places = (GridPosition(arm, lang, pairs, seed) for seed in sorted(seeds))
        return tuple(self.done[place] for place in places if place in self.done)

    def possible(self, pairs: int | None) -> list[str]:
        """The languages that have so many pairs."""
        return [lang for lang in self.languages if any(place.lang == lang and place.pairs == pairs for place in self.grid)]

    def galleries(self, pairs: int | None) -> list[list[str]]:
        """Those languages, by the images that they are measured on: a hit among fewer images is an easier one."""
        groups: dict[str, list[str]] = {}
        for lang in self.possible(pairs):
            groups.setdefault(self.languages[lang].gallery, []).append(lang)
        return list(groups.values())

    @cached_property
    def resamples(self) -> int:
        """Resamples, and flips of signs: so many that Holm can tell something of as many tests as the study plans."""
        tests = len(self.config.on("transport")) * sum(len(self.possible(pairs)) for pairs in self.config.sizes)
        # The smallest p-value of m flips is 1 / (m + 1); Holm and Bonferroni multiply it by tests and rivals.
        needed = len(self.config.on("standard")) * tests / ALPHA
        return self.config.resamples or max(_LEAST_RESAMPLES, int(np.ceil(needed / 1000)) * 1000)

    def question(self, *by: str) -> ComparisonOptions:
        """What is asked of two arms."""
        return ComparisonOptions("r1", (self.config.direction,), by, resamples=self.resamples)


def arm_scores(evidence: StudyRecords) -> list[ArmScore]:
    """Scores of every arm: of each language with the seeds that are there, and of means over all languages of a gallery."""
    found = []
    for pairs in evidence.config.sizes:
        for langs in evidence.galleries(pairs):
            found += gallery_scores(evidence, pairs, langs)
    return found


def gallery_scores(evidence: StudyRecords, pairs: int | None, langs: Sequence[str]) -> list[ArmScore]:
    """Scores at one size in languages of one gallery, all from the same resamples."""
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
    # Beside itself: what is wanted is the interval of each arm alone.
    arms = [paired_with_itself(evidence, entries) for entries in cells.values()]
    scored = contrasts(arms, rows, resamples=evidence.resamples)
    return [
        arm_score(evidence, pairs, [keys[at] for at in row], cells, Estimate.of(each.a))
        for row, each in zip(rows, scored, strict=True)
    ]


def paired_with_itself(evidence: StudyRecords, entries: Sequence[StoredRecord]) -> PairedArms:
    """The hits of an arm in one language, twice."""
    direction = evidence.config.direction
    towers = [evidence.read(entry.record.text_tower, entry.folder) for entry in entries]
    hits = np.stack([tower.hits(direction)[:, 0] for tower in towers])
    seeds = tuple(str(entry.seed()) for entry in entries)
    return PairedArms(hits, hits, towers[0].clusters(direction), seeds, seeds)


def arm_score(
    evidence: StudyRecords,
    pairs: int | None,
    keys: Sequence[tuple[str, str]],
    cells: Mapping[tuple[str, str], Sequence[StoredRecord]],
    score: Estimate,
) -> ArmScore:
    """One score, with what it was measured from."""
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
"""What a line is over: by what its queries are chosen, which of them, and the languages."""


def compare_arms(
    evidence: StudyRecords, a: str, b: str, pairs: int | None, seeds: Sequence[int], *facets: str
) -> dict[LineKey, ComparisonLine]:
    """An arm against another, by language, wherever both have all of the seeds; by tier and over all once no language is missing.

    facets: break down by these in place of languages and tiers.
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
    """Every transport arm against the best standard one, by language, by tier and over all, not adjusted yet."""
    found = []
    for pairs in evidence.config.sizes:
        for arm in evidence.config.on("transport"):
            rivals = {
                other.name: compare_arms(evidence, arm.name, other.name, pairs, seeds) for other in evidence.config.on("standard")
            }
            first, *others = rivals.values()
            for key in first:
                if all(key in other for other in others):
                    found.append(contrast_with_best(arm.name, pairs, seeds, {name: of[key] for name, of in rivals.items()}))
    return found


def contrast_with_best(arm: str, pairs: int | None, seeds: Sequence[int], lines: Mapping[str, ComparisonLine]) -> PlannedContrast:
    """An arm against the best of others. The one with the highest score is shown; the p-value needs no choice."""
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
        minimal_detectable=shown.minimal_detectable,
        rivals=tuple(RivalContrast(arm=name, difference=line.difference, p_value=line.p_value) for name, line in lines.items()),
    )


def adjusted_family(name: str, members: Sequence[PlannedContrast], planned: int) -> ContrastFamily:
    """Adjust tests for all that are planned: those that cannot be made yet count as if they were to find nothing."""
    adjusted = holm([each.p_value for each in members] + [1.0] * (planned - len(members)))
    told = [
        each.model_copy(update={"p_holm": p, "outcome": contrast_outcome(each, p)})
        for each, p in zip(members, adjusted, strict=False)
    ]
    return ContrastFamily(name=name, planned=planned, verdicts=tuple(told))


def contrast_outcome(of: PlannedContrast, p_holm: float) -> str:
    """Which side is ahead, if they can be told apart."""
    ahead = of.difference.estimate or 0.0
    return "tie" if p_holm >= ALPHA or ahead == 0 else "win" if ahead > 0 else "loss"


def transport_families(evidence: StudyRecords, seeds: Sequence[int]) -> tuple[ContrastFamily, ContrastFamily, ContrastFamily]:
    """Transport against standard distillation: by language, over all languages, and by tier. Each is a family of tests."""
    found, arms = transport_contrasts(evidence, seeds), len(evidence.config.on("transport"))
    groups = [langs for pairs in evidence.config.sizes for langs in evidence.galleries(pairs)]
    planned = {
        BY_LANGUAGE: sum(map(len, groups)),
        BY_NOTHING: sum(len(langs) > 1 for langs in groups),
        BY_TIER: sum(len({evidence.languages[lang].tier for lang in langs}) for langs in groups),
    }
    names = {BY_LANGUAGE: "languages", BY_NOTHING: "means", BY_TIER: "tiers"}
    by_lang, means, tiers = (
        adjusted_family(names[by], [each for each in found if each.by == by], arms * count) for by, count in planned.items()
    )
    return by_lang, means, tiers


def facet_families(evidence: StudyRecords) -> list[ContrastFamily]:
    """Every transport arm against the first standard one, by the values of each facet that all of the records have."""
    config = evidence.config
    if config.direction != "t2i":
        return []
    baseline, arms = config.on("standard")[0].name, [arm.name for arm in config.on("transport")]
    # Facets are of captions: the first record of an arm in a language speaks for its seeds.
    firsts = {(place.arm, place.lang, place.pairs): entry.folder for place, entry in evidence.done.items() if place.arm in arms}
    there = {key: load_facets(folder) for key, folder in firsts.items()}
    found = []
    for name in config.by:
        if there and all(name in names for names in there.values()):
            values = {lang: {value for of in names[name] for value in of} for (_, lang, _), names in there.items()}
            members = [
                contrast_with_best(arm, pairs, config.seeds, {baseline: line})
                for pairs in config.sizes
                for arm in arms
                for line in compare_arms(evidence, arm, baseline, pairs, config.seeds, name).values()
                if line.by == name
            ]
            groups = [langs for pairs in config.sizes for langs in evidence.galleries(pairs)]
            planned = len(arms) * sum(len(set().union(*(values.get(lang, set()) for lang in langs))) for langs in groups)
            found.append(adjusted_family(name, members, planned))
    return found


def find_ablations(config: StudyConfig) -> list[Ablation]:
    """Pairs of arms that differ in one thing, but those that differ in the objective alone and the study compares anyway.

    A, the first named, is the one with transport, or, where both or neither have it, the later of the two.
    """
    found = []
    for one, other in combinations(config.arms, 2):
        a, b = (one, other) if one.side == "transport" != other.side else (other, one)
        if what := single_change(a, b):
            found.append(Ablation(a=a.name, b=b.name, what=what))
    return found


def single_change(a: Arm, b: Arm) -> str:
    """The one thing that two arms differ in, or nothing where there are more or where it is no ablation."""
    changes = [
        field_label(key) for key in sorted(a.options.keys() | b.options.keys()) if a.options.get(key) != b.options.get(key)
    ]
    if a.init != b.init:
        changes.append("start")
    if a.objective != b.objective:
        changes.append("training" if {a.objective, b.objective} & set(STEPLESS) else "objective")
    if changes == ["objective"]:
        # Transport in the loss against none is what the study is about; here where the start has transport on both sides.
        both = a.side == b.side == "transport"
        return "objective" if both and ("ot-" in a.objective) != ("ot-" in b.objective) else ""
    return changes[0] if len(changes) == 1 else ""


def ablation_families(
    evidence: StudyRecords, pairs_of_arms: Sequence[Ablation], seeds: Sequence[int]
) -> tuple[ContrastFamily, ContrastFamily]:
    """What one change makes: by language, and over all languages. Each is a family of tests."""
    found = [
        contrast_with_best(each.a, pairs, seeds, {each.b: line})
        for each in pairs_of_arms
        for pairs in evidence.config.sizes
        for line in compare_arms(evidence, each.a, each.b, pairs, seeds).values()
    ]
    groups = [langs for pairs in evidence.config.sizes for langs in evidence.galleries(pairs)]
    counts = {BY_LANGUAGE: sum(map(len, groups)), BY_NOTHING: sum(len(langs) > 1 for langs in groups)}
    names = {BY_LANGUAGE: "ablations", BY_NOTHING: "ablation means"}
    by_lang, means = (
        adjusted_family(names[by], [each for each in found if each.by == by], len(pairs_of_arms) * count)
        for by, count in counts.items()
    )
    return by_lang, means
