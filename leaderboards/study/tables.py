"""Tables of a study's report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.statistics.comparison_schema import Estimate
from harness.statistics.measurement import DIRECTION_TITLES
from harness.statistics.verdicts import INCONCLUSIVE
from harness.study.findings import ArmScore, ArmSummary, ContrastFamily, Findings, PlannedContrast
from harness.study.narrative import count_text, is_equivalent, join_words, p_value_text, points_text, signed_number
from harness.study.runner import size_text

DIRECTION_NAMES = DIRECTION_TITLES["images"]
_OUTCOMES = {"win": "A ahead", "tie": "", "loss": "B ahead"}


@dataclass(frozen=True)
class ReportTable:
    """A table. text: the number of first columns that hold text. folded: whether the page shows the table only on request."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: int = 1
    folded: bool = False


def arms_table(found: Findings) -> ReportTable:
    """Return the table of the arms."""
    rows = [
        (
            arm.name,
            arm.side,
            arm.objective,
            arm.init,
            ", ".join(f"{key} {value}" for key, value in arm.options.items()) or "–",
            chosen_text(arm),
            f"{arm.hours:.2f}",
            f"{arm.search_hours:.2f}" if arm.search_hours else "–",
        )
        for arm in found.arms
    ]
    headings = ("arm", "side", "objective", "initializer", "own options", "learning rates (towers)", "hours", "search hours")
    return ReportTable("Arms", headings, tuple(rows), 6)


def chosen_text(arm: ArmSummary) -> str:
    """Return the learning rates of an arm, and the numbers of subwords and steps that a search chose, with the towers of each."""
    parts = [", ".join(f"{rate:g} ({count})" for rate, count in arm.rates)]
    parts += [", ".join(f"{size:,} subwords ({count})" for size, count in arm.vocabularies)]
    parts += [", ".join(f"{steps:,} steps ({count})" for steps, count in arm.steps)]
    return "; ".join(filter(None, parts)) or "–"


def secondary_table(found: Findings) -> ReportTable:
    """Return the secondary outcomes of the arms, against the same rivals as in the means."""
    rows = tuple(
        (
            size_text(each.pairs),
            languages_text(each.langs, found),
            each.arm,
            each.rival,
            f"{DIRECTION_NAMES[each.direction]} {each.metric}",
            one_decimal_or_dash(each.a.estimate),
            one_decimal_or_dash(each.b.estimate),
            difference_cell(each.difference),
            p_value_cell(each.p_value),
            p_value_cell(each.p_holm),
        )
        for each in found.secondary
    )
    headings = ("pairs", "over", "A", "B", "measure", "A %", "B %", "A − B", "p", "p (Holm)")
    title = "Secondary outcomes, exploratory. Holm corrects over the measures of one pair of arms"
    return ReportTable(title, headings, rows, 5, folded=True)


def random_effects_table(found: Findings) -> ReportTable:
    """Return the random-effects means over languages and the tests of heterogeneity."""
    rows = tuple(
        (
            size_text(each.pairs),
            languages_text(each.langs, found),
            each.arm,
            each.rival,
            difference_cell(each.mean),
            f"{each.tau:.1f}",
            f"{100 * each.i_squared:.0f} %",
            f"{each.q:.1f}",
            p_value_cell(each.p_heterogeneity),
        )
        for each in found.random_effects
    )
    headings = ("pairs", "over", "A", "B", "A − B", "tau", "I²", "Q", "p (Q)")
    title = (
        "Random effects over languages (DerSimonian and Laird, interval by Hartung and Knapp): the difference in languages of "
        "which these are a sample. Languages on the same images are treated as independent, so that Q is rather too small"
    )
    return ReportTable(title, headings, rows, 4, folded=True)


