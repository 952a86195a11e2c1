"""Towers and interrupted trainings on disk, as safetensors and JSON, which cannot run code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.distill.data.subwords import load_tokenizer
from harness.distill.model.tower import TextTower, TowerConfig
from harness.records.towers import load_card
from harness.storage.seals import DIGEST_FIELD, KEY_FIELD, check_key, check_seal, entry_key, read_bytes
from harness.storage.store import DamagedError, explain_read_errors, new_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CURVES = ("losses", "seconds", "validations", "unconverged")
TOWER_FILES = TOWER_WEIGHTS, TOWER_SHAPE, TOWER_TOKENIZER = "tower.safetensors", "shape.json", "tokenizer.json"


@dataclass
class TrainingState:
    """The progress of a training.

    losses: of each step. seconds: spent on all steps, over all runs. validations: (step, score) of each. best: the weights of the
    best validation by name, empty before the first. unconverged: the number of transport problems that did not converge.
    agreement: with the teacher after the last step, see `harness.distill.agreement`; None before.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    validations: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    unconverged: int = 0
    agreement: float | None = None

    @property
    def step(self) -> int:
        """The number of steps done."""
        return len(self.losses)

    @property
    def since_best(self) -> int:
        """The number of validations after the best one."""
        scores = [score for _, score in self.validations]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def save_tower(folder: Path, tower: TextTower, tokenizer: Tokenizer) -> None:
    """Write a tower's weights, shape and tokenizer into a folder."""
    save_file({name: value.detach().cpu().contiguous() for name, value in tower.state_dict().items()}, folder / TOWER_WEIGHTS)
    (folder / TOWER_SHAPE).write_text(tower.config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / TOWER_TOKENIZER))


def load_tower(folder: Path) -> tuple[TextTower, Tokenizer]:
    """Read what `save_tower` wrote, ready to encode. Raises HarnessError naming the folder if it is incomplete or damaged."""
    try:
        check_tower(folder)
        config = TowerConfig.model_validate_json(read_bytes(folder / TOWER_SHAPE))
        check_shape(config, folder / TOWER_WEIGHTS)
        tower = TextTower(config)
        tower.load_state_dict(load_file(folder / TOWER_WEIGHTS), strict=True)
        return tower.eval(), load_tokenizer(folder / TOWER_TOKENIZER)
    except HarnessError:
        raise
    except Exception as error:  # of pydantic, safetensors, torch and tokenizers, which has but a bare Exception
        raise HarnessError(f"{folder} holds no complete tower: {short_message(error)}; delete it to distil it again") from error


def check_tower(folder: Path) -> None:
    """Raise DamagedError unless a tower's files are those written with its card."""
    found = check_seal(folder)
    if found is None:
        return
    if missing := {*TOWER_FILES} - found.files.keys():
        raise DamagedError(f"{folder} is damaged (its seal has no {sorted(missing)[0]})", "delete it to distil it again")
    if found.key is not None:
        check_key(folder, found.key, load_card(folder).digest)


def check_shape(config: TowerConfig, weights: Path) -> None:
    """Raise ValueError unless the weights have the shape, before a tower of that size is created."""
    with safe_open(weights, "pt") as file:
        there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if config.layers <= len(there):
        with torch.device("meta"):
            wanted = {name: tuple(value.shape) for name, value in TextTower(config).state_dict().items()}
        if wanted == there:
            return
    raise ValueError(f"{weights.name} and {TOWER_SHAPE} are not of one tower")


def save_training(path: Path, tower: TextTower, optimiser: torch.optim.Optimizer, state: TrainingState) -> None:
    """Write weights, best weights, optimiser moments and curves to one file, which replaces the last atomically."""
    tensors = {f"tower.{name}": value.detach() for name, value in tower.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
    tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
    metadata = {KEY_FIELD: entry_key(path)} | {name: json.dumps(getattr(state, name)) for name in CURVES}
    with new_file(path) as temporary:
        save_file(tensors, temporary, metadata | {DIGEST_FIELD: training_digest(metadata, tensors)})


def load_training(path: Path, tower: TextTower, optimiser: torch.optim.Optimizer) -> TrainingState:
    """Restore a tower and its optimiser from the file of `save_training`.

    Raises DamagedError, with nothing changed, if the file is not what was written or of another training, and HarnessError if it
    may not be read.
    """
    with explain_read_errors(path):
        path.open("rb").close()
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path} is damaged ({short_message(error)})") from None
    if (metadata or {}).get(DIGEST_FIELD) != training_digest(metadata or {}, tensors):
        raise DamagedError(f"{path} is damaged (it is not what was written)")
    check_key(path, metadata.get(KEY_FIELD), entry_key(path))
    tower.load_state_dict(strip_prefix("tower.", tensors))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in strip_prefix("optimiser.", tensors).items():
        index, moment = name.split(".")
        moments.setdefault(int(index), {})[moment] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})
    curves = {name: json.loads(metadata[name]) for name in CURVES}
    curves["validations"] = [(step, score) for step, score in curves["validations"]]
    return TrainingState(best=strip_prefix("best.", tensors), **curves)


def training_digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a training's curves and tensors."""
    digest = hashlib.sha256(json.dumps([metadata.get(name) for name in CURVES]).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.numpy().data)
    return digest.hexdigest()


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
