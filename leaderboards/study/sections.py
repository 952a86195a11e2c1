"""A study's report as sections of text and tables, before any of it is rendered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.statistics.comparison_schema import Estimate
from harness.statistics.measurement import DIRECTION_TITLES
from harness.study.findings import ArmScore, ContrastFamily, Findings, PlannedContrast
from harness.study.narrative import (
    answer_paragraph,
    arm_sentences,
    count_text,
    inconclusive_lines,
    join_words,
    p_value_text,
    points_text,
    signed_number,
    validity_threats,
)
from harness.study.runner import size_text

Chart = Literal["", "curves", "forest", "facets", "ablations"]
DIRECTION_NAMES = DIRECTION_TITLES["images"]
OUTCOMES = {"win": "A ahead", "tie": "not told apart", "loss": "B ahead"}
HOW_TO_READ = (
    "A − B in points of R@1, over the same images, captions, bitext and seeds; [low, high]: 95 % of that difference by itself. A "
    "is "
    "the transport arm, B the standard arm that scored highest there. p: of A against the best standard arm, whichever that is: "
    "to be "
    "ahead of it is to be ahead of each, so the largest p counts; to be behind it is to be behind one, so the smallest times "
    "their "
    "number counts. Each p is from sign flips over images or, where that is larger, from a t over images and seeds. 80 %: the "
    "true "
    "difference from B that would have been found four times in five."
)


ON_THE_PLOT = "On the plots a filled mark is told apart from 0 after Holm's correction, a hollow one is not; diamonds are means."


@dataclass(frozen=True)
class ReportTable:
    """A table. text: how many of its first columns are words; folded: whether a page shows it only when asked."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: int = 1
    folded: bool = False


@dataclass(frozen=True)
class ReportSection:
    """A part of the report: paragraphs, a chart on the page, tables, items of a list, and code as it is typed."""

    name: str
    title: str
    paragraphs: tuple[str, ...] = ()
    chart: Chart = ""
    tables: tuple[ReportTable, ...] = ()
    items: tuple[str, ...] = ()
    code: str = ""


def report_sections(found: Findings) -> list[ReportSection]:
    """The whole report, in its order."""
    return [
        ReportSection("question", "The question", (found.question,)),
        ReportSection("answer", "The answer", (answer_paragraph(found),), items=tuple(arm_sentences(found))),
        design_section(found),
        curves_section(found),
        forest_section(found),
        breakdown_section(found),
        ablations_section(found),
        *([repetition_section(found)] if found.replicate else []),
        ReportSection("untold", "What could not be told", (), "", missing_cells_table(found), tuple(inconclusive_lines(found))),
        ReportSection("threats", "Threats to validity", items=tuple(validity_threats(found))),
        provenance_section(found),
    ]


def design_section(found: Findings) -> ReportSection:
    """What was compared with what, on what."""
    shared = ", ".join(f"{key} {value}" for key, value in found.shared.items()) or "all at their defaults"
    again = f"; made again with seeds {', '.join(map(str, found.replicate))}" if found.replicate else ""
    fairness = (
        "Arms share teacher, bitext, order of batches, budget and seeds; they differ in what the table names. Options that all "
        "share: "
        f"{shared}. Sizes are nested subsets of the bitext, the same for all arms at one seed. "
        f"Seeds {', '.join(map(str, found.seeds))}{again}."
    )
    choice = (
        "Learning rates are searched alike: four values, each for a third of the steps, as many of them warm-up as in the whole "
        f"training. {search_description(found)} No test image and no test caption takes part in a choice."
        if found.tuned
        else "Nothing is searched: no choice is made by what this study measures."
    )
    return ReportSection("design", "The design", (fairness, choice), "", (arms_table(found), study_languages_table(found)))


def search_description(found: Findings) -> str:
    """By what learning rates were chosen."""
    by_images = [each for each in found.languages if each.searched]
    by_pairs = [each.name for each in found.languages if not each.searched]
    said = []
    if by_images:
        said.append(
            f"In each language, for each arm and size, towers of seed {found.seeds[0]} are scored by retrieval of the val "
            "images, and the choice holds for all seeds."
        )
    if by_pairs:
        where = f"In {', '.join(by_pairs)}, without val captions, each" if by_images else "Each"
        said.append(f"{where} tower has a search of its own, scored by translation retrieval on a tenth of its pairs.")
    return " ".join(said)


