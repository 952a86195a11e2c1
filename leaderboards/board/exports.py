"""A board as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence

from harness.leaderboards.board.builder import Board, BoardCell, BoardMean, BoardRow, Ceiling, sanitize_line
from harness.runtime.markup import escape_formula, escape_latex, escape_markdown
from harness.statistics.inference import Interval

HEAD = ("board", "metric", "rank", "rank_last", "encoder", "encoder_fingerprint", "method", "family", "init", "pairs", "options")
BODY = ("seeds", "language", "name", "script", "tier", "source", "kind", "images", "captions", "images_digest", "texts_digest")
TAIL = ("bitext_used", "score", "low", "high", "chance", "languages_present", "languages_total", "facet", "value")
FIELDS = (*HEAD, *BODY, *TAIL)
RANKING_METHOD = (
    "Rows that cannot be told apart share a rank: 1 + the number of rows that are better in simultaneous 95 % intervals of all "
    "pairwise differences (bootstrap of the largest |t|; Mogstad, Romano, Shaikh and Wilhelm 2024). [low, high]: 95 % bootstrap "
    "interval over images, seeds averaged. A mean counts each language once and is given only to rows that have all of them."
)


def one_decimal(value: float) -> str:
    """A score as it is printed.

    >>> one_decimal(12.35), one_decimal(-0.04)
    ('12.3', '0.0')
    """
    return f"{value:.1f}".replace("-0.0", "0.0")


def with_interval(score: Interval) -> str:
    """A score and its interval."""
    return f"{one_decimal(score.estimate)} [{one_decimal(score.low)}, {one_decimal(score.high)}]"


def rank_text(mean: BoardMean | None) -> str:
    """The rank of a complete row; nothing for another."""
    return str(mean.standing.first) if mean and mean.standing else ""


def completeness(board: Board, row: BoardRow) -> str:
    """How many of the board's languages a row has, where it lacks some.

    Such a row has no mean: what it lacks is not what the others lack.
    """
    return "" if len(row.cells) == len(board.columns) else f"{len(row.cells)} of {len(board.columns)} languages"


def pairs_text(row: BoardRow) -> str:
    """Bitext size asked for."""
    config = row.tower.config
    return "" if config is None else "all" if config.pairs is None else f"{config.pairs:,}"


def seeds_text(row: BoardRow) -> str:
    """How many seeds were pooled; nothing where nothing was trained."""
    if row.tower.config is None:
        return ""
    fewest, most = row.seeds
    return str(most) if fewest == most else f"{fewest} to {most}"


def options_text(row: BoardRow) -> str:
    """The options that are not at their default."""
    return ", ".join(f"{name} {value}" for name, value in row.tower.choices.items())


def init_text(row: BoardRow) -> str:
    """What the student started from."""
    return sanitize_line(row.tower.config.init) if row.tower.config else ""


def score_table(board: Board, text: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the wide table, each cell through `text`."""
    groups = board.averaged
    names = [column.language.name for column in board.columns]
    means = ["all languages" if len(board.columns) > 1 else "", *groups]
    headings = ["rank", "encoder", "method", "init", "pairs", "seeds", *filter(None, means), *names]
    rows = [
        [
            rank_text(row.overall),
            row.tower.encoder,
            method_label(row),
            init_text(row),
            pairs_text(row),
            seeds_text(row),
            *row_scores(board, row, groups),
        ]
        for row in board.rows
    ]
    for ceiling in board.ceilings:
        rows.append(["", ceiling.tower.encoder, "English tower on English", "", "", "", *row_scores(board, ceiling, groups)])
    rows.append(["", "", "chance", "", "", "", *chance_scores(board, groups)])
    return [text(heading) for heading in headings], [[text(cell) for cell in row] for row in rows]


def method_label(row: BoardRow) -> str:
    """Method and options."""
    options = options_text(row)
    return f"{row.tower.method} ({options})" if options else row.tower.method


def row_scores(board: Board, row: BoardRow | Ceiling, groups: Sequence[str]) -> Iterator[str]:
    """Means and scores of a row; an incomplete one says so where its mean would be."""
    if len(board.columns) > 1:
        yield with_interval(row.overall.score) if row.overall else f"{len(row.cells)} of {len(board.columns)} languages"
    for group in groups:
        yield with_interval(row.means[group].score) if group in row.means else "–"
    for column in board.columns:
        cell = row.cells.get(column.language.code)
        yield "–" if cell is None else with_interval(cell.score if isinstance(cell, BoardCell) else cell)


def chance_scores(board: Board, groups: Sequence[str]) -> Iterator[str]:
    """Means and scores of a random ranking."""
    if len(board.columns) > 1:
        yield one_decimal(sum(column.chance for column in board.columns) / len(board.columns))
    for group in groups:
        inside = [column.chance for column in board.columns if column.group == group]
        yield one_decimal(sum(inside) / len(inside))
    for column in board.columns:
        yield one_decimal(column.chance)


