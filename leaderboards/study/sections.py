"""Sections of a study's report: text, charts and tables, before any of it is rendered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.leaderboards.study.tables import (
    DIRECTION_NAMES,
    ReportTable,
    arms_table,
    contrast_table,
    digests_table,
    missing_cells_table,
    nonempty,
    origins_table,
    other_direction_table,
    random_effects_table,
    replication_table,
    scores_table,
    secondary_table,
    study_languages_table,
)
from harness.study.findings import Findings
from harness.study.narrative import (
    answer_paragraph,
    arm_sentences,
    count_text,
    inconclusive_lines,
    join_words,
    searched_options,
    validity_threats,
)

Chart = Literal["", "curves", "forest", "facets", "ablations"]

_HOW_TO_READ = (
    "A − B is in points of R@1, over the same images, captions, bitext and seeds. [low, high] is the 95 % confidence interval of "
    "that difference alone. A is the transport arm. B is the arm without transport that has the highest score; controls count. "
    "p tests A against the best of them, whichever it is: A is better than the best arm if it is better than every arm, so the "
    "largest p-value counts; A is worse than the best arm if it is worse than some arm, so the smallest p-value times the number "
    "of arms counts. Each p-value comes from sign flips over images or, if that is larger, from a t-test over images and seeds. "
    "Inconclusive means that the differences in the interval are compatible with the data, not that there is none."
)
_ON_THE_PLOT = "In the plots, filled marks are significant after Holm's correction and hollow marks are not. Diamonds are means."


@dataclass(frozen=True)
class ReportSection:
    """A section of the report: paragraphs, a chart on the page, tables, a list of items, and code to type."""

    name: str
    title: str
    paragraphs: tuple[str, ...] = ()
    chart: Chart = ""
    tables: tuple[ReportTable, ...] = ()
    items: tuple[str, ...] = ()
    code: str = ""


def report_sections(found: Findings) -> list[ReportSection]:
    """Return all sections of the report, in order."""
    inconclusive = nonempty((missing_cells_table(found),)), tuple(inconclusive_lines(found))
    return [
        ReportSection("question", "The question", (found.question,)),
        ReportSection("answer", "The answer", (answer_paragraph(found),), items=tuple(arm_sentences(found))),
        design_section(found),
        curves_section(found),
        forest_section(found),
        breakdown_section(found),
        ablations_section(found),
        *([replication_section(found)] if found.replicate else []),
        ReportSection("inconclusive", "Inconclusive comparisons", (), "", *inconclusive),
        ReportSection("threats", "Threats to validity", items=tuple(validity_threats(found))),
        provenance_section(found),
    ]


def design_section(found: Findings) -> ReportSection:
    """Return the section on the design: what is shared, what is searched, the arms and the languages."""
    shared = ", ".join(f"{key} {value}" for key, value in found.shared.items()) or "all defaults"
    again = f". Replicated with seeds {', '.join(map(str, found.replicate))}" if found.replicate else ""
    fairness = (
        "Arms share the teacher, bitext, order of batches, budget and seeds, and differ as the table shows. Options that all "
        f"arms share: {shared}. Sizes are nested subsets of the bitext, the same for all arms with one seed. "
        f"Seeds {', '.join(map(str, found.seeds))}{again}."
    )
    choice = (
        f"Searched in the same way for all arms: {searched_options(found)}. Trials take "
        f"{'all' if found.shared.get('tune_steps') else 'a third'} of the steps. {search_description(found)} No test image and "
        "no test caption takes part in a choice."
        if found.tuned
        else "Nothing is searched: no choice depends on what this study measures."
    )
    tables = (arms_table(found), study_languages_table(found))
    return ReportSection("design", "The design", (fairness, choice), "", tables)


def search_description(found: Findings) -> str:
    """Return how learning rates were chosen."""
    by_images = [each for each in found.languages if each.searched]
    by_pairs = [each.name for each in found.languages if not each.searched]
    sentences = []
    if by_images:
        sentences.append(
            f"In each language, for each arm and size, towers of seed {found.seeds[0]} are scored by retrieval of the val "
            "images, and the choice holds for all seeds."
        )
    if by_pairs:
        where = f"In {', '.join(by_pairs)}, which has no val captions, each" if by_images else "Each"
        sentences.append(f"{where} tower has a search of its own, scored by translation retrieval on a tenth of its pairs.")
    return " ".join(sentences)


def curves_section(found: Findings) -> ReportSection:
    """Return the section on scores against the size of the bitext."""
    over = "images and seeds" if len(found.seeds) > 1 else "images"
    about = (
        f"R@1 {DIRECTION_NAMES[found.direction]} in percent, mean over seeds, with 95 % confidence intervals over {over}. "
        "Dashed: the English tower on the English captions. Dotted: chance. A mean is shown if no language is missing."
    )
    groups = list(dict.fromkeys(point.langs for point in sorted(found.points, key=lambda point: -len(point.langs))))
    tables = [scores_table(langs, found, folded=place > 0) for place, langs in enumerate(groups)]
    tables += [other_direction_table(groups, found)] if groups else []
    paragraphs = (about if found.points else "No cell has been measured yet.",)
    return ReportSection("curves", "Score and bitext size", paragraphs, "curves", tuple(tables))


def forest_section(found: Findings) -> ReportSection:
    """Return the section on transport minus standard distillation."""
    families = {"means": found.means, "languages": found.by_language}
    means, languages = (
        f"{'the primary' if name == found.primary else 'an exploratory'} family of {count_text(family.planned, 'test')}"
        for name, family in families.items()
    )
    tables = (
        contrast_table(f"Means over languages: {means}", found.means, found),
        contrast_table(f"By language: {languages}", found.by_language, found, folded=True),
        random_effects_table(found),
        secondary_table(found),
    )
    title = "Transport minus the best arm without transport"
    return ReportSection("forest", title, (_HOW_TO_READ, _ON_THE_PLOT), "forest", nonempty(tables))


def breakdown_section(found: Findings) -> ReportSection:
    """Return the section on tiers and kinds of captions."""
    facets = tuple(
        contrast_table(
            f"By {family.name}, against {found.baseline}: an exploratory family of {count_text(family.planned, 'test')}",
            family,
            found,
            folded=True,
        )
        for family in found.facets
    )
    tiers = contrast_table(
        f"By resource tier: an exploratory family of {count_text(found.by_tier.planned, 'test')}", found.by_tier, found
    )
    about = (
        "Tiers are compared with the best arm without transport, as above. A tier of all languages is their mean, and is not "
        f"tested twice. Kinds of captions are compared with {found.baseline} alone; a caption with several values counts for "
        "each. Comparisons are shown if no language is missing."
    )
    return ReportSection("breakdown", "By tier and by kind of caption", (about,), "facets", nonempty((tiers, *facets)))


def ablations_section(found: Findings) -> ReportSection:
    """Return the section on arms that differ in one thing."""
    about = (
        "Pairs of arms that differ in one thing. A − B is in points of R@1. p tests that pair alone. Ablations are two "
        "families of tests, each corrected for multiple comparisons."
    )
    what = {(each.a, each.b): each.what for each in found.ablated}
    means, languages = (f"a family of {count_text(family.planned, 'test')}" for family in (found.ablation_means, found.ablations))
    tables = (
        contrast_table(f"Means over languages: {means}", found.ablation_means, found, what),
        contrast_table(f"By language: {languages}", found.ablations, found, what, folded=True),
    )
    if not found.ablated:
        about = "No two arms differ in one thing other than the objective."
    return ReportSection("ablations", "Ablations", (about,), "ablations", nonempty(tables))


def replication_section(found: Findings) -> ReportSection:
    """Return the section on every claim and the same test with other seeds."""
    about = (
        "Every difference that is significant with the first seeds, measured again with seeds "
        f"{join_words(map(str, found.replicate))} over the same images. With the second seeds alone, "
        f"{count_text(found.found_later, 'more difference')} {'is' if found.found_later == 1 else 'are'} significant."
    )
    return ReportSection("replication", "Replication with other seeds", (about,), "", nonempty((replication_table(found),)))


def provenance_section(found: Findings) -> ReportSection:
    """Return the section on the records: code, machines, digests, and the command that makes the report."""
    about = (
        f"{found.done:,} of {found.planned:,} cells; task {found.task}, {found.split} split; encoder {found.encoder}; "
        f"{found.resamples:,} resamples and sign flips. findings.json, next to this report, has every number at full precision "
        "and every cell by its digest. The store has a record of each cell, with the rank of every query."
    )
    tables = nonempty((origins_table(found), digests_table(found)))
    return ReportSection("provenance", "Origin of the numbers", (about,), "", tables, code=found.command)
