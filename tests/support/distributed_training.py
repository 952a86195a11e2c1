"""The program of each torchrun process in tests/distill/test_distributed.py: small trainings that write losses and weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from harness.distill.distributed import ALONE, Processes, join_torchrun
from harness.distill.trainer import Training as Trainer
from harness.distill.trainer import train
from tests.support.students import Training

OBJECTIVES = ("kd-mse", "kd-contrastive", "kd-relation", "ot-batch", "ot-token", "ot-unbalanced", "ot-token + 0.5*kd-relation")
CHOICES: list[dict[str, object]] = [{"objective": objective} for objective in OBJECTIVES]
CHOICES += [{"objective": "ot-token", "accumulate": 3}, {"objective": "kd-contrastive", "accumulate": 2, "checkpointing": True}]
CHOICES += [{"objective": "ot-token", "sentence_weight": 0.0, "pooling": "attention"}, {"objective": "kd-mse", "held_out": 10}]
CHOICES += [{"objective": "kd-contrastive + ot-token", "english_side": True, "accumulate": each} for each in (1, 3)]
CHOICES += [{"objective": "kd-mse", "lora": 2}]


def train_and_log(ranks: Processes, folder: Path, **choices: object) -> dict[str, list[float]]:
    """Train eight steps on batches of seven pairs, which two processes cannot share evenly, and return losses and gradients."""
    training = Training(**{"batch": 7, "steps": 8, "learning_rate": 1e-2} | choices)  # type: ignore[arg-type]
    texts, teacher, config, places = training.texts, training.teacher, training.config, training.bitext.places
    tower, first = training.student(), training.student()
    english = training.english
    Trainer(first, texts, teacher, config, places, ranks=ranks, english=english).compute_gradient(list(range(7)))
    checkpoint = folder / f"checkpoint-{ranks.rank}"
    state = train(tower, texts, teacher, config, places, checkpoint, lambda *_: None, ranks=ranks, english=english)
    return {
        "losses": state.losses,
        "scores": [score for _, score in state.validations],
        "gradient": [number for each in first.parameters() if each.grad is not None for number in each.grad.flatten().tolist()],
        "weights": [number for each in tower.parameters() for number in each.flatten().tolist()],
    }


def main(folder: Path) -> None:
    """Run all trainings in the processes of torchrun."""
    with join_torchrun("cpu") as (ranks, _):
        found = [train_and_log(ranks, folder, **choices) for choices in CHOICES]
        (folder / f"{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))

__all__ = ["ALONE", "CHOICES", "train_and_log"]
