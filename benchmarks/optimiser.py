"""The optimiser's share of a training step, before and after AdamW was fused and limited to the subwords that occur.

python -m benchmarks.optimiser TEACHER DATA INIT [LANG] [PAIRS]

A step of `kd-mse` on 64 of the pairs, for the default student, for that of `--init INIT`, and for the latter with its vocabulary
padded to 250,037 subwords, those of XLM-RoBERTa. Each step is taken in one process and alternately: with the optimiser of earlier
versions (all embeddings, not fused on a processor), with a fused one, and as the trainer takes it. Times are processor time,
which other work on the machine changes less.
"""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from harness.core.arms import DEFAULT_INIT
from harness.core.builtins import TASKS, load_encoder
from harness.core.config import DistillConfig, RunConfig
from harness.core.data import Bitext
from harness.core.protocols import Encoder
from harness.distill.data.subwords import tokenize
from harness.distill.model.compact_vocabulary import compact_vocabulary
from harness.distill.model.student import new_student
from harness.distill.model.teacher import TeacherStates, teacher_states
from harness.distill.recipe import training_pairs
from harness.distill.trainer import Training
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.storage.store import Store

ROUNDS, XLM_ROBERTA = 5, 250_037


@contextmanager
def ways_to_train(
    config: DistillConfig, rows: int, teacher: Encoder, bitext: Bitext, states: TeacherStates
) -> Iterator[dict[str, Training]]:
    """Yield a training for each way, all of one student with at least that many embeddings."""
    student, tokenizer = new_student(teacher, config, bitext)
    more = torch.zeros(max(0, rows - student.config.vocab_size), student.config.width)
    student.token_embedding = nn.Embedding.from_pretrained(
        torch.cat([student.token_embedding.weight.detach(), more]), freeze=False
    )
    texts = tokenize(tokenizer, bitext.foreign, student.config.max_length)
    towers = [copy.deepcopy(student).train() for _ in range(3)]
    with ExitStack() as stack:
        compact = stack.enter_context(compact_vocabulary(towers[2], texts))
        read = (texts, texts, compact)
        trainings = [Training(tower, each, states, config, bitext.places) for tower, each in zip(towers, read, strict=True)]
        before = trainings[0]
        before.optimiser = torch.optim.AdamW(before.weights, lr=0.0, betas=(0.9, 0.98), weight_decay=config.weight_decay)
        occurring = towers[2].token_embedding.num_embeddings
        names = ("before: all embeddings, not fused", "all embeddings, fused", "the trainer: embeddings that occur, fused")
        print(f"\n`--init {config.init}`: {student.token_embedding.num_embeddings:,} subwords, {occurring:,} occur\n")
        yield dict(zip(names, trainings, strict=True))


def timed_step(made: Training) -> tuple[float, float]:
    """Return the processor time of a step, and that of its optimiser, in milliseconds."""
    inside = 0.0
    step = made.optimiser.step

    def timed() -> None:
        nonlocal inside
        began = time.process_time()
        step()
        inside = time.process_time() - began

    began = time.process_time()
    with patch.object(made.optimiser, "step", timed):
        made.step(list(range(made.config.batch)), 1e-5)
    return 1000 * (time.process_time() - began), 1000 * inside


def compare_steps(ways: dict[str, Training]) -> None:
    """Print a Markdown table of the ways. Every round takes each of them once, and ratios are taken round by round."""
    for made in ways.values():
        timed_step(made)
    rounds = [{name: timed_step(made) for name, made in ways.items()} for _ in range(ROUNDS)]
    last = list(ways)[-1]
    print("| way | step, ms | optimiser, ms | its share | the last is faster by |\n| --- | --- | --- | --- | --- |")
    for name in ways:
        whole, inside = (statistics.median(each[name][part] for each in rounds) for part in (0, 1))
        ratios = sorted(each[name][0] / each[last][0] for each in rounds)
        factor = f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]" if name != last else ""
        print(f"| {name} | {whole:,.0f} | {inside:,.0f} | {100 * inside / whole:.0f} % | {factor} |", flush=True)


def main() -> None:
    """Compare the ways for both students."""
    lang, pairs = (*sys.argv[4:], *("qu", "1000")[len(sys.argv) - 4 :])
    teacher, data = load_encoder(sys.argv[1], "cpu"), Path(sys.argv[2])
    task = TASKS.load("flickr30k")()
    guarded = load_guarded_bitext(task, data, [task.language(lang)], RunConfig(lang=lang))
    bitext, _ = training_pairs(guarded, int(pairs), 0, 0)
    print(f"{lang}, {len(bitext):,} pairs, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    with tempfile.TemporaryDirectory() as folder:
        states = teacher_states(teacher, bitext.english, Store.at(Path(folder)), lambda _: None)
        for init, rows in ((DEFAULT_INIT, 0), (sys.argv[3], 0), (sys.argv[3], XLM_ROBERTA)):
            with ways_to_train(DistillConfig.model_validate({"init": init}), rows, teacher, bitext, states) as ways:
                compare_steps(ways)


if __name__ == "__main__":
    main()