def arms_table(found: Findings) -> ReportTable:
    """The arms."""
    rows = [
        (
            arm.name,
            arm.side,
            arm.objective,
            arm.init,
            ", ".join(f"{key} {value}" for key, value in arm.options.items()) or "–",
            ", ".join(f"{rate:g} ({count})" for rate, count in arm.rates) or "–",
            f"{arm.hours:.2f}",
        )
        for arm in found.arms
    ]
    return ReportTable(
        "Arms",
        ("arm", "side", "objective", "starts from", "own options", "learning rates (towers)", "hours"),
        tuple(rows),
        6,
    )


def study_languages_table(found: Findings) -> ReportTable:
    """The languages."""
    rows = [
        (
            f"{each.name} ({each.code})",
            "?" if each.tier is None else str(each.tier),
            each.script,
            f"{each.source} ({each.kind})",
            f"{each.bitext} ({each.bitext_kind})",
            f"{each.images:,}",
            f"{each.captions:,}",
            f"{each.usable:,}",
            f"{each.dropped:,}",
            one_decimal_or_dash(each.floor),
            one_decimal_or_dash(each.ceiling),
        )
        for each in found.languages
    ]
    headings = ("language", "tier", "script", "captions", "bitext", "images", "captions", "pairs", "dropped", "floor", "ceiling")
    title = (
        "Languages. Tier: resources from 0 to 5 (Joshi et al. 2020); pairs: left by the leakage guard, which dropped the others; "
        f"floor and ceiling: R@1 {DIRECTION_NAMES[found.direction]} of the English tower on these captions, and on those they "
        "were translated from"
    )
    return ReportTable(title, headings, tuple(rows), 5)


def curves_section(found: Findings) -> ReportSection:
    """Scores against the size of the bitext."""
    over = "images and seeds" if len(found.seeds) > 1 else "images"
    about = (
        f"R@1 {DIRECTION_NAMES[found.direction]} in percent, mean over seeds, with 95 % intervals over {over}. Dashed: the "
        "English tower on the English captions; dotted: chance. A mean is given where no language is missing."
    )
    groups = list(dict.fromkeys(point.langs for point in sorted(found.points, key=lambda point: -len(point.langs))))
    tables = [scores_table(langs, found, folded=place > 0) for place, langs in enumerate(groups)]
    tables += [other_direction_table(groups, found)] if groups else []
    return ReportSection(
        "curves", "Score and bitext size", (about,) if found.points else ("No cell is there yet.",), "curves", tuple(tables)
    )


def scores_table(langs: tuple[str, ...], found: Findings, folded: bool) -> ReportTable:
    """Scores of one language, or of a mean, an arm a row and a size a column."""
    inside = {(point.arm, point.pairs): point for point in found.points if point.langs == langs}
    sizes = [pairs for pairs in found.sizes if any(key[1] == pairs for key in inside)]
    rows = [
        (arm.name, *(point_text(inside.get((arm.name, pairs)), found) for pairs in sizes))
        for arm in found.arms
        if any(key[0] == arm.name for key in inside)
    ]
    title = languages_of(langs, found) if len(langs) == 1 else f"Mean of {join_words(map(found.language, langs))}"
    return ReportTable(title, ("arm", *map(size_text, sizes)), tuple(rows), 1, folded)


def other_direction_table(groups: Sequence[tuple[str, ...]], found: Findings) -> ReportTable:
    """Scores in the direction that is not compared."""
    inside = {(point.langs, point.arm, point.pairs): point.other_way for point in found.points}
    rows = tuple(
        (
            languages_of(langs, found),
            arm.name,
            *(one_decimal_or_dash(inside.get((langs, arm.name, pairs))) for pairs in found.sizes),
        )
        for langs in groups
        for arm in found.arms
        if any(key[:2] == (langs, arm.name) for key in inside)
    )
    direction = DIRECTION_NAMES["i2t" if found.direction == "t2i" else "t2i"]
    title = f"R@1 {direction}, means over seeds: not compared here"
    return ReportTable(title, ("over", "arm", *map(size_text, found.sizes)), rows, 2, folded=True)


