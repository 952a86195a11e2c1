"""From a recipe to a distilled tower in the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.distill.data.leakage import seen_hashes
from harness.distill.recipe import Recipe
from harness.distill.student_training import loss_curve, train_student
from harness.distill.tuning import edge_note, tune, tuned
from harness.records.files import CARD_FILE, SEEN_FILE
from harness.records.provenance import current_provenance
from harness.records.schema import BitextCard, TowerCard
from harness.records.towers import check_stored_tower
from harness.runtime.device import resolve_device
from harness.storage.seals import clear_damaged, is_undamaged, new_sealed_folder
from harness.storage.store import Store, remove_leftovers

if TYPE_CHECKING:
    from harness.distill.distributed import Processes
    from harness.runtime.console import Console


def distill(
    recipe: Recipe, device: str, store: Store, console: Console, wait: bool = True, ranks: Processes | None = None
) -> None:
    """Train the recipe's tower and store it, resuming from the checkpoint of an earlier run.

    An existing undamaged tower is not trained again. ranks: this process among those that train the tower together.
    Raises HarnessError if the teacher gives no token states or the training diverges, and BusyError if another run is training
    the tower and `wait` is False.
    """
    folder = store.tower(recipe.digest)
    if ranks is None and is_undamaged(folder, check_stored_tower):  # asked before torch is imported
        return
    from harness.distill.distributed import ALONE

    ranks = ranks or ALONE

    def load(path: Path) -> Path | None:
        return path if ranks.from_leader(ranks.leads and is_undamaged(path, check_stored_tower)) else None

    def make(path: Path) -> Path:
        if ranks.leads:
            clear_damaged(path, check_stored_tower)
            remove_leftovers(store.training(recipe.digest))
        make_tower(recipe, resolve_device(device), store, console, ranks)
        return path

    store.get_or_create(folder, load, make, wait, claim=ranks.leads)


def make_tower(recipe: Recipe, device: str, store: Store, console: Console, ranks: Processes) -> None:
    """Train and store the recipe's tower, even if one exists."""
    from harness.distill.agreement import agreement_note
    from harness.distill.checkpoint import save_tower
    from harness.distill.model.low_rank import require_peft

    if recipe.config.lora:
        require_peft()
    tuning = tune(recipe, device, store, console, ranks)
    config = tuned(recipe.config, tuning)
    chosen = replace(recipe, config=config.model_copy(update={"tune_steps": ()}))
    student, tokenizer, state = train_student(chosen, recipe.digest, device, store, console, ranks)
    if not ranks.leads:
        return
    notes = tuple(filter(None, (edge_note(config, tuning), agreement_note(state.agreement, state.step, config))))
    for note in notes:
        console.say(f"note: {note}")
    card = TowerCard(
        digest=recipe.digest,
        lang=recipe.bitext.lang,
        config=config,
        teacher=recipe.teacher.name,
        teacher_fingerprint=recipe.teacher.fingerprint(),
        bitext=bitext_card(recipe),
        steps=state.step,
        losses=loss_curve(state.losses),
        validations=tuple(state.validations),
        unconverged=state.unconverged,
        agreement=None if state.agreement is None else round(state.agreement, 4),
        notes=notes,
        tuning=tuning,
        seconds=round(state.seconds, 1),
        provenance=current_provenance(device if ranks.count == 1 else f"{device}, {ranks.count} processes"),
    )
    with new_sealed_folder(store.tower(recipe.digest), recipe.digest) as folder:
        save_tower(folder, student, tokenizer)
        np.save(folder / SEEN_FILE, seen_hashes(recipe.bitext, recipe.text))
        (folder / CARD_FILE).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    store.training(recipe.digest).unlink(missing_ok=True)


def bitext_card(recipe: Recipe) -> BitextCard:
    """Return the part of the record that describes the sentence pairs."""
    used = recipe.bitext
    return BitextCard(
        lang=used.lang,
        source=used.source,
        kind=used.kind,
        offered=sum(each.offered for each in recipe.guarded),
        dropped=sum(each.dropped for each in recipe.guarded),
        used=len(used),
        digest=used.digest(),
        notes=used.notes,
    )
