"""The answer of a study in words, made from its findings alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from harness.statistics.comparison_schema import Estimate
from harness.statistics.inference import ALPHA
from harness.statistics.measurement import DIRECTION_TITLES
from harness.statistics.verdicts import equivalent_text, verdict_text
from harness.study.findings import ArmSummary, Findings, PlannedContrast
from harness.study.runner import size_text

_DIRECTIONS = DIRECTION_TITLES["images"]
_MAX_NAMED = 3  # differences that the answer names one by one
_FAMILY_NAMES = {
    "languages": "comparison by language and size",
    "means": "comparison of means",
    "ablations": "ablation by language and size",
}


def answer_paragraph(found: Findings) -> str:
    """Return the answer in one paragraph.

    It states the significant differences, their sizes and confidence intervals, the equivalent arms, and the caveats.
    """
    if not found.by_language.verdicts:
        return " ".join([no_contrasts_sentence(found), *caveats(found)])
    languages, means = [outcome_sentence(found)], means_sentences(found)
    first, second = (means, languages) if found.primary == "means" else (languages, means)
    exploratory = ["Exploratory:", *second] if second else []
    parts = [*first, *exploratory, *equivalence_sentences(found), family_sentence(found)]
    return " ".join([*parts, *caveats(found)])


def no_contrasts_sentence(found: Findings) -> str:
    """Return the sentence for a study without any complete comparison."""
    return (
        "No comparison is possible yet: no language and size has a transport arm and all standard arms with all their seeds "
        f"({found.done:,} of {found.planned:,} cells are done)."
    )


def outcome_sentence(found: Findings) -> str:
    """Return how often transport is significantly ahead, with the largest differences."""
    tests = found.by_language.verdicts
    wins, losses = ([each for each in tests if each.outcome == outcome] for outcome in ("win", "loss"))
    made = (
        f"{count_text(len(tests), 'comparison')} of an arm, a language and a size "
        f"({_DIRECTIONS[found.direction]} R@1 on {images_phrase(found)})"
    )
    if not wins and not losses:
        return f"No transport arm differs significantly from the best arm without transport in any of {made}."
    undecided = len(tests) - len(wins) - len(losses)
    rest = (
        f"It was significantly behind in {len(losses):,}, "
        f"and {count_text(undecided, 'comparison')} {is_or_are(undecided)} not significant."
    )
    if not wins:
        return f"No transport arm was significantly ahead of the best arm without transport in any of {made}. {rest}"
    ahead = sorted(wins, key=lambda each: -(each.difference.estimate or 0))[:_MAX_NAMED]
    most = f"{'most ' if len(wins) > len(ahead) else ''}in {'; '.join(contrast_phrase(each, found) for each in ahead)}"
    return f"A transport arm was significantly ahead of the best arm without transport in {len(wins):,} of {made}, {most}. {rest}"


def means_sentences(found: Findings) -> list[str]:
    """Return the differences of means over languages: their number, and the largest significant ones."""
    tests = found.means.verdicts
    if not tests:
        return ["No comparison of the primary family, the means over languages, is complete yet."] if found.means.planned else []
    significant = [each for each in tests if each.outcome != "tie"]
    made = f"{count_text(len(tests), 'comparison of means')} over languages"
    if not significant:
        shown = "; ".join(inconclusive_phrase(each, found) for each in tests[:_MAX_NAMED])
        return [f"None of {made} of a transport arm with the best arm without transport is significant: {shown}."]
    first = sorted(significant, key=lambda each: -abs(each.difference.estimate or 0))[:_MAX_NAMED]
    most = "most " if len(significant) > len(first) else ""
    return [
        f"Of {made}, {len(significant):,} {is_or_are(len(significant))} significant, "
        f"{most}{'; '.join(contrast_phrase(each, found) for each in first)}."
    ]


def is_or_are(count: int) -> str:
    """Return the verb for a number of things."""
    return "is" if count == 1 else "are"


def images_phrase(found: Findings) -> str:
    """Return the number and the kind of the evaluation images."""
    counts = sorted({each.images for each in found.languages})
    world = "drawn scenes of the embedded sample" if found.sample else "photographs"
    return f"{' or '.join(f'{count:,}' for count in counts)} {world}, {found.split} split"


def contrast_phrase(of: PlannedContrast, found: Findings) -> str:
    """Return one difference with its arms, size, confidence interval and p-value."""
    gain = f" ({relative_text(of)})" if of.gain is not None else ""
    return (
        f"{contrast_scope(of, found)}: {of.arm} {points_text(of.difference)} over {of.rival}{gain}, "
        f"{p_value_text(of.p_holm)} after Holm"
    )


def relative_text(of: PlannedContrast) -> str:
    """Return the relative gain in percent with its interval, if it has one."""
    ends = (of.relative.low, of.relative.high) if of.relative else (None, None)
    if ends[0] is None or ends[1] is None:
        return f"{signed_number(of.gain or 0.0, 0)} %"
    return f"{signed_number(of.gain or 0.0, 0)} % [{signed_number(100 * ends[0], 0)}, {signed_number(100 * ends[1], 0)}]"


def inconclusive_phrase(of: PlannedContrast, found: Findings) -> str:
    """Return a difference that is not significant, and the values that are compatible with the data."""
    low, high = (math.nan if end is None else end for end in (of.difference.low, of.difference.high))
    verdict = verdict_text(of.p_holm, low, high).replace("-", "−")
    return f"{contrast_scope(of, found)}, {of.arm} minus {of.rival}: {verdict}"


def arm_sentences(found: Findings) -> list[str]:
    """Compare each transport arm with the best arm without transport, and with the control arm that differs in one thing."""
    lines = [arm_sentence(arm, found) for arm in found.arms if arm.side == "transport"] if found.by_language.verdicts else []
    for each in found.ablated:
        if found.arm(each.a).side == "transport" and found.arm(each.b).side == "control":
            means = [one for one in found.ablation_means.verdicts if (one.arm, one.rival) == (each.a, each.b)]
            if means:
                lines.append(f"{each.a} minus {each.b} (only the {each.what} differs): mean of {mean_differences_text(means)}.")
    return lines


def arm_sentence(arm: ArmSummary, found: Findings) -> str:
    """Return how often an arm is significantly ahead of the best arm without transport, with its mean differences."""
    tests = [each for each in found.by_language.verdicts if each.arm == arm.name]
    wins, losses = (sum(each.outcome == outcome for each in tests) for outcome in ("win", "loss"))
    means = [each for each in found.means.verdicts if each.arm == arm.name]
    over = f"; mean of {mean_differences_text(means)}" if means else ""
    counts = f"ahead in {wins:,}, behind in {losses:,}, not significant in {len(tests) - wins - losses:,} of {len(tests):,}"
    return f"{arm.name} minus the best arm without transport: {counts}{over}."


def mean_differences_text(means: Sequence[PlannedContrast]) -> str:
    """Return mean differences, size by size."""
    parts: list[str] = []
    langs: tuple[str, ...] = ()
    for each in means:
        over = f"{count_text(len(each.langs), 'language')}, " if each.langs != langs else ""
        langs = each.langs
        outcome = "significant" if each.outcome != "tie" else "not significant"
        parts.append(f"{over}{size_text(each.pairs)}: {points_text(each.difference)}, {outcome}")
    return "; ".join(parts)


def family_sentence(found: Findings) -> str:
    """Return which tests are corrected together, and what the confidence intervals cover."""
    seeds = count_text(len(found.seeds), "seed")
    looks = f"Seeds were added after a report: every p-value is multiplied by {found.looks}. " if found.looks > 1 else ""
    about = " and seeds" if len(found.seeds) > 1 else ", so they describe these towers and not the methods"
    names = {"means": "the means over languages", "languages": "the comparisons by language and size"}
    planned = {"means": found.means.planned, "languages": found.by_language.planned}
    return (
        f"The primary family is {names[found.primary]}, {count_text(planned[found.primary], 'planned test')}, whose family-wise "
        f"error rate Holm's correction holds at 5 %. All other families are exploratory, each corrected for itself. {looks}"
        f"Confidence intervals are 95 %, for each difference alone, with {seeds} of training, from resampled images{about}."
    )


def equivalence_sentences(found: Findings) -> list[str]:
    """Return the equivalent arms, if a margin is declared."""
    if found.margin is None:
        return []
    tests = found.by_language.verdicts
    same = [each for each in tests if is_equivalent(each)]
    named = f": {'; '.join(f'{contrast_scope(each, found)}, {each.arm}' for each in same[:_MAX_NAMED])}" if same else ""
    return [
        f"{len(same):,} of {count_text(len(tests), 'comparison')} {is_or_are(len(same))} {equivalent_text(found.margin)} points "
        f"of the best arm without transport (two one-sided tests, after Holm){named}."
    ]


def is_equivalent(of: PlannedContrast) -> bool:
    """Return whether the equivalence test of a contrast is significant."""
    return of.p_equivalence is not None and of.p_equivalence < ALPHA


def compatible_range(tests: Sequence[PlannedContrast]) -> str:
    """Return the differences that the intervals of some tests include, together."""
    lows = [each.difference.low for each in tests if each.difference.low is not None]
    highs = [each.difference.high for each in tests if each.difference.high is not None]
    return f"{signed_number(min(lows))} to {signed_number(max(highs))} points" if lows and highs else "unknown differences"


def caveats(found: Findings) -> list[str]:
    """Return the caveats that belong to the answer."""
    said = []
    if found.done < found.planned:
        unmade = found.by_language.planned - len(found.by_language.verdicts)
        without = f", and {unmade:,} of {count_text(found.by_language.planned, 'comparison')} are missing" if unmade else ""
        said.append(f"The study is not finished: {found.planned - found.done:,} of {found.planned:,} cells are missing{without}.")
    if found.replicate and found.by_language.verdicts:
        said.append(replication_sentence(found))
    if found.sample:
        said.append("The sample is a drawn world with small grammars. These results say nothing about photographs.")
    return said


def replication_sentence(found: Findings) -> str:
    """Return how many significant differences the replication seeds confirm."""
    again = [each for each in found.repeated if each.again]
    seeds = f"seed{'s' if len(found.replicate) > 1 else ''} {join_words(map(str, found.replicate))}"
    if not again:
        return (
            f"Replication with {seeds}: none of {count_text(len(found.repeated), 'significant difference')} can be checked yet."
        )
    sign, same = sum(bool(each.same_sign) for each in again), sum(bool(each.same) for each in again)
    waiting = f", and {len(found.repeated) - len(again):,} cannot be checked yet" if len(again) < len(found.repeated) else ""
    later = (
        f" {count_text(found.found_later, 'more difference')} {is_or_are(found.found_later)} significant with those seeds only."
        if found.found_later
        else ""
    )
    held = f"{sign:,} {'has' if sign == 1 else 'have'} the same sign and {same:,} {is_or_are(same)} significant again"
    return f"Replication with {seeds}: of {count_text(len(again), 'significant difference')}, {held}{waiting}.{later}"


def inconclusive_lines(found: Findings) -> list[str]:
    """Return the inconclusive and the missing comparisons, a line each."""
    lines = [
        f"{found.language(lang)}{'' if pairs == 0 else ', ' + size_text(pairs)}: not measured: {reason}"
        for lang, pairs, reason in found.impossible
    ]
    for family in (found.by_language, found.means, found.ablations):
        unmade = family.planned - len(family.verdicts)
        if unmade:
            lines.append(
                f"{unmade:,} of {count_text(family.planned, _FAMILY_NAMES[family.name])} missing, because cells are missing."
            )
    if not found.means.planned:
        lines.append("No mean over languages: the study has one language, or each language has its own images.")
    for pairs in found.sizes:
        ties = [each for each in found.by_language.verdicts if each.pairs == pairs and each.outcome == "tie"]
        if unsettled := [each for each in ties if not is_equivalent(each)]:
            lines.append(
                f"{size_text(pairs)}: {count_text(len(unsettled), 'comparison')} inconclusive: the 95 % intervals are compatible "
                f"with {compatible_range(unsettled)}."
            )
    if not found.facets:
        lines.append("No breakdown by kind of caption: some records lack these facets, or the direction has none.")
    return lines


def validity_threats(found: Findings) -> list[str]:
    """Return the threats to the validity of the answer, a line each."""
    machine = "machine translation"
    both = join_words(each.name for each in found.languages if each.kind == each.bitext_kind == machine)
    systems = join_words(dict.fromkeys(f"{each.source} and {each.bitext}" for each in found.languages if each.name in both))
    captions = join_words(each.name for each in found.languages if each.kind == machine)
    bitext = join_words(each.name for each in found.languages if each.bitext_kind == machine)
    galleries = {each.gallery for each in found.languages}
    few = "the variance between seeds is unknown" if len(found.seeds) == 1 else "intervals are widened for the small number"
    said: list[tuple[object, str]] = [
        (
            both,
            f"Test captions and bitext are both machine translations in {both} ({systems}). If both are one system's output, "
            "scores measure how well a tower reads that system.",
        ),
        (found.sample, "The embedded sample is a drawn world, and its languages are small grammars."),
        (True, f"One teacher ({found.encoder}): another teacher may give another answer."),
        (captions, f"Captions by machine translation, whose errors affect the scores: {captions}."),
        (bitext, f"Bitext by machine translation: {bitext}. Low-resource conditions are simulated by size, not by quality."),
        (len(galleries) == 1, "All languages are measured on the same images, so a bias of these images affects all languages."),
        (len(galleries) > 1, "Languages are measured on different images, so their scores are not comparable."),
        (True, tuning_sentence(found)),
        (True, seed_sentence(found)),
        (len(found.seeds) < 5, f"{count_text(len(found.seeds), 'seed')}: {few}."),
        (found.split == "val", "Measured on the val split, which is also used for choices."),
        (True, "Holm corrects for the arms of this study, not for arms that were tried before."),
        (found.unconverged, f"{found.unconverged:,} transport problems in training did not converge."),
        (len(found.origins) > 1, f"Records come from {len(found.origins)} versions of code, libraries or machines."),
        (any(each.dirty for each in found.origins), "Some records come from code with uncommitted changes."),
    ]
    notes = [(each.name, note) for each in found.languages for note in each.notes]
    return [line for holds, line in said if holds] + [f"{name}: {note.rstrip('.')}." for name, note in dict.fromkeys(notes)]


def seed_sentence(found: Findings) -> str:
    """Return what the seeds of the study vary."""
    subset = (
        "the initial weights and the order of batches, and no data"
        if found.sizes == (None,)
        else ("the subset of the sentence pairs, and with it the subwords, the initial weights and the order of batches")
    )
    return f"A seed varies {subset}. It varies neither the teacher nor the images."


def tuning_sentence(found: Findings) -> str:
    """Return how the learning rates were chosen."""
    if found.tuned:
        luck = {
            True: "by val images and one seed, so its error is shared by all seeds and in no confidence interval",
            False: "by translation retrieval on a tenth of each tower's own pairs (a few sentences at small sizes), so its error "
            "is part of the variance between seeds",
        }
        ways = [luck[way] for way in luck if any(bool(each.searched) == way for each in found.languages)]
        return f"Searched: {searched_options(found)}, {'; elsewhere '.join(ways)}. No other option was tuned."
    return "All arms share one learning rate without tuning. An arm that needs another one is at a disadvantage."


def searched_options(found: Findings) -> str:
    """Return the options that a study searches, with the number of values."""
    grids = {"learning rate": "tune_rates", "number of subwords": "tune_vocabulary", "steps": "tune_steps"}
    sizes = {name: len(found.shared.get(option, ())) for name, option in grids.items()}
    sizes["learning rate"] = sizes["learning rate"] or 4
    return join_words(f"{name} ({count} values)" for name, count in sizes.items() if count)


def contrast_scope(of: PlannedContrast, found: Findings) -> str:
    """Return the languages and the bitext size of a contrast."""
    if of.by == "lang":
        return f"{found.language(of.langs[0])} with {size_text(of.pairs)}"
    return f"mean of {count_text(len(of.langs), 'language')} with {size_text(of.pairs)}"


def points_text(score: Estimate) -> str:
    """Format a difference with its confidence interval.

    >>> points_text(Estimate(estimate=-1.25, low=-3.0, high=None))
    '−1.2 points [−3.0, –]'
    """
    value, low, high = ("–" if end is None else signed_number(end) for end in (score.estimate, score.low, score.high))
    return f"{value} points [{low}, {high}]"


def signed_number(value: float, digits: int = 1) -> str:
    """Format a number with its sign. Zero has none.

    >>> signed_number(1.25), signed_number(-0.04), signed_number(-3.0, 0)
    ('+1.2', '0.0', '−3')
    """
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if float(f"{value:.{digits}f}") else text[1:]


def p_value_text(p: float) -> str:
    """Format a p-value.

    >>> p_value_text(0.0312), p_value_text(0.00001), p_value_text(1.0)
    ('p = 0.0312', 'p < 0.001', 'p = 1')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.3g}"


def count_text(count: int, what: str) -> str:
    """Format a count with its noun, in the plural where needed.

    >>> count_text(1, "language"), count_text(2_000, "seed"), count_text(2, "comparison of means")
    ('1 language', '2,000 seeds', '2 comparisons of means')
    """
    first, space, rest = what.partition(" of ") if " of " in what else what.partition(" by ")
    return f"{count:,} {first}{'' if count == 1 else 's'}{space}{rest}"


def join_words(words: Iterable[str]) -> str:
    """Join words with commas and "and". No words give an empty text.

    >>> join_words(["a", "b", "c"]), join_words([])
    ('a, b and c', '')
    """
    *first, last = list(words) or [""]
    return f"{', '.join(first)} and {last}" if first else last