def point_text(point: ArmScore | None, found: Findings) -> str:
    """A score, and how many seeds are there where some are missing."""
    if point is None:
        return "–"
    few = f" ({len(point.seeds)} of {count_text(len(found.seeds), 'seed')})" if len(point.seeds) < len(found.seeds) else ""
    return f"{interval_text(point.score)}{few}"


def forest_section(found: Findings) -> ReportSection:
    """Transport less standard distillation."""
    tables = (
        verdict_table(f"Means over languages: a family of {count_text(found.means.planned, 'test')}", found.means, found),
        verdict_table(
            f"By language: a family of {count_text(found.by_language.planned, 'test')}", found.by_language, found, folded=True
        ),
    )
    title = "Transport less the best standard distillation"
    return ReportSection("forest", title, (HOW_TO_READ, ON_THE_PLOT), "forest", nonempty(tables))


def breakdown_section(found: Findings) -> ReportSection:
    """By tier and by kind of caption."""
    facets = tuple(
        verdict_table(
            f"By {family.name}, against {found.baseline}: a family of {count_text(family.planned, 'test')}",
            family,
            found,
            folded=True,
        )
        for family in found.facets
    )
    tiers = verdict_table(f"By resource tier: a family of {count_text(found.by_tier.planned, 'test')}", found.by_tier, found)
    about = (
        f"Tiers against the best standard arm, as above. Kinds of caption against {found.baseline} alone; a caption with several "
        "values counts under each. Given where no language is missing."
    )
    return ReportSection("breakdown", "By tier and by kind of caption", (about,), "facets", nonempty((tiers, *facets)))


def ablations_section(found: Findings) -> ReportSection:
    """Arms that differ in one thing."""
    about = (
        "Pairs of arms that differ in one thing. A − B in points of R@1; p is of that pair, corrected in two families of its own."
    )
    what = {(each.a, each.b): each.what for each in found.ablated}
    tables = (
        verdict_table(
            f"Means over languages: a family of {count_text(found.ablation_means.planned, 'test')}",
            found.ablation_means,
            found,
            what,
        ),
        verdict_table(
            f"By language: a family of {count_text(found.ablations.planned, 'test')}", found.ablations, found, what, folded=True
        ),
    )
    if not found.ablated:
        about = "No two arms differ in one thing alone but the objective."
    return ReportSection("ablations", "Ablations", (about,), "ablations", nonempty(tables))


def nonempty(tables: Iterable[ReportTable]) -> tuple[ReportTable, ...]:
    """Those tables that have a row."""
    return tuple(table for table in tables if table.rows)


def verdict_table(
    title: str,
    family: ContrastFamily,
    found: Findings,
    what: dict[tuple[str, str], str] | None = None,
    *,
    folded: bool = False,
) -> ReportTable:
    """Tests, a line each, by size and in the order of arms and languages."""
    arms = {arm.name: place for place, arm in enumerate(found.arms)}
    langs = {each.code: place for place, each in enumerate(found.languages)}

    def order(of: PlannedContrast) -> tuple[object, ...]:
        rival = arms[of.rival] if what else 0
        return found.sizes.index(of.pairs), arms[of.arm], rival, langs[of.langs[0]], of.value

    tests = sorted(family.verdicts, key=order)
    changed = ("what differs",) if what else ()
    headings = ("pairs", "over", "A", "B", *changed, "A %", "B %", "A − B", "gain", "p", "p (Holm)", "80 %", "outcome")
    rows = tuple(
        (
            size_text(each.pairs),
            verdict_scope(each, found),
            each.arm,
            each.rival,
            *((what[each.arm, each.rival],) if what else ()),
            *verdict_cells(each),
        )
        for each in tests
    )
    return ReportTable(title, headings, rows, 4 + len(changed), folded)


def verdict_cells(of: PlannedContrast) -> tuple[str, ...]:
    """The numbers of a test."""
    gain = "–" if of.gain is None else f"{signed_number(of.gain, 0)} %"
    return (
        one_decimal_or_dash(of.a.estimate),
        one_decimal_or_dash(of.b.estimate),
        difference_text(of.difference),
        gain,
        p_value_cell(of.p_value),
        p_value_cell(of.p_holm),
        one_decimal_or_dash(of.minimal_detectable),
        OUTCOMES[of.outcome],
    )


def p_value_cell(p: float) -> str:
    """A p-value without its letter."""
    return p_value_text(p).removeprefix("p ").removeprefix("= ")


