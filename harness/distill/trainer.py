"""The training loop: AdamW with warm-up and cosine decay, validated on held-out pairs if there are any, resumable at the step."""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.core.builtins import Objective
from harness.core.config import DistillConfig
from harness.core.errors import HarnessError
from harness.core.objective_terms import load_objective
from harness.distill.checkpoint import TrainingState, load_training, save_training
from harness.distill.distributed import ALONE, Processes
from harness.distill.entity_marks import EntityMarks
from harness.distill.model.cuda_graphs import GraphedTower
from harness.distill.model.teacher import TeacherStates
from harness.distill.model.tower import Encoded, TextTower, Tokens
from harness.distill.transport.problem import NotConverged
from harness.retrieval.ranking import mean_reciprocal_rank, rank
from harness.storage.store import DamagedError, report_damaged

SECONDS_A_CHECKPOINT = 60
VALIDATIONS = 20


@contextmanager
def delayed_interrupts() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event: in the middle of a step, weights and optimiser moments do not belong together."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    # Ctrl-C of people; SIGTERM of batch systems that want the machine back, and of torchrun when one of its processes died.
    before = {each: signal.signal(each, lambda *_: asked.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


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


def batch_rows(pairs: int, config: DistillConfig, steps: int, start: int) -> Iterator[list[int]]:
    """Rows of each batch from step `start` on: shuffled passes over all pairs, decided by the seed and the step alone."""
    size = min(config.batch, pairs)
    a_pass = pairs // size
    for step in range(start, steps):
        order = np.random.default_rng([config.seed, 2, step // a_pass]).permutation(pairs)
        place = step % a_pass * size
        yield order[place : place + size].tolist()


@dataclass
class Training:
    """A tower on its way.

    texts: token ids of the student's side of each pair, row for row with the teacher's sentences; the last `config.held_out` of
    them are for validation alone. places: where each pair stands in its source, for people. marks: which tokens name something,
    where the objective reads that. ranks: this process among those that train the tower together.
    """

    tower: TextTower
    texts: Tokens
    teacher: TeacherStates
    config: DistillConfig
    places: Sequence[int]
    marks: EntityMarks | None = None
    ranks: Processes = ALONE
    recorded: GraphedTower | None = field(init=False)
    objective: Objective = field(init=False)
    weights: list[nn.Parameter] = field(init=False)
    optimiser: torch.optim.AdamW = field(init=False)
    state: TrainingState = field(init=False)

    def __post_init__(self) -> None:
        on_gpu = self.device.type == "cuda"
        # Played back, a tower's work leaves its gradient where the next one will: one part of a batch at a time.
        whole = self.config.accumulate == 1 and self.ranks.count == 1 and not self.config.checkpointing
        self.recorded = GraphedTower(self.tower, self.texts, self.half) if on_gpu and whole else None
        self.teacher = self.teacher.near(self.device)
        self.objective = load_objective(self.config.objective)
        self.weights = list(self.tower.parameters())
        self.optimiser = torch.optim.AdamW(
            self.weights, lr=0.0, betas=(0.9, 0.98), weight_decay=self.config.weight_decay, fused=on_gpu
        )
        self.state = TrainingState()

    @property
    def pairs(self) -> int:
        """Pairs trained on."""
        return len(self.texts) - self.config.held_out

    @property
    def half(self) -> bool:
        """Whether the tower's products are taken in bfloat16."""
        return self.config.precision == "bfloat16"

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        return self.tower.position_embedding.device

    def step(self, rows: list[int], rate: float) -> None:
        """One optimiser step on the given rows.

        Raises HarnessError, with nothing changed, if the loss or its gradient is not finite.
        """
        self.optimiser.zero_grad(set_to_none=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NotConverged)
            loss = self.descend(rows)
        length = torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        value, gradient = torch.stack([loss.detach(), length]).tolist()
        if not (math.isfinite(value) and math.isfinite(gradient)):
            lines = sorted(self.places[row] for row in rows)
            raise HarnessError(non_finite_message(self.state.step, value, gradient, lines, rate, self.config))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.state.losses.append(value)
        self.state.unconverged += sum(w.message.problems for w in caught if isinstance(w.message, NotConverged))

    def descend(self, rows: list[int]) -> Tensor:
        """The loss of the given rows; its gradient is left in the parameters.

        Where the rows do not go through the tower at once, its states and embeddings of all of them are put together, the loss
        and its gradient are taken of these, and that is carried on into the tower part by part (gradient cache, Gao et al.,
        arXiv 2101.06983). So any objective is of the whole batch. Of several parts each goes through the tower twice.
        """
        mine = self.ranks.mine(rows)
        parts = [part.tolist() for part in np.array_split(mine, min(self.config.accumulate, len(mine)))]
        teacher = self.teacher.batch(rows, self.device)
        if self.ranks.count == len(parts) == 1:
            loss = self.loss(self.encode(rows), teacher, rows)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss
        with torch.set_grad_enabled(len(parts) == 1):
            encoded = [self.encode(part) for part in parts]
        whole = self.whole(encoded, rows)
        loss = self.loss(whole, teacher, rows)
        loss.backward()  # type: ignore[no-untyped-call]
        begin = self.ranks.bounds(len(rows))[self.ranks.rank]
        for part in parts:
            again = encoded[0] if len(parts) == 1 else self.encode(part)
            backpropagate_part(again, whole, slice(begin, begin + len(part)))
            begin += len(part)
        self.ranks.add_up([each.grad for each in self.weights if each.grad is not None])
        return loss

    def encode(self, rows: list[int]) -> Encoded:
        """The student's side of some pairs."""
        if self.recorded:
            return self.recorded.encode(rows)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return self.tower.encode([self.texts[row] for row in rows])

    def loss(self, student: Encoded, teacher: Encoded, rows: list[int]) -> Tensor:
        """The objective's loss of a whole batch."""
        if self.marks:
            student, teacher = self.marks.on(rows, student, teacher)
        return self.objective(student, teacher, self.config)

    def whole(self, parts: Sequence[Encoded], rows: list[int]) -> Encoded:
        """A whole batch of what this rank and the others have encoded, at which a gradient stops."""
        lengths = torch.tensor([len(self.texts[row]) for row in rows], device=self.device)
        longest = int(lengths.max())
        states = torch.cat([functional.pad(part.states.detach(), (0, 0, 0, longest - part.states.shape[1])) for part in parts])
        pooled = torch.cat([part.pooled.detach() for part in parts])
        gathered = [self.ranks.gathered(each, len(rows)).requires_grad_() for each in (states, pooled)]
        return Encoded(gathered[0], torch.arange(longest, device=self.device) < lengths[:, None], gathered[1])

    def validate(self) -> None:
        """Score the held-out pairs, and keep the weights if they are the best so far."""
        self.tower.eval()
        rows = list(range(self.pairs, len(self.texts)))
        embeddings = self.tower.embed([self.texts[row] for row in rows]).cpu().numpy()
        self.tower.train()
        ranks = rank(self.teacher.pooled[rows].cpu().numpy(), embeddings, np.arange(len(rows)))
        score = self.ranks.told(mean_reciprocal_rank(ranks))
        if all(score > earlier for _, earlier in self.state.validations):
            self.state.best = {name: value.detach().clone() for name, value in self.tower.state_dict().items()}
        self.state.validations.append((self.state.step, score))

    def save(self, checkpoint: Path) -> None:
        """Keep how far it is; of several ranks one does."""
        if self.ranks.leads:
            save_training(checkpoint, self.tower, self.optimiser, self.state)


def backpropagate_part(part: Encoded, whole: Encoded, place: slice) -> None:
    """Carry the gradient of a whole batch on into the tower that a part of it came from. place: of the part in the whole."""
    outputs = [(part.states, whole.states.grad), (part.pooled, whole.pooled.grad)]
    # An objective need not look at both: what it does not look at has no gradient, and neither has what only that depends on.
    of_part = [(output, gradient[place]) for output, gradient in outputs if gradient is not None]
    fitting = [gradient[:, : output.shape[1]] for output, gradient in of_part]
    torch.autograd.backward([output for output, _ in of_part], fitting)


def train(
    tower: TextTower,
    texts: Tokens,
    teacher: TeacherStates,
    config: DistillConfig,
    places: Sequence[int],
    checkpoint: Path,
    report: Callable[[int, Sequence[float]], None],
    marks: EntityMarks | None = None,
    ranks: Processes = ALONE,
) -> TrainingState:
    """Train a tower in place. For `texts`, `teacher`, `places`, `marks` and `ranks` see `Training`.

    With pairs held out (the last `config.held_out` rows), the tower is validated 20 times by translation retrieval among them
    (mean reciprocal rank, both directions, in percent, after the evaluator of Reimers and Gurevych, arXiv 2004.09813), and ends
    with the best weights seen. `config.patience` ends it after so many validations without a better one.

    Goes on from `checkpoint` if it is there, and leaves it there when interrupted; `report(step, losses)` follows each step.
    Raises HarnessError at the first loss or gradient that is not finite, with the last good weights in `checkpoint`.
    """
    training = Training(tower, texts, teacher, config, places, marks, ranks)
    if (size := min(config.batch, training.pairs)) < ranks.count:
        raise HarnessError(f"a batch of {size} pairs leaves some of the {ranks.count} processes without any: start fewer")
    tower.checkpointing = config.checkpointing
    if checkpoint.is_file():
        try:
            training.state = load_training(checkpoint, tower, training.optimiser)
        except DamagedError as error:
            report_damaged(error)
    tower.train()
    with delayed_interrupts() as asked:
        run_steps(training, checkpoint, report, asked)
    if training.state.best:
        tower.load_state_dict(training.state.best)
    tower.checkpointing = False
    tower.eval()
    return training.state


def run_steps(
    training: Training, checkpoint: Path, report: Callable[[int, Sequence[float]], None], asked: threading.Event
) -> None:
    """All steps that are left, until the patience is at its end."""
    config, state = training.config, training.state
    steps = config.steps_for(training.pairs)
    began, saved = time.monotonic() - state.seconds, time.monotonic()
    for rows in batch_rows(training.pairs, config, steps, state.step):
        if config.patience is not None and state.since_best >= config.patience:
            return
        try:
            training.step(rows, learning_rate(config, state.step, steps))
        except HarnessError as error:
            training.save(checkpoint)
            raise HarnessError(f"{error}; the weights before it are kept in {checkpoint}") from error
        if config.held_out and (state.step == steps or state.step % max(1, steps // VALIDATIONS) == 0):
            training.validate()
        state.seconds = time.monotonic() - began
        report(state.step, state.losses)
        stops = training.ranks.any(asked.is_set())
        if stops or time.monotonic() - saved > SECONDS_A_CHECKPOINT:
            training.save(checkpoint)
            saved = time.monotonic()
        if stops:
            raise KeyboardInterrupt


def non_finite_message(step: int, loss: float, gradient: float, lines: list[int], rate: float, config: DistillConfig) -> str:
    """The line for a loss or a gradient that is NaN or infinite."""
    what = f"the gradient became {gradient} at a loss of {loss:.4g}" if math.isfinite(loss) else f"the loss became {loss}"
    if config.precision != "float32":
        cause = "the range of half precision: try --precision float32"
    elif math.isfinite(loss):
        cause = f"an objective that has no gradient there ({config.objective})"
    else:
        cause = f"a learning rate that is too high ({rate:.3g} here): try a third of it with --learning-rate"
    return f"{what} at step {step + 1}, on the bitext's pairs {', '.join(map(str, lines))}; the likely cause is {cause}"
