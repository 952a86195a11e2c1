"""From a recipe to a tower on disk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from harness.api import Bitext, Encoder
from harness.config import DistillConfig, digest_json
from harness.distill.bitext import Guarded, subset, tokenize, train_tokenizer
from harness.record import CARD, BitextCard, TowerCard, provenance
from harness.store import Store, new_folder

if TYPE_CHECKING:
    from harness.console import Console
    from harness.distill.checkpoint import TrainingState
    from harness.distill.tower import TextTower, Tokens

# Part of every tower's digest. Raise it when the same recipe no longer gives the same weights.
TRAINER_VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a distilled tower's weights."""

    config: DistillConfig
    teacher: Encoder
    guarded: Guarded

    @cached_property
    def bitext(self) -> Bitext:
        """The pairs trained on."""
        return subset(self.guarded.bitext, self.config.pairs, self.config.seed)

    @cached_property
    def digest(self) -> str:
        """The tower's name in the store."""
        choices = self.config.model_dump(mode="json")
        return digest_json([TRAINER_VERSION, choices, self.teacher.fingerprint(), self.bitext.digest()])


def distil(recipe: Recipe, device: str, store: Store, console: Console) -> None:
    """Train the recipe's tower and keep it in the store, going on from its checkpoint if an earlier run left one.

    Raises HarnessError if the teacher cannot teach, or if the training diverges.
    """
    from harness.device import resolve_device
    from harness.distill.checkpoint import save_tower
    from harness.distill.student import new_student

    device = resolve_device(device)
    config, bitext, digest = recipe.config, recipe.bitext, recipe.digest
    tokenizer = train_tokenizer(bitext.foreign, config.vocabulary)
    student = new_student(recipe.teacher, tokenizer, config, bitext).to(device)
    texts = tokenize(tokenizer, bitext.foreign, student.config.max_length)
    state = trained(student, texts, recipe, store, console)
    card = TowerCard(
        digest=digest,
        lang=bitext.lang,
        config=config,
        teacher=recipe.teacher.name,
        teacher_fingerprint=recipe.teacher.fingerprint(),
        bitext=bitext_card(recipe.guarded, bitext),
        steps=state.step,
        losses=loss_curve(state.losses),
        seconds=round(state.seconds, 1),
        provenance=provenance(device),
    )
    with new_folder(store.tower(digest)) as folder:
        save_tower(folder, student, tokenizer)
        (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    store.training(digest).unlink(missing_ok=True)


def trained(student: TextTower, texts: Tokens, recipe: Recipe, store: Store, console: Console) -> TrainingState:
    """Train a student in place, from the teacher's states; not at all for the objective `none`."""
    from harness.distill.checkpoint import TrainingState
    from harness.distill.teacher import teacher_states
    from harness.distill.trainer import train

    config, bitext = recipe.config, recipe.bitext
    steps = config.steps_for(len(bitext))
    if steps == 0:
        return TrainingState()
    with console.stage("teacher reads the English side", len(bitext), "sentences") as advance:
        states = teacher_states(recipe.teacher, bitext.english, store, lambda count: advance(count, ""))
    with console.stage(f"distils {bitext.lang} by {config.objective}", steps, "steps") as advance:
        return train(
            student, texts, states, config, store.training(recipe.digest), lambda _, loss: advance(1, f"loss {loss:.4f}")
        )


def bitext_card(guarded: Guarded, used: Bitext) -> BitextCard:
    """What the record says of the pairs."""
    return BitextCard(
        lang=used.lang,
        source=used.source,
        kind=used.kind,
        offered=guarded.offered,
        dropped=guarded.dropped,
        used=len(used),
        digest=used.digest(),
        notes=used.notes,
    )


def loss_curve(losses: list[float], points: int = 20) -> tuple[float, ...]:
    """Means of the losses over at most `points` equal stretches of the training; none of no training.

    >>> loss_curve([4.0, 2.0, 1.0, 1.0], points=2)
    (3.0, 1.0)
    """
    stretches = np.array_split(np.array(losses), min(points, len(losses))) if losses else []
    return tuple(float(f"{part.mean():.6g}") for part in stretches)