def facet_score_table(board: Board, text: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the scores by a facet, each cell through `text`; nothing where there are none."""
    told = board.breakdown
    if told is None:
        return [], []
    headings = ["encoder", "method", "init", "pairs", *(f"{value}: {count:,}" for value, count in told.captions.items())]
    rows = [
        [
            row.tower.encoder,
            method_label(row),
            init_text(row),
            pairs_text(row),
            *(with_interval(of[value]) if value in of else "–" for value in told.captions),
        ]
        for row, of in zip(board.rows, told.rows, strict=True)
    ]
    return [text(heading) for heading in headings], [[text(cell) for cell in row] for row in rows]


def breakdown_caption(board: Board) -> str:
    """What the scores by a facet are; nothing where there are none."""
    if board.breakdown is None:
        return ""
    several = ", the mean of all languages with such captions" if len(board.columns) > 1 else ""
    return (
        f"{board.declaration.metric} by {board.breakdown.facet}{several}. Headings count captions; one may have several values."
    )


def caption_rows(board: Board) -> list[list[str]]:
    """What each column is measured on."""
    return [
        [c.language.name, c.language.code, c.group or "–", c.source, c.kind, f"{c.images:,}", f"{c.captions:,}"]
        for c in board.columns
    ]


CAPTION_HEADINGS = ["language", "code", "group", "captions by", "kind", "images", "captions"]


def board_markdown(board: Board) -> str:
    """The board as Markdown: one table of scores and one of caption sources."""
    headings, rows = score_table(board, escape_markdown)
    captions = [[escape_markdown(cell) for cell in row] for row in caption_rows(board)]
    parts = [
        f"# {escape_markdown(board.title)}",
        board.declaration.about,
        f"{board.declaration.metric}, in percent. {RANKING_METHOD}",
    ]
    if board.declaration.sample:
        parts.append("**The embedded sample: drawn scenes, NOT Flickr30k.**")
    parts += [markdown_table(headings, rows)]
    if board.breakdown:
        parts += [escape_markdown(breakdown_caption(board)), markdown_table(*facet_score_table(board, escape_markdown))]
    parts += [markdown_table(CAPTION_HEADINGS, captions)]
    parts += ["\n".join(f"- {escape_markdown(note)}" for note in board.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table of cells that are escaped already."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def board_latex(board: Board) -> str:
    """The board as LaTeX tables (booktabs): means over the groups, or the languages where there are few; then by facet."""
    headings, rows = score_table(board, escape_latex)
    few = len(board.columns) <= 8
    kept = len(headings) if few else len(headings) - len(board.columns)
    note = "" if few else " The languages are in the CSV file."
    caption = (
        f"{escape_latex(board.title)}: {escape_latex(board.declaration.metric)}, in percent. {escape_latex(RANKING_METHOD)}{note}"
    )
    ranked = len(board.rows)
    parts = [latex_table(caption, "rllllr", headings[:kept], [row[:kept] for row in rows], ranked)]
    if board.breakdown:
        headings, rows = facet_score_table(board, escape_latex)
        about = f"{escape_latex(board.title)}: {escape_latex(breakdown_caption(board))}"
        parts.append(latex_table(about, "llll", headings, rows, ranked))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(parts)


def latex_table(caption: str, names: str, headings: Sequence[str], rows: Sequence[Sequence[str]], ranked: int) -> str:
    """A table of cells that are escaped already. names: how the first columns are set; ranked: rows before the second rule."""
    body = [" & ".join(row) + r" \\" for row in rows]
    below = [r"\midrule", *body[ranked:]] if body[ranked:] else []
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{caption}}}",
            f"\\begin{{tabular}}{{{names}{'r' * (len(headings) - len(names))}}}",
            r"\toprule",
            " & ".join(headings) + r" \\",
            r"\midrule",
            *body[:ranked],
            *below,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def board_csv(board: Board) -> str:
    """Every number of the board, one a line, at full precision; means stand under the language `mean` or `mean GROUP`."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n", restval="")
    writer.writeheader()
    for row in board.rows:
        writer.writerows({name: escape_formula(value) for name, value in line.items()} for line in csv_lines(board, row))
    return out.getvalue()


def csv_lines(board: Board, row: BoardRow) -> Iterator[dict[str, object]]:
    """The lines of one row."""
    tower = row.tower
    own: dict[str, object] = {"board": board.name, "metric": board.declaration.metric, "encoder": tower.encoder}
    own |= {"encoder_fingerprint": tower.fingerprint, "method": tower.method, "family": tower.family, "init": init_text(row)}
    own |= {"pairs": pairs_text(row).replace(",", ""), "options": options_text(row), "images_digest": board.gallery}
    own |= {"languages_present": len(row.cells), "languages_total": len(board.columns)}
    means = {"mean": row.overall, **{f"mean {group}": row.means.get(group) for group in board.groups}}
    for name, mean in means.items():
        if mean:
            yield own | {"language": name} | score_fields(mean)
    for column in board.columns:
        cell = row.cells.get(column.language.code)
        if cell:
            language, tests = column.language, column.tests
            used = {each.record.tower.bitext.used for each in cell.records.values() if each.record.tower}
            where: dict[str, object] = {
                "language": language.code,
                "name": language.name,
                "script": language.script,
                "tier": language.tier,
            }
            where |= {"source": column.source, "kind": column.kind, "images": column.images, "captions": column.captions}
            where |= {"images_digest": tests.images_digest, "texts_digest": tests.texts_digest, "chance": column.chance}
            seeds = len(cell.records) if tower.config else ""
            yield own | where | {"seeds": seeds, "bitext_used": max(used, default="")} | score_fields(cell)
    if board.breakdown:
        told = board.breakdown
        for value, score in told.rows[board.rows.index(row)].items():
            group = {
                "language": "mean",
                "facet": board.breakdown.facet,
                "value": value,
                "captions": board.breakdown.captions[value],
            }
            yield own | group | {"score": score.estimate, "low": score.low, "high": score.high}


def score_fields(of: BoardCell | BoardMean) -> dict[str, object]:
    """Score, interval and rank."""
    fields: dict[str, object] = {"score": of.score.estimate, "low": of.score.low, "high": of.score.high}
    return fields | ({"rank": of.standing.first, "rank_last": of.standing.last} if of.standing else {})
