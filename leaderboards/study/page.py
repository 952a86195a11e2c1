"""A study's report as a page that asks nothing of anybody, as Markdown, and as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.leaderboards.board.builder import FAMILIES, shown
from harness.leaderboards.board.exports import markdown_table
from harness.leaderboards.board.page import render
from harness.leaderboards.board.publish import write_readable
from harness.leaderboards.study.sections import Section, Table, over, sections
from harness.runtime.markup import markdown_text
from harness.study.findings import Findings, PlannedContrast
from harness.study.narrative import answer_paragraph
from harness.study.runner import size_text

TEXT_LENGTH = 4000
BEST = "the best standard arm"


def publish_study(found: Findings, out: Path) -> list[str]:
    """Write `index.html`, `report.md` and `findings.json` into a folder; what is to be said of them, the answer first."""
    parts = [cleaned(section) for section in sections(found)]
    write_readable(out / "findings.json", found.model_dump_json(indent=1) + "\n")
    write_readable(out / "report.md", markdown(found, parts))
    write_readable(out / "index.html", page(found, parts))
    return [answer_paragraph(found), f"Open {(out / 'index.html').resolve()}"]


def cleaned(section: Section) -> Section:
    """A section whose texts are of bounded length, each in one line and without control or direction marks."""
    return Section(
        section.name,
        section.title,
        tuple(shown(text, TEXT_LENGTH) for text in section.paragraphs),
        section.chart,
        tuple(cleaned_table(table) for table in section.tables),
        tuple(shown(text, TEXT_LENGTH) for text in section.items),
        shown(section.code, TEXT_LENGTH),
    )


def cleaned_table(table: Table) -> Table:
    """The same of a table."""
    rows = tuple(tuple(shown(cell) for cell in row) for row in table.rows)
    return Table(shown(table.title, TEXT_LENGTH), tuple(map(shown, table.headings)), rows, table.text, table.folded)


def page(found: Findings, parts: Sequence[Section]) -> str:
    """The report as one HTML file."""
    return render(
        "study.html.j2",
        ("elements.js", "charts.js", "study.js"),
        title=shown(found.title),
        sample=found.sample,
        left=found.planned - found.done,
        planned=found.planned,
        sections=parts,
        data=payload(found),
    )


def payload(found: Findings) -> dict[str, Any]:
    """What the charts are drawn from, every name bounded."""
    names = {each.code: shown(each.name) for each in found.languages}
    arms = {arm.name: shown(arm.name) for arm in found.arms}
    transport = [arm.name for arm in found.arms if arm.side == "transport"]
    changes = [*found.ablations.verdicts, *found.ablation_means.verdicts]
    return {
        "metric": f"R@1 {found.direction}",
        "arms": [[arms[arm.name], FAMILIES[arm.side]] for arm in found.arms],
        "languages": [[each.code, names[each.code], each.ceiling, each.chance] for each in found.languages],
        "points": [
            [arms[each.arm], list(each.langs), each.used, [each.score.estimate, each.score.low, each.score.high]]
            for each in found.points
        ],
        "forest": [
            plot(f"{arm} − {BEST}", found, [*found.by_language.verdicts, *found.means.verdicts], arm) for arm in transport
        ],
        "facets": [
            *(plot(f"by tier: {arm} − {BEST}", found, found.by_tier.verdicts, arm) for arm in transport),
            *(
                plot(f"by {family.name}: {arm} − {found.baseline}", found, family.verdicts, arm)
                for family in found.facets
                for arm in transport
            ),
        ],
        "ablations": [plot(f"{each.a} − {each.b} ({each.what})", found, changes, each.a, each.b) for each in found.ablated],
    }


def plot(name: str, found: Findings, tests: Sequence[PlannedContrast], arm: str, rival: str = "") -> dict[str, Any]:
    """A forest plot of an arm's tests, grouped by size, means last. rival: of ablations, the other arm."""
    own = [each for each in tests if each.arm == arm and rival in ("", each.rival)]
    return {
        "name": shown(name),
        "sides": [shown(rival), shown(arm)] if rival else ["standard", "transport"],
        "lines": [
            line for pairs in found.sizes for line in lines_of([each for each in own if each.pairs == pairs], pairs, found)
        ],
    }


def lines_of(tests: Sequence[PlannedContrast], pairs: int | None, found: Findings) -> Iterator[list[Any]]:
    """A heading, and the lines under it: what over, against which arm, and the difference; none where nothing was tested."""
    order = {each.code: place for place, each in enumerate(found.languages)}
    if tests:
        yield [size_text(pairs)]
    for each in sorted(tests, key=lambda each: (each.by == "all", order[each.langs[0]], each.value)):
        difference, told = each.difference, each.outcome != "tie"
        mark = int(told) if each.by != "all" else 2 if told else 3
        label = over(each, found).partition(":")[0]
        yield [shown(label), shown(each.rival), [difference.estimate, difference.low, difference.high, mark], int(told)]


def markdown(found: Findings, parts: Sequence[Section]) -> str:
    """The report as Markdown."""
    lines = [f"# {markdown_text(shown(found.title))}"]
    if found.sample:
        lines.append("**The embedded sample: drawn scenes, NOT Flickr30k.**")
    if found.done < found.planned:
        lines.append(f"**Not finished: {found.planned - found.done:,} of {found.planned:,} cells are missing.**")
    for section in parts:
        lines.append(f"## {markdown_text(section.title)}")
        lines += [markdown_text(paragraph) for paragraph in section.paragraphs]
        if section.items:
            lines.append("\n".join(f"- {markdown_text(item)}" for item in section.items))
        for table in section.tables:
            cells = [[markdown_text(cell) for cell in row] for row in table.rows]
            lines += [f"**{markdown_text(table.title)}**", markdown_table(list(map(markdown_text, table.headings)), cells)]
        if section.code:
            fence = "`" * 3
            lines.append(f"{fence}text\n{section.code}\n{fence}")
    return "\n\n".join(lines) + "\n"