def study_languages_table(found: Findings) -> ReportTable:
    """Return the table of the languages."""
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
        "Languages. Tier: resources from 0 to 5 (Joshi et al. 2020). Pairs: sentence pairs that the leakage guard kept. Dropped: "
        f"pairs that it dropped. Floor and ceiling: R@1 {DIRECTION_NAMES[found.direction]} of the English tower on these "
        "captions, and on the English captions that they were translated from."
    )
    return ReportTable(title, headings, tuple(rows), 5)


def scores_table(langs: tuple[str, ...], found: Findings, folded: bool) -> ReportTable:
    """Return the scores of one language or of a mean, with an arm a row and a size a column."""
    inside = {(point.arm, point.pairs): point for point in found.points if point.langs == langs}
    sizes = [pairs for pairs in found.sizes if any(key[1] == pairs for key in inside)]
    rows = [
        (arm.name, *(point_text(inside.get((arm.name, pairs)), found) for pairs in sizes))
        for arm in found.arms
        if any(key[0] == arm.name for key in inside)
    ]
    title = languages_text(langs, found) if len(langs) == 1 else f"Mean of {join_words(map(found.language, langs))}"
    return ReportTable(title, ("arm", *map(size_text, sizes)), tuple(rows), 1, folded)


def other_direction_table(groups: Sequence[tuple[str, ...]], found: Findings) -> ReportTable:
    """Return the scores in the direction that the study does not compare."""
    inside = {(point.langs, point.arm, point.pairs): point.other_way for point in found.points}
    rows = tuple(
        (
            languages_text(langs, found),
            arm.name,
            *(one_decimal_or_dash(inside.get((langs, arm.name, pairs))) for pairs in found.sizes),
        )
        for langs in groups
        for arm in found.arms
        if any(key[:2] == (langs, arm.name) for key in inside)
    )
    direction = DIRECTION_NAMES["i2t" if found.direction == "t2i" else "t2i"]
    title = f"R@1 {direction}, means over seeds, not compared in this study"
    return ReportTable(title, ("over", "arm", *map(size_text, found.sizes)), rows, 2, folded=True)


def contrast_table(
    title: str,
    family: ContrastFamily,
    found: Findings,
    what: dict[tuple[str, str], str] | None = None,
    *,
    folded: bool = False,
) -> ReportTable:
    """Return a table of tests, ordered by size, arm and language. what: of ablations, how the two arms differ."""
    arms = {arm.name: place for place, arm in enumerate(found.arms)}
    langs = {each.code: place for place, each in enumerate(found.languages)}

    def order(of: PlannedContrast) -> tuple[object, ...]:
        rival = arms[of.rival] if what else 0
        return found.sizes.index(of.pairs), arms[of.arm], rival, langs[of.langs[0]], of.value

    changed = ("difference",) if what else ()
    headings = ("pairs", "over", "A", "B", *changed, "A %", "B %", "A − B", "gain", "p", "p (Holm)", "outcome")
    rows = tuple(
        (
            size_text(each.pairs),
            contrast_scope_text(each, found),
            each.arm,
            each.rival,
            *((what[each.arm, each.rival],) if what else ()),
            *contrast_cells(each),
        )
        for each in sorted(family.verdicts, key=order)
    )
    return ReportTable(title, headings, rows, 4 + len(changed), folded)


def contrast_cells(of: PlannedContrast) -> tuple[str, ...]:
    """Return the numbers and the outcome of a test."""
    gain = "–" if of.gain is None else f"{signed_number(of.gain, 0)} %{percent_ends(of.relative)}"
    return (
        one_decimal_or_dash(of.a.estimate),
        one_decimal_or_dash(of.b.estimate),
        difference_cell(of.difference),
        gain,
        p_value_cell(of.p_value),
        p_value_cell(of.p_holm),
        ", ".join(filter(None, (_OUTCOMES[of.outcome], "equivalent" if is_equivalent(of) else ""))) or INCONCLUSIVE,
    )