def verdict_scope(of: PlannedContrast, found: Findings) -> str:
    """What a test is over."""
    if of.by in ("lang", "all"):
        return languages_of(of.langs, found)
    return f"tier {of.value}: {languages_of(of.langs, found)}" if of.by == "tier" else of.value


def languages_of(langs: Sequence[str], found: Findings) -> str:
    """A language's name, or how many there are."""
    return found.language(langs[0]) if len(langs) == 1 else f"{len(langs)} languages"


def repetition_section(found: Findings) -> ReportSection:
    """Every claim beside the same test with other seeds."""
    rows = tuple(
        (
            each.family,
            size_text(each.claim.pairs),
            verdict_scope(each.claim, found),
            f"{each.claim.arm} − {each.claim.rival}",
            difference_text(each.claim.difference),
            p_value_cell(each.claim.p_holm),
            difference_text(each.again.difference) if each.again else "–",
            p_value_cell(each.again.p_holm) if each.again else "–",
            yes_or_no(each.same_sign),
            yes_or_no(each.same),
        )
        for each in found.repeated
    )
    headings = ("family", "pairs", "over", "claim", "A − B", "p (Holm)", "again", "p (Holm)", "same sign", "told apart again")
    about = (
        f"Every difference that the first seeds told apart, measured again with seeds {join_words(map(str, found.replicate))} "
        f"over the same images. The second seeds alone told {count_text(found.found_later, 'more difference')} apart."
    )
    return ReportSection("again", "Again with other seeds", (about,), "", nonempty((ReportTable("Claims", headings, rows, 4),)))


def yes_or_no(holds: bool | None) -> str:
    """Yes, no, or not known yet."""
    return "–" if holds is None else "yes" if holds else "NO"


def missing_cells_table(found: Findings) -> tuple[ReportTable, ...]:
    """The cells that are not there."""
    rows = tuple(
        (
            found.language(each.lang),
            size_text(each.pairs),
            " ".join(map(str, each.seeds)),
            f"{each.cells:,} of {each.planned:,}",
            each.reason or "not run yet",
        )
        for each in found.left
    )
    return nonempty((ReportTable("Cells that are missing", ("language", "pairs", "seeds", "missing", "why"), rows, 3),))


def provenance_section(found: Findings) -> ReportSection:
    """By what, where and by which command it was measured, and how to see it again."""
    rows = tuple(
        (
            f"{each.records:,}",
            f"{each.commit[:12] if each.commit else each.version}{' with local changes' if each.dirty else ''}",
            each.device,
            each.platform,
            f"Python {each.python}, " + ", ".join(f"{name} {version}" for name, version in each.packages.items()),
            f"{each.first[:10]} to {each.last[:10]}",
        )
        for each in found.origins
    )
    digests = tuple((f"{each.name} captions", each.texts_digest) for each in found.languages)
    galleries = {each.gallery for each in found.languages}
    digests += tuple(
        (f"images {place}" if len(galleries) > 1 else "images", each) for place, each in enumerate(sorted(galleries), 1)
    )
    digests += (("encoder", found.encoder_fingerprint), ("study", found.digest))
    tables = (
        ReportTable("Records", ("records", "code", "device", "platform", "libraries", "measured"), rows, 6),
        ReportTable("Digests", ("of", "SHA-256"), digests, 2, folded=True),
    )
    about = (
        f"{found.done:,} of {found.planned:,} cells; task {found.task}, {found.split} split; encoder {found.encoder}; "
        f"{found.resamples:,} resamples and sign flips. findings.json beside this report has every figure at full precision and "
        "every "
        "cell by its digest; in the store each is a record with the rank of every query."
    )
    return ReportSection("provenance", "Where the numbers come from", (about,), "", nonempty(tables), code=found.command)


def interval_text(score: Estimate) -> str:
    """A score with its interval."""
    return f"{one_decimal_or_dash(score.estimate)} [{one_decimal_or_dash(score.low)}, {one_decimal_or_dash(score.high)}]"


def difference_text(score: Estimate) -> str:
    """A difference with its interval."""
    return points_text(score).replace(" points", "")


def one_decimal_or_dash(value: float | None) -> str:
    """A score to a tenth."""
    return "–" if value is None else f"{value:.1f}"
