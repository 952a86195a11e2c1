"""Tables of what there is and of what would be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from harness.api import Finding
from harness.plan import Plan
from harness.record import load_card, load_record
from harness.registry import ENCODERS, TASKS
from harness.store import Store


def grid(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain table. Cells are text, never markup."""
    from rich.text import Text

    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    for heading in headings:
        drawn.add_column(heading)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn


def listing(what: str, task: str, store: Store) -> Table:
    """The table that `list WHAT` prints."""
    tables: dict[str, Callable[[], Table]] = {
        "tasks": tasks_table,
        "encoders": encoders_table,
        "languages": lambda: languages_table(task),
        "towers": lambda: towers_table(store),
        "runs": lambda: runs_table(store),
    }
    return tables[what]()


def tasks_table() -> Table:
    """Every task, with what its card says."""
    cards = [(name, TASKS.load(name)().card) for name in TASKS.names()]
    rows = ((name, card.title, ", ".join(card.splits), card.licence, TASKS.origin(name)) for name, card in cards)
    return grid("Tasks", ("name", "what it measures", "splits", "licence", "from"), rows)


def encoders_table() -> Table:
    """Every encoder, with the form of its argument and where it comes from."""
    rows = ((name, (ENCODERS.load(name).__doc__ or "").splitlines()[0], ENCODERS.origin(name)) for name in ENCODERS.names())
    return grid("Encoders", ("name", "what it is", "from"), rows)


def languages_table(task: str) -> Table:
    """Every language of a task."""
    languages = TASKS.load(task)().languages().values()
    rows = ((lang.code, lang.name, lang.script, str(lang.tier), ", ".join(lang.sources)) for lang in languages)
    return grid(
        f"Languages of {task} (tier: resources from 0 to 5, Joshi et al. 2020)",
        ("code", "name", "script", "tier", "captions"),
        rows,
    )


def towers_table(store: Store) -> Table:
    """Every distilled tower of the store."""
    cards = [load_card(folder) for folder in store.towers()]
    rows = (
        (
            card.digest[:12],
            card.lang,
            card.config.objective,
            card.config.init,
            f"{card.bitext.used:,}",
            str(card.config.seed),
            card.teacher,
            f"{card.losses[-1]:.4f}" if card.losses else "",
        )
        for card in cards
    )
    return grid(f"Towers in {store.root}", ("digest", "lang", "objective", "init", "pairs", "seed", "teacher", "last loss"), rows)


def runs_table(store: Store) -> Table:
    """Every record of the store."""
    records = [load_record(folder) for folder in store.records()]
    rows = (
        (
            record.cell[:12],
            record.task + (" (sample)" if record.sample else ""),
            record.lang,
            record.split,
            record.encoder,
            record.text_tower,
            f"{record.tower.bitext.used:,}" if record.tower else "",
            f"{record.images:,} x {record.captions:,}",
            f"{record.scores['t2i_r1']:.1f}",
            f"{record.scores['i2t_r1']:.1f}",
        )
        for record in records
    )
    headings = ("cell", "task", "lang", "split", "encoder", "tower", "pairs", "images x captions", "t2i R@1", "i2t R@1")
    return grid(f"Runs in {store.root}", headings, rows)


def findings_table(folder: Path, findings: Iterable[Finding]) -> Table:
    """What `data check` prints."""
    return grid(str(folder), ("", "what", ""), (("✓" if f.found else "–", f.what, f.detail) for f in findings))


def plan_table(plan: Plan, store: Store) -> Table:
    """What `--dry-run` prints: each cell, and whether it is done, needs ranking only, or a tower to be distilled."""
    rows = []
    for cell in plan.cells:
        if store.record(cell.key).is_dir():
            state = "done"
        elif cell.recipe is None:
            state = "to embed and rank"
        elif store.tower(cell.recipe.digest).is_dir():
            state = "tower is there; to embed and rank"
        else:
            bitext = cell.recipe.bitext
            steps = cell.recipe.config.steps_for(len(bitext))
            begun = ", goes on from a checkpoint" if store.training(cell.recipe.digest).is_file() else ""
            state = (
                f"to distil: {steps:,} steps on {len(bitext):,} pairs{begun}" if steps else f"to make of {len(bitext):,} pairs"
            )
        retrieval = cell.retrieval
        rows.append((cell.label, retrieval.lang, f"{len(retrieval.images.ids):,} x {len(retrieval.captions):,}", state))
    return grid(f"Plan over {plan.data}", ("cell", "lang", "images x captions", "state"), rows)
