"""A study's report as a self-contained page, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.leaderboards.board.model import METHOD_FAMILIES
from harness.leaderboards.rendering import markdown_table, render_page, sanitize_line, write_web_file
from harness.leaderboards.study.sections import ReportSection, report_sections
from harness.leaderboards.study.tables import ReportTable, contrast_scope_text
from harness.runtime.markup import escape_markdown
from harness.study.findings import Findings, PlannedContrast
from harness.study.narrative import answer_paragraph
from harness.study.runner import size_text

_TEXT_LENGTH = 4000
_BEST = "the best arm without transport"


def publish_study(found: Findings, out: Path) -> list[str]:
    """Write `index.html`, `report.md` and `findings.json` into a folder, and return the lines to print, the answer first."""
    parts = [sanitize_section(section) for section in report_sections(found)]
    write_web_file(out / "findings.json", found.model_dump_json(indent=1) + "\n")
    write_web_file(out / "report.md", study_markdown(found, parts))
    write_web_file(out / "index.html", study_page(found, parts))
    return [answer_paragraph(found), f"Open {(out / 'index.html').resolve()}"]


def sanitize_section(section: ReportSection) -> ReportSection:
    """Return a section with every text bounded, in one line and without control or direction marks."""
    return ReportSection(
        section.name,
        section.title,
        tuple(sanitize_line(text, _TEXT_LENGTH) for text in section.paragraphs),
        section.chart,
        tuple(sanitize_table(table) for table in section.tables),
        tuple(sanitize_line(text, _TEXT_LENGTH) for text in section.items),
        sanitize_line(section.code, _TEXT_LENGTH),
    )


def sanitize_table(table: ReportTable) -> ReportTable:
    """Return a table with every text bounded, in one line and without control or direction marks."""
    rows = tuple(tuple(sanitize_line(cell) for cell in row) for row in table.rows)
    return ReportTable(
        sanitize_line(table.title, _TEXT_LENGTH), tuple(map(sanitize_line, table.headings)), rows, table.text, table.folded
    )


def study_page(found: Findings, parts: Sequence[ReportSection]) -> str:
    """Return the report as one HTML file."""
    return render_page(
        "study.html.j2",
        ("elements.js", "charts.js", "study.js"),
        title=sanitize_line(found.title),
        sample=found.sample,
        left=found.planned - found.done,
        planned=found.planned,
        sections=parts,
        data=chart_payload(found),
    )


def chart_payload(found: Findings) -> dict[str, Any]:
    """Return the data of the charts. Every name is bounded."""
    names = {each.code: sanitize_line(each.name) for each in found.languages}
    arms = {arm.name: sanitize_line(arm.name) for arm in found.arms}
    transport = [arm.name for arm in found.arms if arm.side == "transport"]
    changes = [*found.ablations.verdicts, *found.ablation_means.verdicts]
    return {
        "metric": f"R@1 {found.direction}",
        "arms": [[arms[arm.name], METHOD_FAMILIES[arm.side]] for arm in found.arms],
        "languages": [[each.code, names[each.code], each.ceiling, each.chance] for each in found.languages],
        "points": [
            [arms[each.arm], list(each.langs), each.used, [each.score.estimate, each.score.low, each.score.high]]
            for each in found.points
        ],
        "forest": [
            forest_plot(f"{arm} − {_BEST}", found, [*found.by_language.verdicts, *found.means.verdicts], arm) for arm in transport
        ],
        "facets": [
            *(forest_plot(f"by tier: {arm} − {_BEST}", found, found.by_tier.verdicts, arm) for arm in transport),
            *(
                forest_plot(f"by {family.name}: {arm} − {found.baseline}", found, family.verdicts, arm)
                for family in found.facets
                for arm in transport
            ),
        ],
        "ablations": [
            forest_plot(f"{each.a} − {each.b} ({each.what})", found, changes, each.a, each.b) for each in found.ablated
        ],
    }


def forest_plot(name: str, found: Findings, tests: Sequence[PlannedContrast], arm: str, rival: str = "") -> dict[str, Any]:
    """Return the forest plot of an arm's tests, grouped by size, means last. rival: in an ablation, the other arm."""
    own = [each for each in tests if each.arm == arm and rival in ("", each.rival)]
    return {
        "name": sanitize_line(name),
        "sides": [sanitize_line(rival), sanitize_line(arm)] if rival else ["standard", "transport"],
        "lines": [
            line for pairs in found.sizes for line in forest_lines([each for each in own if each.pairs == pairs], pairs, found)
        ],
    }


def forest_lines(tests: Sequence[PlannedContrast], pairs: int | None, found: Findings) -> Iterator[list[Any]]:
    """Yield a heading and a line for each test: its scope, the other arm and the difference. Yield nothing without tests."""
    order = {each.code: place for place, each in enumerate(found.languages)}
    if tests:
        yield [size_text(pairs)]
    for each in sorted(tests, key=lambda each: (each.by == "all", order[each.langs[0]], each.value)):
        difference, significant = each.difference, each.outcome != "tie"
        mark = int(significant) if each.by != "all" else 2 if significant else 3
        label = contrast_scope_text(each, found).partition(":")[0]
        yield [
            sanitize_line(label),
            sanitize_line(each.rival),
            [difference.estimate, difference.low, difference.high, mark],
            int(significant),
        ]


def study_markdown(found: Findings, parts: Sequence[ReportSection]) -> str:
    """Return the report as Markdown."""
    lines = [f"# {escape_markdown(sanitize_line(found.title))}"]
    if found.sample:
        lines.append("**The embedded sample: drawn scenes, NOT Flickr30k.**")
    if found.done < found.planned:
        lines.append(f"**Not finished: {found.planned - found.done:,} of {found.planned:,} cells are missing.**")
    for section in parts:
        lines.append(f"## {escape_markdown(section.title)}")
        lines += [escape_markdown(paragraph) for paragraph in section.paragraphs]
        if section.items:
            lines.append("\n".join(f"- {escape_markdown(item)}" for item in section.items))
        for table in section.tables:
            cells = [[escape_markdown(cell) for cell in row] for row in table.rows]
            lines += [f"**{escape_markdown(table.title)}**", markdown_table(list(map(escape_markdown, table.headings)), cells)]
        if section.code:
            fence = "`" * 3
            lines.append(f"{fence}text\n{section.code}\n{fence}")
    return "\n\n".join(lines) + "\n"
