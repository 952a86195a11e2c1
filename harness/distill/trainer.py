"""The training loop: AdamW with warm-up and cosine decay, resumable at the step."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from harness.api import HarnessError
from harness.config import DistillConfig
from harness.distill.checkpoint import TrainingState, load_training, save_training
from harness.distill.teacher import TeacherStates
from harness.distill.tower import TextTower, Tokens
from harness.registry import Objective, load_objective

SECONDS_A_CHECKPOINT = 60
CHUNKS_A_BATCH = 4


@contextmanager
def interrupts_held() -> Iterator[threading.Event]:
    """Turn Ctrl-C into an event: in the middle of a step, weights and optimiser moments do not belong together."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def learning_rate(config: DistillConfig, step: int, steps: int) -> float:
    """Linear warm-up from 0, then half a cosine down to 0. `step` counts from 0.

    >>> config = DistillConfig(learning_rate=1.0, warmup=0.1)
    >>> [round(learning_rate(config, step, 100), 3) for step in (0, 9, 55, 99)]
    [0.1, 1.0, 0.5, 0.0]
    """
    warm = max(1, round(config.warmup * steps))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def batches(pairs: int, config: DistillConfig, steps: int, start: int) -> Iterator[list[int]]:
    """Rows of each batch from step `start` on: shuffled passes over all pairs, decided by the seed and the step alone."""
    size = min(config.batch, pairs)
    a_pass = pairs // size
    for step in range(start, steps):
        order = np.random.default_rng([config.seed, 2, step // a_pass]).permutation(pairs)
        place = step % a_pass * size
        yield order[place : place + size].tolist()


def train(
    tower: TextTower,
    texts: Tokens,
    teacher: TeacherStates,
    config: DistillConfig,
    checkpoint: Path,
    report: Callable[[int, float], None],
) -> TrainingState:
    """Train a tower in place. `texts` are the student's token ids, row for row with the teacher's sentences.

    Goes on from `checkpoint` if it is there, and leaves it there when interrupted; `report(step, loss)` follows each step.
    Raises HarnessError at the first loss that is not finite.
    """
    steps, objective = config.steps_for(len(texts)), load_objective(config.objective)
    optimiser = torch.optim.AdamW(tower.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    state = load_training(checkpoint, tower, optimiser) if checkpoint.is_file() else TrainingState()
    began, saved = time.monotonic() - state.seconds, time.monotonic()
    tower.train()
    with interrupts_held() as asked:
        for rows in batches(len(texts), config, steps, state.step):
            rate = learning_rate(config, state.step, steps)
            loss = one_step(tower, texts, teacher, rows, objective, optimiser, config, rate)
            if not math.isfinite(loss):
                raise HarnessError(non_finite(state.step, loss, rows))
            state.losses.append(loss)
            state.seconds = time.monotonic() - began
            report(state.step, loss)
            if asked.is_set() or time.monotonic() - saved > SECONDS_A_CHECKPOINT:
                save_training(checkpoint, tower, optimiser, state)
                saved = time.monotonic()
            if asked.is_set():
                raise KeyboardInterrupt
    tower.eval()
    return state


def one_step(
    tower: TextTower,
    texts: Tokens,
    teacher: TeacherStates,
    rows: list[int],
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    config: DistillConfig,
    rate: float,
) -> float:
    """One optimiser step on the given rows; the loss before it. A loss that is not finite changes nothing."""
    device = tower.position_embedding.device
    student = tower.encode([texts[row] for row in rows], CHUNKS_A_BATCH)
    loss = objective(student, teacher.batch(rows, str(device)), config)
    value = float(loss.detach())
    if math.isfinite(value):
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
    return value


def non_finite(step: int, loss: float, rows: list[int]) -> str:
    """The line for a loss that is NaN or infinite."""
    return (
        f"the loss became {loss} at step {step + 1}, on pairs {min(rows)}-{max(rows)} of the bitext; "
        "the likely cause is a learning rate that is too high: try a third of it with --learning-rate"
    )
