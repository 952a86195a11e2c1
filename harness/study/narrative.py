"""A study's answer in words, made of its findings alone: nothing is said that they do not bear."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from harness.statistics.comparison import TITLES, Score
from harness.study.findings import ArmShown, Findings, Verdict
from harness.study.runner import size

SIDES = TITLES["images"]
LISTED = 3  # claims named one by one in the answer
FAMILIES = {
    "languages": "comparison by language and size",
    "means": "comparison of means",
    "ablations": "ablation by language and size",
}


def answer(found: Findings) -> str:
    """The answer in one paragraph: what was told apart, by how much, how surely, and what it is worth."""
    if not found.by_language.verdicts:
        return " ".join([nothing_yet(found), *caveats(found)])
    parts = [headline(found), *of_means(found), family_sentence(found), power(found.by_language.verdicts)]
    return " ".join([*parts, *caveats(found)])


def nothing_yet(found: Findings) -> str:
    """What is said where no test could be made."""
    return (
        "Nothing can be said yet: of no language and size are a transport arm and all standard arms there with all their seeds "
        f"({found.done:,} of {found.planned:,} cells are)."
    )


def headline(found: Findings) -> str:
    """How often transport was ahead, and where most."""
    tests = found.by_language.verdicts
    wins, losses = ([each for each in tests if each.outcome == outcome] for outcome in ("win", "loss"))
    made = (
        f"{counted(len(tests), 'comparison')} of an arm, a language and a size ({SIDES[found.direction]} R@1 on {images(found)})"
    )
    if not wins and not losses:
        return f"No difference between transport and standard distillation was found in any of {made}."
    rest = f"It was behind in {len(losses):,}; in {len(tests) - len(wins) - len(losses):,} no difference was found."
    if not wins:
        return f"No transport arm was ahead of the best standard arm in any of {made}. {rest}"
    ahead = sorted(wins, key=lambda each: -(each.difference.estimate or 0))[:LISTED]
    most = f"{'most ' if len(wins) > len(ahead) else ''}in {'; '.join(claim(each, found) for each in ahead)}"
    return f"A transport arm was ahead of the best standard arm in {len(wins):,} of {made}, {most}. {rest}"


def of_means(found: Findings) -> list[str]:
    """What means over languages tell apart, which no language by itself need do."""
    told = [each for each in found.means.verdicts if each.outcome != "tie"]
    if not told:
        return []
    first = sorted(told, key=lambda each: -abs(each.difference.estimate or 0))[:LISTED]
    most = "most " if len(told) > len(first) else ""
    made = counted(len(found.means.verdicts), "mean")
    return [f"Of {made} over languages {len(told):,} told a difference, {most}{'; '.join(claim(each, found) for each in first)}."]


def images(found: Findings) -> str:
    """What the numbers are measured on."""
    counts = sorted({each.images for each in found.languages})
    world = "drawn scenes of the embedded sample" if found.sample else "photographs"
    return f"{' or '.join(f'{count:,}' for count in counts)} {world}, {found.split} split"


def claim(of: Verdict, found: Findings) -> str:
    """One difference with all that belongs to it."""
    gain = f" ({signed(of.gain, 0)} %)" if of.gain is not None else ""
    return f"{place(of, found)}: {of.arm} {points(of.difference)} over {of.rival}{gain}, {p_value(of.p_holm)} after Holm"


def by_arm(found: Findings) -> list[str]:
    """What each transport arm has over the best standard one, and over the arm that is the same without transport."""
    lines = [of_arm(arm, found) for arm in found.arms if arm.side == "transport"] if found.by_language.verdicts else []
    for each in found.ablated:
        if found.arm(each.a).side == "transport" and found.arm(each.b).side == "control":
            means = [one for one in found.ablation_means.verdicts if (one.arm, one.rival) == (each.a, each.b)]
            if means:
                lines.append(f"{each.a} less {each.b} (they differ in the {each.what} alone): mean of {several(means)}.")
    return lines


def of_arm(arm: ArmShown, found: Findings) -> str:
    """How often an arm was ahead of the best standard one, and by how much on average."""
    tests = [each for each in found.by_language.verdicts if each.arm == arm.name]
    wins, losses = (sum(each.outcome == outcome for each in tests) for outcome in ("win", "loss"))
    means = [each for each in found.means.verdicts if each.arm == arm.name]
    over = f"; mean of {several(means)}" if means else ""
    counts = f"ahead in {wins:,}, behind in {losses:,}, not told apart in {len(tests) - wins - losses:,} of {len(tests):,}"
    return f"{arm.name} less the best standard arm: {counts}{over}."


def several(means: Sequence[Verdict]) -> str:
    """Mean differences, size by size."""
    parts: list[str] = []
    langs: tuple[str, ...] = ()
    for each in means:
        over = f"{counted(len(each.langs), 'language')}, " if each.langs != langs else ""
        langs = each.langs
        told = "told apart" if each.outcome != "tie" else "not told apart"
        parts.append(f"{over}{size(each.pairs)}: {points(each.difference)}, {told}")
    return "; ".join(parts)


def family_sentence(found: Findings) -> str:
    """Which tests are corrected together."""
    family, seeds = counted(found.by_language.planned, "planned test"), counted(len(found.seeds), "seed")
    about = " and seeds" if len(found.seeds) > 1 else ": they are about these very towers, not about the methods"
    return (
        f"The comparisons are one family of {family}, held to an error of 5 % by Holm's correction; "
        f"the {found.means.planned:,} of means are another. "
        f"Intervals are 95 %, of each difference by itself, with {seeds} of training, from resampled images{about}."
    )


def power(tests: Sequence[Verdict]) -> str:
    """What could have been seen."""
    seen = detectable(tests)
    if not seen:
        return "What could have been seen is not known."
    return f"Before that correction, a true difference of {spread(seen)} would have been found four times in five."


def detectable(tests: Sequence[Verdict]) -> list[float]:
    """The differences that tests would have found with 80 % power, in their order."""
    return sorted(each.minimal_detectable for each in tests if each.minimal_detectable is not None)


def spread(seen: Sequence[float]) -> str:
    """Points in words."""
    if len(seen) == 1:
        return f"{seen[0]:.1f} points"
    return f"{median(seen):.1f} points (median; {seen[0]:.1f} to {seen[-1]:.1f})"


def caveats(found: Findings) -> list[str]:
    """What the paragraph must not be read without."""
    said = []
    if found.done < found.planned:
        unmade = found.by_language.planned - len(found.by_language.verdicts)
        without = f", and {unmade:,} of {counted(found.by_language.planned, 'comparison')} not made" if unmade else ""
        said.append(f"The study is not finished: {found.planned - found.done:,} of {found.planned:,} cells are missing{without}.")
    if found.replicate and found.by_language.verdicts:
        said.append(repetition(found))
    if found.sample:
        said.append("The sample is a drawn world with small grammars: nothing of this says anything about photographs.")
    return said


def repetition(found: Findings) -> str:
    """Whether the second seeds say the same."""
    again = [each for each in found.repeated if each.again]
    seeds = f"seed{'s' if len(found.replicate) > 1 else ''} {listed(map(str, found.replicate))}"
    if not again:
        return f"Made again with {seeds}: none of {counted(len(found.repeated), 'claim')} of this report can be checked yet."
    sign, same = sum(bool(each.same_sign) for each in again), sum(bool(each.same) for each in again)
    waiting = f"; {len(found.repeated) - len(again):,} cannot be checked yet" if len(again) < len(found.repeated) else ""
    later = f" Those seeds alone told {counted(found.found_later, 'more difference')} apart." if found.found_later else ""
    held = f"{sign:,} have the same sign and {same:,} are told apart again"
    return f"Made again with {seeds}: of {counted(len(again), 'claim')} of this report {held}{waiting}.{later}"


def untold(found: Findings) -> list[str]:
    """What the study could not tell, a line each."""
    lines = [
        f"{found.language(lang)}{'' if pairs == 0 else ', ' + size(pairs)}: cannot be measured: {reason}"
        for lang, pairs, reason in found.impossible
    ]
    for family in (found.by_language, found.means, found.ablations):
        unmade = family.planned - len(family.verdicts)
        if unmade:
            lines.append(f"{unmade:,} of {counted(family.planned, FAMILIES[family.name])} not made: cells are missing.")
    if not found.means.planned:
        lines.append("No mean over languages: there is one language, or each is measured on other images.")
    for pairs in found.sizes:
        ties = [each for each in found.by_language.verdicts if each.pairs == pairs and each.outcome == "tie"]
        if seen := detectable(ties):
            lines.append(
                f"{size(pairs)}: {counted(len(ties), 'comparison')} found no difference. A true one of {spread(seen)} would have "
                "been "
                "found there four times in five, before Holm's correction; a smaller one may well be there."
            )
    if not found.facets:
        lines.append("No breakdown by kind of caption: not all records have these facets, or the direction has none.")
    return lines


def threats(found: Findings) -> list[str]:
    """What may make the answer wrong, a line each."""
    machine = "machine translation"
    captions = listed(each.name for each in found.languages if each.kind == machine)
    bitext = listed(each.name for each in found.languages if each.bitext_kind == machine)
    galleries = {each.gallery for each in found.languages}
    few = "nothing is known of how far another seed would lead" if len(found.seeds) == 1 else "intervals are widened for so few"
    said: list[tuple[object, str]] = [
        (found.sample, "The embedded sample is a drawn world, and its languages are small grammars."),
        (True, f"One teacher ({found.encoder}): another may give another answer."),
        (captions, f"Captions by machine translation, whose errors are part of what is measured: {captions}."),
        (bitext, f"Bitext by machine translation: {bitext}. That a language has little data is played by size, not by quality."),
        (len(galleries) == 1, "All languages are measured on the same images: what these images favour, all languages favour."),
        (len(galleries) > 1, "Languages are measured on different images: their scores do not compare with each other."),
        (True, tuning(found)),
        (len(found.seeds) < 5, f"{counted(len(found.seeds), 'seed')}: {few}."),
        (found.split == "val", "Measured on the val split, on which choices are made."),
        (True, "Holm corrects for the arms of this study, not for those that were tried before it."),
        (found.unconverged, f"{found.unconverged:,} transport problems in training had not converged."),
        (len(found.origins) > 1, f"Records were made by {len(found.origins)} versions of code, libraries or machines."),
        (any(each.dirty for each in found.origins), "Some records were made by code with uncommitted changes."),
    ]
    notes = [(each.name, note) for each in found.languages for note in each.notes]
    return [line for holds, line in said if holds] + [f"{name}: {note.rstrip('.')}." for name, note in dict.fromkeys(notes)]


def tuning(found: Findings) -> str:
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


def place(of: Verdict, found: Findings) -> str:
    """What a test is over, and its size."""
    if of.by == "lang":
        return f"{found.language(of.langs[0])} with {size(of.pairs)}"
    return f"mean of {counted(len(of.langs), 'language')} with {size(of.pairs)}"


def points(score: Score) -> str:
    """A difference with its interval.

    >>> points(Score(estimate=-1.25, low=-3.0, high=None))
    '−1.2 points [−3.0, –]'
    """
    value, low, high = ("–" if end is None else signed(end) for end in (score.estimate, score.low, score.high))
    return f"{value} points [{low}, {high}]"


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign; 0 has none.

    >>> signed(1.25), signed(-0.04), signed(-3.0, 0)
    ('+1.2', '0.0', '−3')
    """
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if float(f"{value:.{digits}f}") else text[1:]


def p_value(p: float) -> str:
    """A p-value.

    >>> p_value(0.0312), p_value(0.00001), p_value(1.0)
    ('p = 0.0312', 'p < 0.001', 'p = 1')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.3g}"


def counted(count: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "language"), counted(2_000, "seed"), counted(2, "comparison of means")
    ('1 language', '2,000 seeds', '2 comparisons of means')
    """
    first, space, rest = what.partition(" of ") if " of " in what else what.partition(" by ")
    return f"{count:,} {first}{'' if count == 1 else 's'}{space}{rest}"


def listed(words: Iterable[str]) -> str:
    """Words in a row; nothing of none.

    >>> listed(["a", "b", "c"]), listed([])
    ('a, b and c', '')
    """
    *first, last = list(words) or [""]
    return f"{', '.join(first)} and {last}" if first else last
