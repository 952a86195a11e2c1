"""Statistics of a comparison: a line for each group of queries, a section for each direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.errors import HarnessError
from harness.core.suggestions import nearest
from harness.records.files import load_facets
from harness.statistics.breakdown import captions_by_value
from harness.statistics.comparison_schema import (
    BY_LANGUAGE,
    BY_NOTHING,
    BY_SOURCE,
    BY_TIER,
    LANGUAGE_GROUPINGS,
    ComparisonLine,
    ComparisonOptions,
    ComparisonSection,
    Estimate,
    SecondaryOutcome,
    finite_or_none,
)
from harness.statistics.inference import ALPHA, ArmContrast, PairedArms, contrasts, gap_recovered, holm, mcnemar
from harness.statistics.measurement import Direction, Hits, Measurement
from harness.statistics.methods.equivalence import one_sided_tests
from harness.statistics.paired_runs import PairedRuns, Subset


@dataclass(frozen=True)
class ComparedColumn:
    """One column in one direction."""

    direction: Direction
    metric: str
    resamples: int
    margin: float | None = None

    def hits(self, tower: Measurement) -> Hits:
        """Return the values of a tower, (queries,), in percent."""
        return tower.outcomes(self.direction)[self.metric]

    def arms(self, cut: Subset) -> PairedArms:
        """Return the values of both sides with their clusters and seeds."""
        sides = [np.stack([self.hits(tower)[cut.rows] for tower in side]) for side in (cut.laid.a, cut.laid.b)]
        seeds = [tuple(str(entry.seed()) for entry in side) for side in (cut.laid.pair.a, cut.laid.pair.b)]
        hit = 100.0 if self.metric.startswith("R@") else None
        return PairedArms(sides[0], sides[1], cut.laid.clusters(self.direction)[cut.rows], seeds[0], seeds[1], hit)

    def contrasts(self, groups: Sequence[Sequence[Subset]]) -> list[ArmContrast]:
        """Return A against B for each group of subsets, all from one set of resamples."""
        arms = [self.arms(cut) for cuts in groups for cut in cuts]
        starts = np.cumsum([0, *map(len, groups)]).tolist()
        rows = [
            {start + i: weight for i, weight in macro_weights(cuts).items()} for start, cuts in zip(starts, groups, strict=False)
        ]
        return contrasts(arms, rows, resamples=self.resamples)


def comparison_section(
    laid: Sequence[PairedRuns], direction: Direction, metric: str, question: ComparisonOptions
) -> ComparisonSection:
    """Return all lines of one direction and the number of languages that A wins."""
    asked = ComparedColumn(direction, metric, question.resamples, question.margin)
    whole = [Subset(each, np.ones(len(each.clusters(direction)), bool)) for each in laid]
    by_lang = group_lines(BY_LANGUAGE, group_subsets(whole, lambda each: each.record.lang), asked)
    found = [] if len(laid) == 1 and BY_LANGUAGE in question.by else group_lines(BY_NOTHING, {"": whole}, asked)
    for name in question.by:
        if name == BY_LANGUAGE:
            found += by_lang
        elif name == BY_TIER:
            found += group_lines(name, group_subsets(whole, PairedRuns.tier), asked)
        elif name == BY_SOURCE:
            found += group_lines(name, group_subsets(whole, lambda each: each.record.source), asked)
        elif direction == "t2i":
            found += group_lines(name, facet_subsets(laid, name), asked)
    outcomes = [line.outcome for line in by_lang]
    return ComparisonSection(
        direction=direction,
        wins=outcomes.count("win"),
        ties=outcomes.count("tie"),
        losses=outcomes.count("loss"),
        lines=tuple(found),
    )


def secondary_outcomes(
    laid: Sequence[PairedRuns], primary: Collection[tuple[Direction, str]], directions: Sequence[Direction], resamples: int
) -> tuple[SecondaryOutcome, ...]:
    """Return A against B over all languages by every measure but the primary ones, after Holm over all of them."""
    found: list[tuple[Direction, str, ArmContrast]] = []
    for direction in directions:
        whole = [Subset(each, np.ones(len(each.clusters(direction)), bool)) for each in laid]
        names = [name for name in laid[0].a[0].outcomes(direction) if (direction, name) not in primary]
        found += [(direction, name, ComparedColumn(direction, name, resamples).contrasts([whole])[0]) for name in names]
    adjusted = holm([each.p_value for _, _, each in found])
    return tuple(
        SecondaryOutcome(
            direction=direction,
            metric=name,
            a=Estimate.of(each.a),
            b=Estimate.of(each.b),
            difference=Estimate.of(each.difference),
            p_value=each.p_value,
            p_holm=p,
        )
        for (direction, name, each), p in zip(found, adjusted, strict=True)
    )


def group_subsets(cuts: Iterable[Subset], key: Callable[[PairedRuns], str]) -> dict[str, list[Subset]]:
    """Group subsets by a property of their pair, in sorted order."""
    groups: dict[str, list[Subset]] = {}
    for cut in cuts:
        groups.setdefault(key(cut.laid), []).append(cut)
    return dict(sorted(groups.items()))


def facet_subsets(laid: Sequence[PairedRuns], name: str) -> dict[str, list[Subset]]:
    """Group captions by the values of a facet. A caption with several values belongs to several groups.

    Raises HarnessError if a record has no such facet.
    """
    groups: dict[str, list[Subset]] = {}
    for each in laid:
        folder = each.pair.a[0].folder
        facets = load_facets(folder)
        if name not in facets:
            known = nearest(name, [BY_LANGUAGE, BY_TIER, BY_SOURCE, *facets])
            hint = "" if facets else "; records of earlier versions have no facets: measure again"
            raise HarnessError(f"--by {name}: the captions of {folder} have no such facet: {known}{hint}")
        for value, captions in captions_by_value(facets[name]).items():
            rows = np.zeros(len(facets[name]), bool)
            rows[captions] = True
            groups.setdefault(value, []).append(Subset(each, rows))
    return dict(sorted(groups.items()))


def group_lines(by: str, groups: Mapping[str, Sequence[Subset]], asked: ComparedColumn) -> list[ComparisonLine]:
    """Return one line for each group, with p-values after Holm over all groups."""
    # A facet may have many values, so each is tested alone to bound memory. Other groups share their resamples.
    calls = [list(groups.values())] if by in LANGUAGE_GROUPINGS else [[cuts] for cuts in groups.values()]
    found = [each for call in calls for each in asked.contrasts(call)]
    adjusted = holm([each.p_value for each in found])
    equivalent = adjusted_equivalence(found, asked.margin)
    return [
        comparison_line(by, value, cuts, each, p, q, asked)
        for (value, cuts), each, p, q in zip(groups.items(), found, adjusted, equivalent, strict=True)
    ]


def adjusted_equivalence(found: Sequence[ArmContrast], margin: float | None) -> list[float | None]:
    """Return the p-value of equivalence of each contrast after Holm over all; None without a margin or a standard error."""
    if margin is None:
        return [None] * len(found)
    raw = [one_sided_tests(each.difference.estimate, each.error, each.freedom, margin).p_value for each in found]
    return [None if math.isnan(p) else q for p, q in zip(raw, holm([1.0 if math.isnan(p) else p for p in raw]), strict=True)]


def macro_weights(cuts: Sequence[Subset]) -> dict[int, float]:
    """Return weights under which each language counts equally, and each caption source within a language."""
    langs = [cut.laid.record.lang for cut in cuts]
    return {i: 1 / (len(set(langs)) * langs.count(lang)) for i, lang in enumerate(langs)}


def comparison_line(
    by: str,
    value: str,
    cuts: Sequence[Subset],
    found: ArmContrast,
    p_holm: float,
    p_equivalence: float | None,
    asked: ComparedColumn,
) -> ComparisonLine:
    """Return the statistics of one group."""
    only_a, only_b, p_mcnemar = (
        mcnemar_counts([asked.arms(cut) for cut in cuts]) if asked.metric.startswith("R@") else (None,) * 3
    )
    sign = found.difference.estimate
    return ComparisonLine(
        by=by,
        value=value,
        langs=tuple(dict.fromkeys(cut.laid.record.lang for cut in cuts)),
        queries=sum(int(np.count_nonzero(cut.rows)) for cut in cuts),
        a=Estimate.of(found.a),
        b=Estimate.of(found.b),
        difference=Estimate.of(found.difference),
        p_value=found.p_value,
        p_holm=p_holm,
        p_sign_flip=found.p_sign_flip,
        outcome="tie" if p_holm >= ALPHA or sign == 0 else "win" if sign > 0 else "loss",
        only_a=only_a,
        only_b=only_b,
        p_mcnemar=p_mcnemar,
        error=finite_or_none(found.error),
        freedom=finite_or_none(found.freedom),
        p_equivalence=p_equivalence,
        image_error=finite_or_none(found.image_error),
        seed_error=finite_or_none(found.seed_error),
        gain=Estimate.of(found.gain),
        gap_a=gap_estimate(cuts, 0, asked),
        gap_b=gap_estimate(cuts, 1, asked),
    )


def mcnemar_counts(arms: Sequence[PairedArms]) -> tuple[int | None, int | None, float | None]:
    """Return McNemar's b and c, summed over languages and seeds, and the exact p if the queries are independent."""
    if any(each.seeds_a != each.seeds_b and (len(each.seeds_a) > 1 or len(each.seeds_b) > 1) for each in arms):
        return None, None, None
    tests = [mcnemar(a, b) for each in arms for a, b in zip(np.asarray(each.a), np.asarray(each.b), strict=True)]
    alone = len(tests) == 1 and len(np.unique(np.asarray(arms[0].cluster))) == len(np.asarray(arms[0].cluster))
    return sum(test.b for test in tests), sum(test.c for test in tests), tests[0].p_value if alone else None


def gap_estimate(cuts: Sequence[Subset], side: int, asked: ComparedColumn) -> Estimate | None:
    """Return the share of the gap to English that a side recovers, or None without floor or ceiling.

    It is the ratio of means over seeds and languages, with a confidence interval over images.
    """
    columns = []
    for cut, weight in zip(cuts, macro_weights(cuts).values(), strict=True):
        ends = cut.laid.ends[side]
        if ends is None:
            return None
        towers = cut.laid.b if side else cut.laid.a
        student = np.mean([asked.hits(tower) for tower in towers], axis=0)
        values = np.column_stack([student, *map(asked.hits, ends)])[cut.rows] * weight / np.count_nonzero(cut.rows)
        columns.append(np.column_stack([values, cut.laid.clusters(asked.direction)[cut.rows]]))
    student, floor, ceiling, cluster = np.concatenate(columns).T
    return Estimate.of(gap_recovered(student, floor, ceiling, cluster, resamples=asked.resamples))
