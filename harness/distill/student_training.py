"""Train a recipe's student on the teacher's states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from harness.core.builtins import is_pretrained
from harness.core.data import Bitext
from harness.core.languages import ENGLISH
from harness.core.protocols import TokenLocator
from harness.distill.data.subwords import english_tokenizer, tokenize
from harness.distill.recipe import Recipe
from harness.storage.embeddings import embed_texts
from harness.storage.store import Store

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from harness.distill.checkpoint import TrainingState
    from harness.distill.distributed import Processes
    from harness.distill.entity_marks import EntityMarks
    from harness.distill.model.teacher import TeacherStates
    from harness.distill.model.tower import TextTower, Tokens
    from harness.runtime.console import Console

CURVE_POINTS = 100


def train_student(
    recipe: Recipe, name: str, device: str, store: Store, console: Console, ranks: Processes
) -> tuple[TextTower, Tokenizer, TrainingState]:
    """Train the recipe's student on the teacher's states. Some objectives take no step.

    name: the name of the checkpoint in the store.
    """
    from harness.distill.checkpoint import TrainingState
    from harness.distill.model.ridge import fit_projection
    from harness.distill.model.student import new_student
    from harness.distill.model.teacher import teacher_states
    from harness.distill.trainer import EnglishSide, train

    config, bitext = recipe.config, recipe.bitext
    learned = bitext.take(range(len(bitext) - config.held_out))
    student, tokenizer = new_student(recipe.teacher, config, learned, recipe.text)
    if recipe.is_fitted:
        if recipe.reads_english_alone:
            read = tokenize(english_tokenizer(tokenizer), learned.english, student.config.max_length)
        else:
            read = tokenize(tokenizer, learned.foreign, student.config.max_length)
        embeddings = embed_texts(recipe.teacher, learned.english, ENGLISH, store)
        fit_projection(student.to(device).eval(), read, embeddings, towards_zero=is_pretrained(config.init))
        # All ranks start from the same weights, to the bit.
        ranks.copy_from_leader(student.projection.weight.detach())
    if recipe.steps == 0:
        return student.eval(), tokenizer, TrainingState()
    student.to(device)
    with (
        ranks.leader_first(),
        console.stage("teacher reads the English side", len(bitext), "sentences") as advance,
    ):
        states = teacher_states(recipe.teacher, bitext.english, store, lambda count: advance(count, ""))
    texts, marks = student_side(recipe, bitext, states, tokenizer, student.config.max_length)
    english = None
    if config.english_side:
        in_english = replace(bitext, foreign=bitext.english, foreign_entities=bitext.english_entities)
        english = EnglishSide(*student_side(recipe, in_english, states, english_tokenizer(tokenizer), student.config.max_length))
    with console.stage(f"distils {bitext.lang} by {config.objective}", recipe.steps, "steps") as progress:
        state = train(
            student,
            texts,
            states,
            config,
            bitext.places,
            store.training(name),
            lambda step, losses: progress.reach(step, f"loss {recent_loss(losses):.4f}"),
            marks,
            ranks,
            english,
        )
    if state.unconverged:
        problems = state.step * config.batch * (2 if english else 1)
        console.say(f"{state.unconverged:,} transport problems of {problems:,} had not converged")
    return student, tokenizer, state


def student_side(
    recipe: Recipe, bitext: Bitext, states: TeacherStates, tokenizer: Tokenizer, longest: int
) -> tuple[Tokens, EntityMarks | None]:
    """Return the token ids of a bitext's foreign side, at most `longest` each, and its entities if the objective reads them."""
    from harness.distill.entity_marks import mark_entities

    texts = tokenize(tokenizer, bitext.foreign, longest)
    if not recipe.reads_entities:
        return texts, None
    return texts, mark_entities(bitext, cast(TokenLocator, recipe.teacher), states, tokenizer, longest)


def loss_curve(losses: Sequence[float], points: int = CURVE_POINTS) -> tuple[float, ...]:
    """Return the mean losses of at most `points` equal parts of the training; nothing without losses.

    >>> loss_curve([4.0, 2.0, 1.0, 1.0], points=2)
    (3.0, 1.0)
    """
    stretches = np.array_split(np.array(losses), min(points, len(losses))) if losses else []
    return tuple(float(f"{part.mean():.6g}") for part in stretches)


def recent_loss(losses: Sequence[float]) -> float:
    """Return the last value of `loss_curve`, so that the loss shown during training is the one on the tower's card.

    >>> recent_loss([4.0, 2.0, 1.0])
    1.0
    """
    stretch = len(losses) // min(CURVE_POINTS, len(losses))
    return loss_curve(losses[-stretch:], points=1)[0]