def percent_ends(share: Estimate | None) -> str:
    """Return the ends of a relative gain in percent, in brackets, or an empty text."""
    if share is None or share.low is None or share.high is None:
        return ""
    return f" [{signed_number(100 * share.low, 0)}, {signed_number(100 * share.high, 0)}]"


def replication_table(found: Findings) -> ReportTable:
    """Return the table of significant differences and the same tests with other seeds."""
    rows = tuple(
        (
            each.family,
            size_text(each.claim.pairs),
            contrast_scope_text(each.claim, found),
            f"{each.claim.arm} − {each.claim.rival}",
            difference_cell(each.claim.difference),
            p_value_cell(each.claim.p_holm),
            difference_cell(each.again.difference) if each.again else "–",
            p_value_cell(each.again.p_holm) if each.again else "–",
            yes_or_no(each.same_sign),
            yes_or_no(each.same),
        )
        for each in found.repeated
    )
    headings = ("family", "pairs", "over", "claim", "A − B", "p (Holm)", "again", "p (Holm)", "same sign", "significant again")
    return ReportTable("Claims", headings, rows, 4)


def missing_cells_table(found: Findings) -> ReportTable:
    """Return the table of the cells without a record."""
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
    return ReportTable("Missing cells", ("language", "pairs", "seeds", "missing", "reason"), rows, 3)


def origins_table(found: Findings) -> ReportTable:
    """Return the table of the code and the machines that measured the records."""
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
    return ReportTable("Records", ("records", "code", "device", "platform", "libraries", "measured"), rows, 6)


def digests_table(found: Findings) -> ReportTable:
    """Return the table of the digests of captions, images, encoder and study."""
    digests = tuple((f"{each.name} captions", each.texts_digest) for each in found.languages)
    galleries = {each.gallery for each in found.languages}
    digests += tuple(
        (f"images {place}" if len(galleries) > 1 else "images", each) for place, each in enumerate(sorted(galleries), 1)
    )
    digests += (("encoder", found.encoder_fingerprint), ("study", found.digest))
    return ReportTable("Digests", ("of", "SHA-256"), digests, 2, folded=True)


def nonempty(tables: Iterable[ReportTable]) -> tuple[ReportTable, ...]:
    """Return the tables that have rows."""
    return tuple(table for table in tables if table.rows)


def contrast_scope_text(of: PlannedContrast, found: Findings) -> str:
    """Return the languages, the tier or the facet value that a test is over."""
    if of.by in ("lang", "all"):
        return languages_text(of.langs, found)
    return f"tier {of.value}: {languages_text(of.langs, found)}" if of.by == "tier" else of.value


def languages_text(langs: Sequence[str], found: Findings) -> str:
    """Return the name of one language, or the number of languages."""
    return found.language(langs[0]) if len(langs) == 1 else f"{len(langs)} languages"


def point_text(point: ArmScore | None, found: Findings) -> str:
    """Return a score, with the number of seeds if some are missing."""
    if point is None:
        return "–"
    few = f" ({len(point.seeds)} of {count_text(len(found.seeds), 'seed')})" if len(point.seeds) < len(found.seeds) else ""
    return f"{score_cell(point.score)}{few}"


def p_value_cell(p: float) -> str:
    """Return a p-value without its letter."""
    return p_value_text(p).removeprefix("p ").removeprefix("= ")


def yes_or_no(holds: bool | None) -> str:
    """Return "yes", "NO", or a dash if it is not known yet."""
    return "–" if holds is None else "yes" if holds else "NO"


def score_cell(score: Estimate) -> str:
    """Return a score with its interval."""
    return f"{one_decimal_or_dash(score.estimate)} [{one_decimal_or_dash(score.low)}, {one_decimal_or_dash(score.high)}]"


def difference_cell(score: Estimate) -> str:
    """Return a difference with its interval."""
    return points_text(score).replace(" points", "")


def one_decimal_or_dash(value: float | None) -> str:
    """Return a score with one decimal, or a dash if there is none."""
    return "–" if value is None else f"{value:.1f}"
