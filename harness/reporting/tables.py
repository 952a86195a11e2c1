"""Tables of registries, stored objects and plans."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from harness.core.builtins import CHUNKERS, ENCODERS, EXECUTORS, INITIALIZERS, OBJECTIVES, SCORERS, TASKS, TRANSLATORS
from harness.core.data import Download, Finding, Language
from harness.core.error_messages import one_line_message
from harness.core.plugins import BROKEN_FILES
from harness.core.registry import Registry
from harness.evaluation.cells import Cell
from harness.evaluation.planning import Plan
from harness.records.files import check_stored_record
from harness.records.schema import TowerCard, Trial
from harness.records.towers import load_card
from harness.retrieval.scorers import PLAIN
from harness.runtime.console import plain_table
from harness.storage.seals import is_undamaged, load_readable
from harness.storage.store import Store

if TYPE_CHECKING:
    from harness.evaluation.encoder_checks import EncoderCheck


def listing(what: str, task: str, store: Store) -> Table:
    """Return the table that `list WHAT` prints."""
    tables: dict[str, Callable[[], Table]] = {
        "tasks": tasks_table,
        "encoders": encoders_table,
        "objectives": objectives_table,
        "initializers": initializers_table,
        "chunkers": chunkers_table,
        "scorers": scorers_table,
        "translators": translators_table,
        "executors": executors_table,
        "languages": lambda: languages_table(task),
        "sources": lambda: sources_table(task),
        "runs": lambda: runs_table(store),
    }
    return tables[what]()


def tasks_table() -> Table:
    """Return every task with its title, splits and licence."""

    def row(name: str) -> Sequence[str]:
        card = TASKS.load(name)().card
        return card.title, ", ".join(card.splits), card.licence

    return registry_table(TASKS, ("what it measures", "splits", "licence"), row)


def encoders_table() -> Table:
    """Return every encoder with the form of its argument."""
    return registry_table(ENCODERS, ("description",), lambda name: summary_line(ENCODERS.load(name)))


def objectives_table() -> Table:
    """Return every objective of distillation."""
    return distillation_table(OBJECTIVES)


def initializers_table() -> Table:
    """Return every initializer of students."""
    return distillation_table(INITIALIZERS)


def distillation_table(registry: Registry[Any]) -> Table:
    """Return the entries of a registry without importing built-in ones, which would import torch."""

    def row(name: str) -> Sequence[str]:
        entry = registry.find(name)
        return (docstring_summary(entry.builtin),) if entry.builtin else summary_line(registry.load(name))

    return registry_table(registry, ("description",), row)


def chunkers_table() -> Table:
    """Return every phrase chunker with the form of its argument."""
    return registry_table(CHUNKERS, ("description",), lambda name: summary_line(CHUNKERS.load(name)))


def scorers_table() -> Table:
    """Return every scorer."""
    return registry_table(SCORERS, ("description",), lambda name: summary_line(SCORERS.load(name)))


def translators_table() -> Table:
    """Return every translator with the form of its argument."""
    return registry_table(TRANSLATORS, ("description",), lambda name: summary_line(TRANSLATORS.load(name)))


def executors_table() -> Table:
    """Return every executor."""
    return registry_table(EXECUTORS, ("description",), lambda name: summary_line(EXECUTORS.load(name)))


def docstring_summary(target: str) -> str:
    """Return the first line of the docstring of a function or class, `module:name`, read from its source."""
    module, _, defined = target.partition(":")
    spec = importlib.util.find_spec(module)
    source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    docs = (
        ast.get_docstring(node)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == defined
    )
    return (next(docs, None) or "").partition("\n")[0]


def summary_line(thing: object) -> Sequence[str]:
    """Return the first line of the docstring of an object."""
    return ((inspect.getdoc(thing) or "").partition("\n")[0],)


def registry_table(registry: Registry[Any], headings: Sequence[str], row: Callable[[str], Sequence[str]]) -> Table:
    """Return every entry of a registry with its origin.

    A broken entry stays in the table, its error is printed below, and other rows are not affected.
    """
    from rich.text import Text

    from harness.runtime.terminal import plain_text

    rows, problems = [], []
    for name in registry.names():
        try:
            rows.append((name, *row(name), registry.origin(name)))
        except Exception as error:  # whatever a plug-in raises
            rows.append((name, "BROKEN, see below"))
            problems.append(f"{name}: {one_line_message(error)}")
    for path, problem in BROKEN_FILES.items():
        rows.append((path, "BROKEN, see below"))
        problems.append(problem)
    table = plain_table(f"{registry.kind.capitalize()}s", ("name", *headings, "from"), rows)
    table.caption, table.caption_justify = Text("\n").join(map(plain_text, problems)) if problems else None, "left"
    return table


def languages_table(task: str) -> Table:
    """Return every language of a task."""
    loaded = TASKS.load(task)()
    # A user's own files and the sample may be in any language, so they are not listed for this one.
    public = {source.name for source in loaded.sources() if source.url}
    rows = (
        (
            lang.code,
            lang.name,
            lang.script,
            "?" if lang.tier is None else str(lang.tier),
            ", ".join(published_sources(lang, public)),
        )
        for lang in loaded.languages().values()
    )
    return plain_table(
        f"Languages of {task} (tier: resources from 0 to 5, Joshi et al. 2020; ? if their list does not name the language)",
        ("code", "name", "script", "tier", "captions"),
        rows,
    )


def published_sources(language: Language, public: Collection[str]) -> list[str]:
    """Return the public sources of a language, the preferred one first."""
    return [name for name in language.sources if name in public]


def sources_table(task: str) -> Table:
    """Return every caption source of a task in search order."""
    rows = (
        (source.name, source.kind, codes_text(source.languages), source.licence, source.url, source.title)
        for source in TASKS.load(task)().sources()
    )
    return plain_table(
        f"Caption sources of {task}, in search order",
        ("name", "captions", "languages", "licence", "download from", "description"),
        rows,
    )


def downloads_table(downloads: Sequence[Download], folder: Path) -> Table:
    """Return a row for each source: the number of files, how many exist, the licence and the first address."""
    rows = []
    for name, licence in dict.fromkeys((item.source, item.licence) for item in downloads):
        items = [item for item in downloads if item.source == name]
        there = sum((folder / item.path).is_file() for item in items)
        rows.append((name, f"{len(items):,}", f"{there:,}", licence, items[0].url))
    return plain_table(f"Public files for {folder}", ("source", "files", "present", "licence", "first address"), rows)


def codes_text(codes: Sequence[str], shown: int = 8) -> str:
    """Format language codes, or their number if there are many.

    >>> codes_text(["de", "fr"]), codes_text([]), codes_text([str(k) for k in range(201)])
    ('de, fr', 'any', '201')
    """
    return ("any" if not codes else ", ".join(codes)) if len(codes) <= shown else f"{len(codes):,}"


def towers_table(folders: Iterable[Path], title: str) -> Table:
    """Return distilled towers, a row for each."""
    cards = [card for _, card in load_readable(folders, load_card)]
    rows = (
        (
            card.digest[:12],
            card.lang,
            card.config.arm,
            f"{card.bitext.used:,}",
            str(card.config.seed),
            card.teacher,
            f"{card.steps:,}",
            f"{card.losses[-1]:.4f}" if card.losses else "",
            f"{max(score for _, score in card.validations):.1f}" if card.validations else "",
        )
        for card in cards
    )
    headings = ("digest", "lang", "arm", "pairs", "seed", "teacher", "steps", "last loss", "validation")
    return plain_table(title, headings, rows)


def card_table(card: TowerCard, folder: Path) -> Table:
    """Return the complete provenance of a tower, a line for each fact."""
    bitext, made = card.bitext, card.provenance
    rows = [
        ("digest", card.digest),
        ("language", card.lang),
        ("teacher", f"{card.teacher} ({card.teacher_fingerprint[:12]})"),
        ("bitext", f"{bitext.used:,} pairs of {bitext.offered:,}, {bitext.source} ({bitext.kind}), digest {bitext.digest[:12]}"),
        ("leakage guard", f"dropped {bitext.dropped:,} pairs of evaluation images"),
        *(("note", note) for note in bitext.notes),
        *((name.replace("_", " "), "—" if value is None else str(value)) for name, value in card.config),
        *(("tried", describe_trial(trial)) for trial in card.tuning),
        ("trained", f"{card.steps:,} steps in {card.seconds:,.0f} s on {made.device}"),
        ("not converged", f"{card.unconverged:,} transport problems"),
        ("agreement", "—" if card.agreement is None else f"{card.agreement:.2f} with the teacher on training pairs"),
        *(("note", note) for note in card.notes),
        ("made", f"{made.created} by {made.command}"),
        ("code", f"{made.version}, commit {made.commit or 'unknown'}{' with uncommitted changes' if made.dirty else ''}"),
    ]
    return plain_table(str(folder), ("", ""), rows)


def describe_trial(trial: Trial) -> str:
    """Return what a trial tried, its score and its time, as far as its record has them."""
    tried = [f"learning rate {trial.learning_rate:g}"]
    tried += [f"{trial.vocabulary:,} subwords"] if trial.vocabulary else []
    tried += [f"{trial.steps:,} steps"] if trial.steps else []
    took = "" if trial.seconds is None else f" in {trial.seconds:,.0f} s"
    return f"{', '.join(tried)}: {trial.score:.2f}{took}"


def runs_table(store: Store) -> Table:
    """Return every record of the store. Damaged records are named in a note and skipped."""
    records = [record for _, record in load_readable(store.records(), check_stored_record)]
    rows = (
        (
            record.cell[:12],
            record.task + (" (sample)" if record.sample else ""),
            record.lang,
            record.split,
            record.encoder,
            record.text_tower + ("" if record.scorer == PLAIN else f" ({record.scorer})"),
            f"{record.tower.bitext.used:,}" if record.tower else "",
            f"{record.documents or record.images:,} x {record.captions:,}",
            f"{record.scores['t2i_r1']:.1f}",
            f"{record.scores['i2t_r1']:.1f}" if "i2t_r1" in record.scores else "",
        )
        for record in records
    )
    headings = ("cell", "task", "lang", "split", "encoder", "tower", "pairs", "gallery x queries", "t2i R@1", "i2t R@1")
    return plain_table(f"Runs in {store.root}", headings, rows)


def findings_table(folder: Path, findings: Iterable[Finding]) -> Table:
    """Return the table that `data check` prints."""
    return plain_table(str(folder), ("", "what", ""), (("✓" if f.found else "–", f.what, f.detail) for f in findings))


def trials_table(encoder: str, trials: Iterable[EncoderCheck]) -> Table:
    """Return the table that `check` prints."""
    marks = {"ok": "✓", "note": "!", "failed": "✗"}
    return plain_table(encoder, ("", "what", ""), ((marks[trial.verdict], trial.what, trial.detail) for trial in trials))


def plan_table(plans: Sequence[Plan], store: Store) -> Table:
    """Return the table that `--dry-run` prints: each cell once, with its state."""
    cells = {cell.key: cell for plan in plans for cell in plan.cells}
    rows = []
    for cell in cells.values():
        retrieval = cell.retrieval
        size = f"{retrieval.gallery_size:,} x {len(retrieval.captions):,}"
        rows.append((cell.label, retrieval.lang, retrieval.source, size, cell_state(cell, store)))
    headings = ("cell", "lang", "captions of", "gallery x queries", "state")
    return plain_table(f"Plan over {plans[0].data}: {len(plans):,} languages", headings, rows)


def failures_table(failures: Mapping[str, Mapping[str, str]], unit: str = "cell") -> Table:
    """Return the reason for each failed cell, by language."""
    rows = [(language, label, why) for language, of in failures.items() for label, why in of.items()]
    count = f"{len(rows):,} {unit}{'s' if len(rows) > 1 else ''}"
    return plain_table(
        f"{count} failed; all other results are stored; repeat the command to retry", ("language", unit, "why"), rows
    )


def cell_state(cell: Cell, store: Store) -> str:
    """Return the work that a cell still needs."""
    if is_undamaged(store.record(cell.key), check_stored_record):
        return "done"
    if cell.recipe is None:
        return "to embed and rank"
    if store.tower(cell.recipe.digest).is_dir():
        return "tower exists; to embed and rank"
    bitext = cell.recipe.bitext
    steps = cell.recipe.steps
    begun = ", resumes from a checkpoint" if store.training(cell.recipe.digest).is_file() else ""
    return f"to distil: {steps:,} steps on {len(bitext):,} pairs{begun}" if steps else f"to build from {len(bitext):,} pairs"
