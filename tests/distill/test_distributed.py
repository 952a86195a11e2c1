"""Training by several processes, in parts of batches, or with checkpointed blocks gives the tower of plain training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.core.config import DistillConfig
from harness.distill.distributed import ALONE, Processes
from harness.distill.model.tower import TextTower
from harness.records.towers import load_card
from harness.storage.store import Store
from tests.support.command_line import environment
from tests.support.distributed_training import CHOICES, train_and_log
from tests.support.plugin_files import ROOT, write
from tests.support.students import SHAPE, Training

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


@given(rows=st.integers(0, 50), count=st.integers(1, 9))
def test_every_row_is_one_ranks_and_no_rank_has_two_more_than_another(rows: int, count: int) -> None:
    parts = [Processes(rank, count).mine(range(rows)) for rank in range(count)]
    assert [row for part in parts for row in part] == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts[0]) == max(map(len, parts)), "to which the others are padded"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, list[float]]]]:
    """Return the results of all trainings for each of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    words = [*TORCHRUN, str(Path(__file__).parents[1] / "support" / "distributed_training.py"), str(folder)]
    done = subprocess.run(words, cwd=ROOT, env=environment(folder), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob("checkpoint-1*")), "one process writes"
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("number", range(len(CHOICES)), ids=lambda number: " ".join(map(str, CHOICES[number].values())))
def test_two_processes_reach_the_losses_and_weights_of_one(
    number: int, two: list[list[dict[str, list[float]]]], tmp_path: Path
) -> None:
    options = {name: value for name, value in CHOICES[number].items() if name not in ("accumulate", "checkpointing")}
    alone, (first, second) = train_and_log(ALONE, tmp_path, **options), (each[number] for each in two)
    assert first == second
    # Weights are not compared: Adam scales a gradient that consists of rounding errors to the size of any other.
    for name in ("losses", "scores", "gradient"):
        np.testing.assert_allclose(first[name], alone[name], rtol=1e-3, atol=1e-5 * np.abs([1, *alone[name]]).max(), err_msg=name)
    assert len(set(alone["losses"])) == len(alone["losses"])


@pytest.mark.parametrize("objective", ["kd-mse", "kd-contrastive", "ot-batch", "ot-token"])
@pytest.mark.parametrize("accumulate", [2, 3, 100])
def test_a_batch_in_parts_is_the_batch_at_once(objective: str, accumulate: int, tmp_path: Path) -> None:
    whole, parts = (train_and_log(ALONE, tmp_path, objective=objective, accumulate=each) for each in (1, accumulate))
    for name in ("losses", "gradient"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-3, atol=1e-5 * np.abs(whole[name]).max(), err_msg=name)


def test_no_more_of_a_batch_is_in_memory_than_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, encode = [], TextTower.encode

    def counting(self: TextTower, texts: list[list[int]]) -> object:
        sizes.append((len(texts), torch.is_grad_enabled()))
        return encode(self, texts)

    monkeypatch.setattr(TextTower, "encode", counting)
    training = Training("kd-contrastive", batch=8, steps=1, accumulate=3)
    training.run(training.student(), tmp_path / "checkpoint")
    *of_the_step, of_the_agreement = sizes
    assert of_the_step == [(3, False), (3, False), (2, False), (3, True), (3, True), (2, True)]
    assert of_the_agreement == (40, False)


def kept(checkpointing: bool) -> tuple[int, list[torch.Tensor]]:
    """Return the number of bytes that a step stores for its gradient, and the gradient."""
    torch.manual_seed(0)
    tower = TextTower(SHAPE.model_copy(update={"layers": 6, "mlp_width": 64}))
    tower.checkpointing = checkpointing
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    texts = [list(range(1, 12)), [1, 2, 3]] * 4
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = tower.encode(texts).pooled.square().sum()
    loss.backward()
    own = {parameter.untyped_storage().data_ptr() for parameter in tower.parameters()}
    return sum(size for place, size in storages.items() if place not in own), [each.grad for each in tower.parameters()]


def test_checkpointing_gives_the_same_gradient_for_less_memory() -> None:
    (plain, expected), (less, found) = kept(False), kept(True)
    assert less < plain / 4
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_checkpointing_trains_the_same_tower_and_is_over_with_it(tmp_path: Path) -> None:
    plain, twice = (train_and_log(ALONE, tmp_path, objective="ot-token", checkpointing=each) for each in (False, True))
    assert plain == twice
    training = Training("kd-mse", checkpointing=True, steps=1)
    tower = training.student()
    training.run(tower, tmp_path / "checkpoint")
    assert not tower.checkpointing


def test_neither_option_renames_a_tower_that_is_there() -> None:
    assert DistillConfig(accumulate=1, checkpointing=False).model_dump(exclude_defaults=True) == {}
    assert DistillConfig(accumulate=2).model_dump(exclude_defaults=True) == {"accumulate": 2}


# the command line

DEADLY = """
    import os, signal
    from pathlib import Path
    from harness.distill.objectives import kd_mse

    STEPS = []

    def deadly(student, teacher, config):
        STEPS.append(1)
        if os.environ.get("RANK") == os.environ.get("DIES", "nobody") and len(STEPS) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return kd_mse(student, teacher, config)
"""


def distil(store: Path, objective: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Distil a tower for the sample's Quechua with two processes."""
    told = ("distill", "--lang", "qu", "--objective", objective, "--pairs", "100", "--steps", "8", "--batch", "16", *words)
    command = [*TORCHRUN, "-m", "harness", *told]
    known = environment(store) | more
    return subprocess.run(command, cwd=store, env=known, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_torchrun_makes_one_tower_and_goes_on_when_one_of_its_processes_died(tmp_path: Path) -> None:
    objective = f"{write(tmp_path / 'deadly.py', DEADLY)}:deadly"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    done = distil(whole, objective, "--tune")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Towers in") == 1
    assert done.stderr.count("8 steps in") == 1
    (tower,) = Store(whole).towers()
    card = load_card(tower)
    assert card.provenance.device == "cpu, 2 processes"
    assert len(card.tuning) == 4
    # The process dies in the last of the four trainings that choose the learning rate.
    broken.mkdir()
    (broken / "samples").symlink_to(whole / "samples")
    died = distil(broken, objective, "--tune", DIES="1")
    assert died.returncode == 1
    lines = [line for line in died.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "another process of this training has ended, start the same command again" in lines[0]
    assert list(broken.glob("training/*.safetensors"))
    assert not Store(broken).towers()
    again = distil(broken, objective, "--tune")
    assert again.returncode == 0, again.stderr
    resumed = load_card(Store(broken).towers()[0])
    np.testing.assert_allclose(resumed.losses, card.losses, rtol=1e-4)
    assert [trial.learning_rate for trial in resumed.tuning] == [trial.learning_rate for trial in card.tuning]
    refused = distil(broken, objective, "--workers", "2")
    assert "torchrun's processes train each tower together: leave out --workers" in refused.stderr
