"""Towers and interrupted trainings on disk: safetensors and JSON, nothing that can run code."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness.distill.bitext import load_tokenizer
from harness.distill.tower import TextTower, TowerConfig
from harness.store import new_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = WEIGHTS, SHAPE, TOKENIZER = "tower.safetensors", "shape.json", "tokenizer.json"


@dataclass
class TrainingState:
    """How far a training has come. losses: one value a step done; seconds: spent on them, over all sittings."""

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)


def save_tower(folder: Path, tower: TextTower, tokenizer: Tokenizer) -> None:
    """Write a tower's weights, shape and tokenizer into a folder."""
    save_file({name: value.detach().cpu().contiguous() for name, value in tower.state_dict().items()}, folder / WEIGHTS)
    (folder / SHAPE).write_text(tower.config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / TOKENIZER))


def load_tower(folder: Path) -> tuple[TextTower, Tokenizer]:
    """Read what `save_tower` wrote, ready to encode."""
    tower = TextTower(TowerConfig.model_validate_json((folder / SHAPE).read_bytes()))
    tower.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    return tower.eval(), load_tokenizer(folder / TOKENIZER)


def save_training(path: Path, tower: TextTower, optimiser: torch.optim.Optimizer, state: TrainingState) -> None:
    """Write weights, optimiser moments and losses, in one file that replaces the last one whole."""
    tensors = {f"tower.{name}": value.detach() for name, value in tower.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
    with new_file(path) as temporary:
        metadata = {"losses": json.dumps(state.losses), "seconds": repr(state.seconds)}
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata)


def load_training(path: Path, tower: TextTower, optimiser: torch.optim.Optimizer) -> TrainingState:
    """Put a tower and its optimiser back where `save_training` left them."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    tower.load_state_dict({name.removeprefix("tower."): value for name, value in tensors.items() if name.startswith("tower.")})
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})
    return TrainingState(json.loads(metadata["losses"]), float(metadata["seconds"]))
