"""The training loop: AdamW with warm-up and cosine decay, optional validation on held-out pairs, resumable at every step."""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.core.arms import load_objective
from harness.core.builtins import Objective
from harness.core.config import DistillConfig
from harness.core.errors import HarnessError
from harness.distill.agreement import MOST_SENTENCES, agreement
from harness.distill.checkpoint import TrainingState, load_training, save_training
from harness.distill.distributed import ALONE, Processes
from harness.distill.entity_marks import EntityMarks
from harness.distill.model.compact_vocabulary import compact_vocabulary
from harness.distill.model.cuda_graphs import GraphedTower
from harness.distill.model.low_rank import low_rank_adapters
from harness.distill.model.teacher import TeacherStates
from harness.distill.model.tower import Encoded, TextTower, Tokens
from harness.distill.transport.problem import NotConverged
from harness.retrieval.ranking import mean_reciprocal_rank, rank
from harness.storage.store import DamagedError, report_damaged

SECONDS_A_CHECKPOINT = 60
VALIDATIONS = 20


@contextmanager
def delayed_interrupts() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event, since within a step weights and optimiser moments do not match."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    # Batch systems send SIGTERM to preempt a job, and torchrun when one of its processes died.
    before = {each: signal.signal(each, lambda *_: asked.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def learning_rate(config: DistillConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up from 0, then half a cosine down to 0.

    >>> config = DistillConfig(learning_rate=1.0, warmup=0.1)
    >>> [round(learning_rate(config, step, 100), 3) for step in (0, 9, 55, 99)]
    [0.1, 1.0, 0.5, 0.0]
    """
    warm = max(1, round(config.warmup * steps))
    if step < warm:
        return config.peak_learning_rate * (step + 1) / warm
    return config.peak_learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def batch_rows(pairs: int, config: DistillConfig, steps: int, start: int) -> Iterator[list[int]]:
    """Yield the rows of each batch from step `start` on: shuffled passes over all pairs, decided by seed and step alone."""
    size = min(config.batch, pairs)
    a_pass = pairs // size
    for step in range(start, steps):
        order = np.random.default_rng([config.seed, 2, step // a_pass]).permutation(pairs)
        place = step % a_pass * size
        yield order[place : place + size].tolist()


@dataclass(frozen=True)
class EnglishSide:
    """The English sentences of n pairs, as the student reads them with `config.english_side`.

    texts: their token ids. marks: the tokens of entities with these texts in place of the foreign ones.
    """

    texts: Tokens
    marks: EntityMarks | None = None


@dataclass
class Training:
    """A tower in training.

    texts: token ids of the student's side of each pair, in the order of the teacher's sentences. The last `config.held_out` of
    them are for validation only. places: the line of each pair in its source, for messages. marks: the tokens of entities, if the
    objective reads them. ranks: this process among those that train the tower together. english: given exactly if
    `config.english_side`. inputs: the texts that the student reads, n foreign ones and then n English ones, or the foreign alone.
    """

    tower: TextTower
    texts: Tokens
    teacher: TeacherStates
    config: DistillConfig
    places: Sequence[int]
    marks: EntityMarks | None = None
    ranks: Processes = ALONE
    english: EnglishSide | None = None
    inputs: Tokens = field(init=False)
    graphed: GraphedTower | None = field(init=False)
    objective: Objective = field(init=False)
    weights: list[nn.Parameter] = field(init=False)
    optimiser: torch.optim.AdamW = field(init=False)
    state: TrainingState = field(init=False)

    def __post_init__(self) -> None:
        if self.config.english_side != (self.english is not None):
            raise ValueError("the English side is given exactly if config.english_side")
        self.inputs = [*self.texts, *(self.english.texts if self.english else ())]
        on_gpu = self.device.type == "cuda"
        # Every replay of a CUDA graph overwrites the gradient of the last, so a batch must go through the tower at once. peft's
        # layers are not recorded.
        whole = self.config.accumulate == 1 and self.ranks.count == 1 and not (self.config.checkpointing or self.config.lora)
        self.graphed = GraphedTower(self.tower, self.inputs, self.in_bfloat16) if on_gpu and whole else None
        self.teacher = self.teacher.near(self.device)
        self.objective = load_objective(self.config.objective)
        self.weights = [each for each in self.tower.parameters() if each.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.weights, lr=0.0, betas=(0.9, 0.98), weight_decay=self.config.weight_decay, fused=True
        )
        self.state = TrainingState()

    @property
    def pairs(self) -> int:
        """The number of pairs to train on."""
        return len(self.texts) - self.config.held_out

    @property
    def in_bfloat16(self) -> bool:
        """Whether the tower's matrix products are in bfloat16."""
        return self.config.precision == "bfloat16"

    @property
    def device(self) -> torch.device:
        """The tower's device."""
        return self.tower.position_embedding.device

    def step(self, rows: list[int], rate: float) -> None:
        """Take one optimiser step on the given rows.

        Raises HarnessError, without changing the tower, if the loss or its gradient is not finite.
        """
        self.optimiser.zero_grad(set_to_none=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NotConverged)
            loss = self.compute_gradient(rows)
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

    def compute_gradient(self, rows: list[int]) -> Tensor:
        """Compute the loss of the given rows, with its gradient in the parameters.

        If the rows go through the tower in parts, the states and embeddings of all parts are joined, the loss and its gradient
        with respect to these are computed, and the gradient is backpropagated part by part (gradient cache, Gao et al., arXiv
        2101.06983). So every objective is computed on the full batch. Each of several parts is encoded twice.
        """
        inputs = [*rows, *([len(self.texts) + row for row in rows] if self.english else ())]
        mine = self.ranks.mine(inputs)
        parts = [part.tolist() for part in np.array_split(mine, min(self.config.accumulate, len(mine)))]
        teacher = self.teacher.batch(rows, self.device)
        if self.ranks.count == len(parts) == 1:
            loss = self.loss(self.encode(inputs), teacher, rows)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss
        with torch.set_grad_enabled(len(parts) == 1):
            encoded = [self.encode(part) for part in parts]
        whole = self.join_parts(encoded, inputs)
        loss = self.loss(whole, teacher, rows)
        loss.backward()  # type: ignore[no-untyped-call]
        begin = self.ranks.bounds(len(inputs))[self.ranks.rank]
        for part in parts:
            again = encoded[0] if len(parts) == 1 else self.encode(part)
            backpropagate_part(again, whole, slice(begin, begin + len(part)))
            begin += len(part)
        self.ranks.sum_gradients([each.grad for each in self.weights if each.grad is not None])
        return loss

    def encode(self, inputs: list[int]) -> Encoded:
        """Encode some of the texts that the student reads."""
        if self.graphed:
            return self.graphed.encode(inputs)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            return self.tower.encode([self.inputs[place] for place in inputs])

    def loss(self, student: Encoded, teacher: Encoded, rows: list[int]) -> Tensor:
        """Return the objective's loss of a full batch. student: its foreign texts, then its English ones, if they are read.

        With English it is the mean of the losses of both sides. Each is computed without the other, so that no sentence meets
        its translation as another candidate within the batch.
        """
        if self.english is None:
            return self.side_loss(student, teacher, rows, self.marks)
        foreign, english = split_sides(student)
        first = self.side_loss(foreign, teacher, rows, self.marks)
        return (first + self.side_loss(english, teacher, rows, self.english.marks)) / 2

    def side_loss(self, student: Encoded, teacher: Encoded, rows: list[int], marks: EntityMarks | None) -> Tensor:
        """Return the objective's loss of one side of a full batch."""
        if marks:
            student, teacher = marks.on(rows, student, teacher)
        return self.objective(student, teacher, self.config)

    def join_parts(self, parts: Sequence[Encoded], inputs: list[int]) -> Encoded:
        """Join what all ranks have encoded to a full batch, detached from the tower."""
        lengths = torch.tensor([len(self.inputs[place]) for place in inputs], device=self.device)
        longest = int(lengths.max())
        states = torch.cat([functional.pad(part.states.detach(), (0, 0, 0, longest - part.states.shape[1])) for part in parts])
        pooled = torch.cat([part.pooled.detach() for part in parts])
        gathered = [self.ranks.gather(each, len(inputs)).requires_grad_() for each in (states, pooled)]
        return Encoded(gathered[0], torch.arange(longest, device=self.device) < lengths[:, None], gathered[1])

    def validate(self) -> None:
        """Score the held-out pairs, and store the weights if they are the best so far."""
        self.tower.eval()
        rows = list(range(self.pairs, len(self.texts)))
        embeddings = self.tower.embed([self.texts[row] for row in rows]).cpu().numpy()
        self.tower.train()
        ranks = rank(self.teacher.pooled[rows].cpu().numpy(), embeddings, np.arange(len(rows)))
        score = self.ranks.from_leader(mean_reciprocal_rank(ranks))
        if all(score > earlier for _, earlier in self.state.validations):
            self.state.best = {name: value.detach().clone() for name, value in self.tower.state_dict().items()}
        self.state.validations.append((self.state.step, score))

    def agreement(self) -> float:
        """Return `agreement` of the tower with the teacher on at most MOST_SENTENCES training pairs."""
        rows = np.linspace(0, self.pairs - 1, min(self.pairs, MOST_SENTENCES)).round().astype(int).tolist()
        return agreement(self.tower.embed([self.texts[row] for row in rows]), self.teacher.pooled[rows].to(self.device))

    def save(self, checkpoint: Path) -> None:
        """Write the checkpoint, on the leading rank only."""
        if self.ranks.leads:
            save_training(checkpoint, self.tower, self.optimiser, self.state)


def backpropagate_part(part: Encoded, whole: Encoded, place: slice) -> None:
    """Backpropagate the gradient of a full batch into the tower through one part. place: the rows of the part in the batch."""
    outputs = [(part.states, whole.states.grad), (part.pooled, whole.pooled.grad)]
    # Outputs that the objective does not read have no gradient.
    of_part = [(output, gradient[place]) for output, gradient in outputs if gradient is not None]
    fitting = [gradient[:, : output.shape[1]] for output, gradient in of_part]
    torch.autograd.backward([output for output, _ in of_part], fitting)


def split_sides(batch: Encoded) -> tuple[Encoded, Encoded]:
    """Return the first and the second half of a batch."""
    half = len(batch.pooled) // 2
    first, second = (
        Encoded(batch.states[part], batch.mask[part], batch.pooled[part]) for part in (slice(half), slice(half, None))
    )
    return first, second


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
    english: EnglishSide | None = None,
) -> TrainingState:
    """Train a tower in place. For `texts`, `teacher`, `places`, `marks`, `ranks` and `english` see `Training`.

    Token embeddings that no text uses keep their initial values, without weight decay (`compact_vocabulary`). With `config.lora`
    so do the weights that `low_rank_adapters` freezes.

    With held-out pairs (the last `config.held_out` rows), the tower is validated 20 times by translation retrieval among them
    (mean reciprocal rank, both directions, in percent, after the evaluator of Reimers and Gurevych, arXiv 2004.09813), and keeps
    the best weights. `config.patience` stops the training after so many validations without improvement.

    The training resumes from `checkpoint` if it exists, and writes it when interrupted. `report(step, losses)` is called after
    each step. Raises HarnessError at the first loss or gradient that is not finite, with the last finite weights in `checkpoint`.
    """
    with compact_vocabulary(tower, [*texts, *(english.texts if english else ())]) as compact:
        if english:
            english = replace(english, texts=compact[len(texts) :])
        with low_rank_adapters(tower, config.lora, config.seed):
            training = Training(tower, compact[: len(texts)], teacher, config, places, marks, ranks, english)
            run_training(training, checkpoint, report)
    return training.state


def run_training(training: Training, checkpoint: Path, report: Callable[[int, Sequence[float]], None]) -> None:
    """Run a training from its checkpoint, if there is one, to its end, and give the tower its best weights."""
    tower, config, ranks = training.tower, training.config, training.ranks
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
    training.state.agreement = training.agreement()


def run_steps(
    training: Training, checkpoint: Path, report: Callable[[int, Sequence[float]], None], asked: threading.Event
) -> None:
    """Take all remaining steps, or stop when the patience is exhausted."""
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
            raise HarnessError(f"{error}; the weights before it are in {checkpoint}") from error
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
    """Return the message for a loss or gradient that is NaN or infinite."""
    what = f"the gradient became {gradient} at a loss of {loss:.4g}" if math.isfinite(loss) else f"the loss became {loss}"
    if config.precision != "float32":
        cause = "the range of half precision: try --precision float32"
    elif math.isfinite(loss):
        cause = f"an objective that has no gradient there ({config.objective})"
    else:
        cause = f"a learning rate that is too high ({rate:.3g} here): try a third of it with --learning-rate"
    return f"{what} at step {step + 1}, on the bitext's pairs {', '.join(map(str, lines))}; the likely cause is {cause}"
