"""A study's answer in words, made of its findings alone: nothing is said that they do not bear."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from harness.statistics.comparison_schema import Estimate
from harness.statistics.measurement import DIRECTION_TITLES
from harness.study.findings import ArmSummary, Findings, PlannedContrast
from harness.study.runner import size_text

_DIRECTIONS = DIRECTION_TITLES["images"]
_MAX_NAMED = 3  # claims named one by one in the answer
_FAMILY_NAMES = {
    "languages": "comparison by language and size",
    "means": "comparison of means",
    "ablations": "ablation by language and size",
}


def answer_paragraph(found: Findings) -> str:
    """The answer in one paragraph: what was told apart, by how much, how surely, and what it is worth."""
    if not found.by_language.verdicts:
        return " ".join([no_contrasts_sentence(found), *caveats(found)])
    parts = [outcome_sentence(found), *means_sentences(found), family_sentence(found), power_sentence(found.by_language.verdicts)]
    return " ".join([*parts, *caveats(found)])


def no_contrasts_sentence(found: Findings) -> str:
    """What is said where no test could be made."""
    return (
        "Nothing can be said yet: of no language and size are a transport arm and all standard arms there with all their seeds "
        f"({found.done:,} of {found.planned:,} cells are)."
    )


def outcome_sentence(found: Findings) -> str:
    """How often transport was ahead, and where most."""
    tests = found.by_language.verdicts
    wins, losses = ([each for each in tests if each.outcome == outcome] for outcome in ("win", "loss"))
    made = (
        f"{count_text(len(tests), 'comparison')} of an arm, a language and a size "
        f"({_DIRECTIONS[found.direction]} R@1 on {images_phrase(found)})"
    )
    if not wins and not losses:
        return f"No difference between transport and standard distillation was found in any of {made}."
    rest = f"It was behind in {len(losses):,}; in {len(tests) - len(wins) - len(losses):,} no difference was found."
    if not wins:
        return f"No transport arm was ahead of the best standard arm in any of {made}. {rest}"
    ahead = sorted(wins, key=lambda each: -(each.difference.estimate or 0))[:_MAX_NAMED]
    most = f"{'most ' if len(wins) > len(ahead) else ''}in {'; '.join(contrast_phrase(each, found) for each in ahead)}"
    return f"A transport arm was ahead of the best standard arm in {len(wins):,} of {made}, {most}. {rest}"


def means_sentences(found: Findings) -> list[str]:
    """What means over languages tell apart, which no language by itself need do."""
    told = [each for each in found.means.verdicts if each.outcome != "tie"]
    if not told:
        return []
    first = sorted(told, key=lambda each: -abs(each.difference.estimate or 0))[:_MAX_NAMED]
    most = "most " if len(told) > len(first) else ""
    made = count_text(len(found.means.verdicts), "mean")
    return [
        f"Of {made} over languages {len(told):,} told a difference, "
        f"{most}{'; '.join(contrast_phrase(each, found) for each in first)}."
    ]


def images_phrase(found: Findings) -> str:
    """What the numbers are measured on."""
    counts = sorted({each.images for each in found.languages})
    world = "drawn scenes of the embedded sample" if found.sample else "photographs"
    return f"{' or '.join(f'{count:,}' for count in counts)} {world}, {found.split} split"


def contrast_phrase(of: PlannedContrast, found: Findings) -> str:
    """One difference with all that belongs to it."""
    gain = f" ({signed_number(of.gain, 0)} %)" if of.gain is not None else ""
    return (
        f"{contrast_scope(of, found)}: {of.arm} {points_text(of.difference)} over {of.rival}{gain}, "
        f"{p_value_text(of.p_holm)} after Holm"
    )


def arm_sentences(found: Findings) -> list[str]:
    """What each transport arm has over the best standard one, and over the arm that is the same without transport."""
    lines = [arm_sentence(arm, found) for arm in found.arms if arm.side == "transport"] if found.by_language.verdicts else []
    for each in found.ablated:
        if found.arm(each.a).side == "transport" and found.arm(each.b).side == "control":
            means = [one for one in found.ablation_means.verdicts if (one.arm, one.rival) == (each.a, each.b)]
            if means:
                lines.append(f"{each.a} less {each.b} (they differ in the {each.what} alone): mean of {several(means)}.")
    return lines


def arm_sentence(arm: ArmSummary, found: Findings) -> str:
    """How often an arm was ahead of the best standard one, and by how much on average."""
    tests = [each for each in found.by_language.verdicts if each.arm == arm.name]
    wins, losses = (sum(each.outcome == outcome for each in tests) for outcome in ("win", "loss"))
    means = [each for each in found.means.verdicts if each.arm == arm.name]
    over = f"; mean of {several(means)}" if means else ""
    counts = f"ahead in {wins:,}, behind in {losses:,}, not told apart in {len(tests) - wins - losses:,} of {len(tests):,}"
    return f"{arm.name} less the best standard arm: {counts}{over}."


def several(means: Sequence[PlannedContrast]) -> str:
    """Mean differences, size by size."""
    parts: list[str] = []
    langs: tuple[str, ...] = ()
    for each in means:
        over = f"{count_text(len(each.langs), 'language')}, " if each.langs != langs else ""
        langs = each.langs
        told = "told apart" if each.outcome != "tie" else "not told apart"
        parts.append(f"{over}{size_text(each.pairs)}: {points_text(each.difference)}, {told}")
    return "; ".join(parts)


def family_sentence(found: Findings) -> str:
    """Which tests are corrected together."""
    family, seeds = count_text(found.by_language.planned, "planned test"), count_text(len(found.seeds), "seed")
    about = " and seeds" if len(found.seeds) > 1 else ": they are about these very towers, not about the methods"
    return (
        f"The comparisons are one family of {family}, held to an error of 5 % by Holm's correction; "
        f"the {found.means.planned:,} of means are another. "
        f"Intervals are 95 %, of each difference by itself, with {seeds} of training, from resampled images{about}."
    )


def power_sentence(tests: Sequence[PlannedContrast]) -> str:
    """What could have been seen."""
    seen = detectable_differences(tests)
    if not seen:
        return "What could have been seen is not known."
    return f"Before that correction, a true difference of {points_range(seen)} would have been found four times in five."


def detectable_differences(tests: Sequence[PlannedContrast]) -> list[float]:
    """The differences that tests would have found with 80 % power, in their order."""
    return sorted(each.minimal_detectable for each in tests if each.minimal_detectable is not None)


def points_range(seen: Sequence[float]) -> str:
    """Points in words."""
    if len(seen) == 1:
        return f"{seen[0]:.1f} points"
    return f"{median(seen):.1f} points (median; {seen[0]:.1f} to {seen[-1]:.1f})"


def caveats(found: Findings) -> list[str]:
    """What the paragraph must not be read without."""
    said = []
    if found.done < found.planned:
        unmade = found.by_language.planned - len(found.by_language.verdicts)
        without = f", and {unmade:,} of {count_text(found.by_language.planned, 'comparison')} not made" if unmade else ""
        said.append(f"The study is not finished: {found.planned - found.done:,} of {found.planned:,} cells are missing{without}.")
    if found.replicate and found.by_language.verdicts:
        said.append(replication_sentence(found))
    if found.sample:
        said.append("The sample is a drawn world with small grammars: nothing of this says anything about photographs.")
    return said


def replication_sentence(found: Findings) -> str:
    """Whether the second seeds say the same."""
    again = [each for each in found.repeated if each.again]
    seeds = f"seed{'s' if len(found.replicate) > 1 else ''} {join_words(map(str, found.replicate))}"
    if not again:
        return f"Made again with {seeds}: none of {count_text(len(found.repeated), 'claim')} of this report can be checked yet."
    sign, same = sum(bool(each.same_sign) for each in again), sum(bool(each.same) for each in again)
    waiting = f"; {len(found.repeated) - len(again):,} cannot be checked yet" if len(again) < len(found.repeated) else ""
    later = f" Those seeds alone told {count_text(found.found_later, 'more difference')} apart." if found.found_later else ""
    held = f"{sign:,} have the same sign and {same:,} are told apart again"
    return f"Made again with {seeds}: of {count_text(len(again), 'claim')} of this report {held}{waiting}.{later}"


def inconclusive_lines(found: Findings) -> list[str]:
    """What the study could not tell, a line each."""
    lines = [
        f"{found.language(lang)}{'' if pairs == 0 else ', ' + size_text(pairs)}: cannot be measured: {reason}"
        for lang, pairs, reason in found.impossible
    ]
    for family in (found.by_language, found.means, found.ablations):
        unmade = family.planned - len(family.verdicts)
        if unmade:
            lines.append(f"{unmade:,} of {count_text(family.planned, _FAMILY_NAMES[family.name])} not made: cells are missing.")
    if not found.means.planned:
        lines.append("No mean over languages: there is one language, or each is measured on other images.")
    for pairs in found.sizes:
        ties = [each for each in found.by_language.verdicts if each.pairs == pairs and each.outcome == "tie"]
        if seen := detectable_differences(ties):
            lines.append(
                f"{size_text(pairs)}: {count_text(len(ties), 'comparison')} found no difference. "
                f"A true one of {points_range(seen)} would have been "
                "found there four times in five, before Holm's correction; a smaller one may well be there."
            )
    if not found.facets:
        lines.append("No breakdown by kind of caption: not all records have these facets, or the direction has none.")
    return lines


def validity_threats(found: Findings) -> list[str]:
    """What may make the answer wrong, a line each."""
    machine = "machine translation"
    captions = join_words(each.name for each in found.languages if each.kind == machine)
    bitext = join_words(each.name for each in found.languages if each.bitext_kind == machine)
    galleries = {each.gallery for each in found.languages}
    few = "nothing is known of how far another seed would lead" if len(found.seeds) == 1 else "intervals are widened for so few"
    said: list[tuple[object, str]] = [
        (found.sample, "The embedded sample is a drawn world, and its languages are small grammars."),
        (True, f"One teacher ({found.encoder}): another may give another answer."),
        (captions, f"Captions by machine translation, whose errors are part of what is measured: {captions}."),
        (bitext, f"Bitext by machine translation: {bitext}. That a language has little data is played by size, not by quality."),
        (len(galleries) == 1, "All languages are measured on the same images: what these images favour, all languages favour."),
        (len(galleries) > 1, "Languages are measured on different images: their scores do not compare with each other."),
        (True, tuning_sentence(found)),
        (len(found.seeds) < 5, f"{count_text(len(found.seeds), 'seed')}: {few}."),
        (found.split == "val", "Measured on the val split, on which choices are made."),
        (True, "Holm corrects for the arms of this study, not for those that were tried before it."),
        (found.unconverged, f"{found.unconverged:,} transport problems in training had not converged."),
        (len(found.origins) > 1, f"Records were made by {len(found.origins)} versions of code, libraries or machines."),
        (any(each.dirty for each in found.origins), "Some records were made by code with uncommitted changes."),
    ]
    notes = [(each.name, note) for each in found.languages for note in each.notes]
    return [line for holds, line in said if holds] + [f"{name}: {note.rstrip('.')}." for name, note in dict.fromkeys(notes)]


def tuning_sentence(found: Findings) -> str:
    """How options were chosen."""
    if found.tuned:
        luck = {
            True: "by the val images and one seed: its luck is in all seeds alike, and in no interval",
            False: "by translation retrieval on a tenth of each tower's own pairs, at small sizes a few sentences: its luck is "
            "part of the seeds' variance",
        }
        ways = [luck[way] for way in luck if any(bool(each.searched) == way for each in found.languages)]
        return f"The learning rate was chosen among four, {'; elsewhere '.join(ways)}. No other option was searched."
    return "All arms have one learning rate, and nothing was searched: an arm that would want another is at a disadvantage."


def contrast_scope(of: PlannedContrast, found: Findings) -> str:
    """What a test is over, and its size."""
    if of.by == "lang":
        return f"{found.language(of.langs[0])} with {size_text(of.pairs)}"
    return f"mean of {count_text(len(of.langs), 'language')} with {size_text(of.pairs)}"


def points_text(score: Estimate) -> str:
    """A difference with its interval.

    >>> points_text(Estimate(estimate=-1.25, low=-3.0, high=None))
    '−1.2 points [−3.0, –]'
    """
    value, low, high = ("–" if end is None else signed_number(end) for end in (score.estimate, score.low, score.high))
    return f"{value} points [{low}, {high}]"


def signed_number(value: float, digits: int = 1) -> str:
    """A number with its sign; 0 has none.

    >>> signed_number(1.25), signed_number(-0.04), signed_number(-3.0, 0)
    ('+1.2', '0.0', '−3')
    """
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if float(f"{value:.{digits}f}") else text[1:]


def p_value_text(p: float) -> str:
    """A p-value.

    >>> p_value_text(0.0312), p_value_text(0.00001), p_value_text(1.0)
    ('p = 0.0312', 'p < 0.001', 'p = 1')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.3g}"


def count_text(count: int, what: str) -> str:
    """A number of things.

    >>> count_text(1, "language"), count_text(2_000, "seed"), count_text(2, "comparison of means")
    ('1 language', '2,000 seeds', '2 comparisons of means')
    """
    first, space, rest = what.partition(" of ") if " of " in what else what.partition(" by ")
    return f"{count:,} {first}{'' if count == 1 else 's'}{space}{rest}"


def join_words(words: Iterable[str]) -> str:
    """Words in a row; nothing of none.

    >>> join_words(["a", "b", "c"]), join_words([])
    ('a, b and c', '')
    """
    *first, last = list(words) or [""]
    return f"{', '.join(first)} and {last}" if first else last
