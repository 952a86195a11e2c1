"""Exports of a board: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence

from harness.leaderboards.board.model import Board, BoardCell, BoardMean, BoardRow, Ceiling
from harness.leaderboards.rendering import markdown_table, sanitize_line
from harness.runtime.markup import escape_formula, escape_latex, escape_markdown
from harness.statistics.inference import Interval

_HEAD = ("board", "metric", "rank", "rank_last", "encoder", "encoder_fingerprint", "method", "family", "init", "pairs", "options")
_BODY = ("seeds", "language", "name", "script", "tier", "source", "kind", "images", "captions", "images_digest", "texts_digest")
_TAIL = ("bitext_used", "score", "low", "high", "chance", "languages_present", "languages_total", "facet", "value")
_FIELDS = (*_HEAD, *_BODY, *_TAIL)
_CAPTION_HEADINGS = ["language", "code", "group", "captions by", "kind", "images", "captions"]
_MAX_LATEX_LANGUAGES = 8
RANKING_METHOD = (
    "A row's rank is 1 + the number of rows that are significantly better, by simultaneous 95 % confidence intervals of all "
    "pairwise differences (bootstrap of the largest |t|; Mogstad, Romano, Shaikh and Wilhelm 2024). Rows without significant "
    "differences share a rank. [low, high]: 95 % bootstrap confidence interval over images, averaged over seeds. A mean gives "
    "each language equal weight and is shown only for rows that have all languages."
)


def one_decimal(value: float) -> str:
    """Return a score with one decimal and without a negative zero.

    >>> one_decimal(12.35), one_decimal(-0.04)
    ('12.3', '0.0')
    """
    return f"{value:.1f}".replace("-0.0", "0.0")


def with_interval(score: Interval) -> str:
    """Return a score and its interval."""
    return f"{one_decimal(score.estimate)} [{one_decimal(score.low)}, {one_decimal(score.high)}]"


def rank_text(mean: BoardMean | None) -> str:
    """Return the rank of a complete row, or an empty text."""
    return str(mean.rank.first) if mean and mean.rank else ""


def pairs_text(row: BoardRow) -> str:
    """Return the requested number of sentence pairs."""
    config = row.tower.config
    return "" if config is None else "all" if config.pairs is None else f"{config.pairs:,}"


def seeds_cell(row: BoardRow) -> str:
    """Return the number of pooled seeds, or an empty text for a tower that was not trained."""
    if row.tower.config is None:
        return ""
    fewest, most = row.seeds
    return str(most) if fewest == most else f"{fewest} to {most}"


def options_text(row: BoardRow) -> str:
    """Return the options that differ from their defaults."""
    return ", ".join(f"{name} {value}" for name, value in row.tower.options.items())


def init_text(row: BoardRow) -> str:
    """Return the initializer of the student."""
    return sanitize_line(row.tower.config.init) if row.tower.config else ""


def score_table(board: Board, text: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and rows of the table of scores. text: the escaper of every cell."""
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
            seeds_cell(row),
            *row_scores(board, row, groups),
        ]
        for row in board.rows
    ]
    for ceiling in board.ceilings:
        rows.append(["", ceiling.tower.encoder, "English tower on English", "", "", "", *row_scores(board, ceiling, groups)])
    rows.append(["", "", "chance", "", "", "", *chance_scores(board, groups)])
    return [text(heading) for heading in headings], [[text(cell) for cell in row] for row in rows]


def method_label(row: BoardRow) -> str:
    """Return the method and its options."""
    options = options_text(row)
    return f"{row.tower.method} ({options})" if options else row.tower.method


def row_scores(board: Board, row: BoardRow | Ceiling, groups: Sequence[str]) -> Iterator[str]:
    """Yield the means and scores of a row. An incomplete row has its number of languages instead of the overall mean."""
    if len(board.columns) > 1:
        yield with_interval(row.overall.score) if row.overall else f"{len(row.cells)} of {len(board.columns)} languages"
    for group in groups:
        yield with_interval(row.means[group].score) if group in row.means else "–"
    for column in board.columns:
        cell = row.cells.get(column.language.code)
        yield "–" if cell is None else with_interval(cell.score if isinstance(cell, BoardCell) else cell)


def chance_scores(board: Board, groups: Sequence[str]) -> Iterator[str]:
    """Yield the means and scores of a random ranking."""
    if len(board.columns) > 1:
        yield one_decimal(sum(column.chance for column in board.columns) / len(board.columns))
    for group in groups:
        inside = [column.chance for column in board.columns if column.group == group]
        yield one_decimal(sum(inside) / len(inside))
    for column in board.columns:
        yield one_decimal(column.chance)


def facet_score_table(board: Board, text: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and rows of the scores by facet, empty without them. text: the escaper of every cell."""
    breakdown = board.breakdown
    if breakdown is None:
        return [], []
    headings = ["encoder", "method", "init", "pairs", *(f"{value}: {count:,}" for value, count in breakdown.captions.items())]
    rows = [
        [
            row.tower.encoder,
            method_label(row),
            init_text(row),
            pairs_text(row),
            *(with_interval(of[value]) if value in of else "–" for value in breakdown.captions),
        ]
        for row, of in zip(board.rows, breakdown.rows, strict=True)
    ]
    return [text(heading) for heading in headings], [[text(cell) for cell in row] for row in rows]


def breakdown_caption(board: Board) -> str:
    """Return a description of the scores by facet, empty without them."""
    if board.breakdown is None:
        return ""
    several = ", averaged over all languages with such captions" if len(board.columns) > 1 else ""
    return (
        f"{board.config.metric} by {board.breakdown.facet}{several}. Headings give the number of captions. A caption may have "
        "several values."
    )


def caption_rows(board: Board) -> list[list[str]]:
    """Return the rows of the table of captions."""
    return [
        [c.language.name, c.language.code, c.group or "–", c.source, c.kind, f"{c.images:,}", f"{c.captions:,}"]
        for c in board.columns
    ]


def board_markdown(board: Board) -> str:
    """Return the board as Markdown: tables of scores, of scores by facet, and of captions."""
    headings, rows = score_table(board, escape_markdown)
    captions = [[escape_markdown(cell) for cell in row] for row in caption_rows(board)]
    parts = [
        f"# {escape_markdown(board.title)}",
        board.config.about,
        f"{board.config.metric}, in percent. {RANKING_METHOD}",
    ]
    if board.config.sample:
        parts.append("**The embedded sample: drawn scenes, NOT Flickr30k.**")
    parts += [markdown_table(headings, rows)]
    if board.breakdown:
        parts += [escape_markdown(breakdown_caption(board)), markdown_table(*facet_score_table(board, escape_markdown))]
    parts += [markdown_table(_CAPTION_HEADINGS, captions)]
    parts += ["\n".join(f"- {escape_markdown(note)}" for note in board.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def board_latex(board: Board) -> str:
    """Return the board as LaTeX tables (booktabs): scores, and scores by facet. A board of many languages has only the means."""
    headings, rows = score_table(board, escape_latex)
    few = len(board.columns) <= _MAX_LATEX_LANGUAGES
    kept = len(headings) if few else len(headings) - len(board.columns)
    note = "" if few else " The languages are in the CSV file."
    caption = (
        f"{escape_latex(board.title)}: {escape_latex(board.config.metric)}, in percent. {escape_latex(RANKING_METHOD)}{note}"
    )
    ranked = len(board.rows)
    parts = [latex_table(caption, "rllllr", headings[:kept], [row[:kept] for row in rows], ranked)]
    if board.breakdown:
        headings, rows = facet_score_table(board, escape_latex)
        about = f"{escape_latex(board.title)}: {escape_latex(breakdown_caption(board))}"
        parts.append(latex_table(about, "llll", headings, rows, ranked))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(parts)


def latex_table(caption: str, names: str, headings: Sequence[str], rows: Sequence[Sequence[str]], ranked: int) -> str:
    """Return a LaTeX table. The cells must be escaped already.

    names: alignment of the first columns. ranked: the number of rows above the second rule.
    """
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
    """Return every number of the board at full precision, one a line. Means have the language `mean` or `mean GROUP`."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _FIELDS, lineterminator="\n", restval="")
    writer.writeheader()
    for row in board.rows:
        writer.writerows({name: escape_formula(value) for name, value in line.items()} for line in csv_lines(board, row))
    return out.getvalue()


def csv_lines(board: Board, row: BoardRow) -> Iterator[dict[str, object]]:
    """Yield the lines of one row."""
    tower = row.tower
    own: dict[str, object] = {"board": board.name, "metric": board.config.metric, "encoder": tower.encoder}
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
            language, test_set = column.language, column.test_set
            used = {each.record.tower.bitext.used for each in cell.records.values() if each.record.tower}
            where: dict[str, object] = {
                "language": language.code,
                "name": language.name,
                "script": language.script,
                "tier": language.tier,
            }
            where |= {"source": column.source, "kind": column.kind, "images": column.images, "captions": column.captions}
            where |= {"images_digest": test_set.images_digest, "texts_digest": test_set.texts_digest, "chance": column.chance}
            seeds = len(cell.records) if tower.config else ""
            yield own | where | {"seeds": seeds, "bitext_used": max(used, default="")} | score_fields(cell)
    if board.breakdown:
        for value, score in board.breakdown.rows[board.rows.index(row)].items():
            group = {
                "language": "mean",
                "facet": board.breakdown.facet,
                "value": value,
                "captions": board.breakdown.captions[value],
            }
            yield own | group | {"score": score.estimate, "low": score.low, "high": score.high}


def score_fields(of: BoardCell | BoardMean) -> dict[str, object]:
    """Return the fields of a score, its interval and its rank."""
    fields: dict[str, object] = {"score": of.score.estimate, "low": of.score.low, "high": of.score.high}
    return fields | ({"rank": of.rank.first, "rank_last": of.rank.last} if of.rank else {})
