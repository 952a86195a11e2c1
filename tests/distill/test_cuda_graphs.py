"""Compare a tower that replays CUDA graphs with the tower itself. Recording needs a GPU."""

from pathlib import Path

import pytest
import torch

from harness.distill.model import cuda_graphs as recorded
from harness.distill.model.cuda_graphs import GraphedTower
from harness.distill.model.tower import Encoded, TextTower
from tests.support.students import SHAPE
from tests.support.students import Training as Small

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TEXTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9], [10, 11], list(range(1, 13))]


def tower(norm: str = "post") -> TextTower:
    torch.manual_seed(0)
    return TextTower(SHAPE.model_copy(update={"causal": norm == "pre", "norm": norm})).cuda()


def learned(encoded: Encoded, made: TextTower) -> list[torch.Tensor]:
    made.zero_grad()
    (encoded.pooled.square().sum() + encoded.states.pow(3).sum()).backward()
    return [parameter.grad.clone() for parameter in made.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("half", [False, True])
def test_what_is_played_back_is_the_towers_own(norm: str, half: bool) -> None:
    made = tower(norm)
    play = GraphedTower(made, TEXTS, half)
    for rows in ([0, 1, 2, 3], [3, 1, 2, 0], [1, 2], [0, 4], [0, 1, 2, 3]):
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            mine, theirs = play.encode(rows), made.encode([TEXTS[row] for row in rows])
        near = {"atol": 2e-2, "rtol": 2e-2} if half else {"atol": 1e-5, "rtol": 1e-4}
        torch.testing.assert_close(mine.states, theirs.states, **near)
        torch.testing.assert_close(mine.pooled, theirs.pooled, **near)
        assert torch.equal(mine.mask, theirs.mask)
        for one, other in zip(learned(mine, made), learned(theirs, made), strict=True):
            torch.testing.assert_close(one, other, atol=near["atol"] * float(other.abs().max() + 1), rtol=near["rtol"])
    assert sorted(play.graphs) == [(2, 8), (2, 12), (4, 8)]


def test_a_batch_that_keeps_a_gpu_busy_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "MOST_TOKENS", 20)
    made = tower()
    play = GraphedTower(made, TEXTS, half=False)
    torch.testing.assert_close(play.encode([0, 1, 2]).states, made.encode(TEXTS[:3]).states, atol=1e-5, rtol=1e-4)
    assert not play.graphs


@pytest.mark.parametrize("objective", ["kd-mse", "ot-token"])
def test_a_training_broken_off_ends_as_if_it_had_not_been(objective: str, tmp_path: Path) -> None:
    small = Small(objective)
    whole, broken = small.student().cuda(), small.student().cuda()
    losses = small.run(whole, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        small.run(broken, tmp_path / "b", interrupt_at=5)
    resumed = small.student().cuda()
    assert small.run(resumed, tmp_path / "b") == losses
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_it_trains_as_a_processor_does(tmp_path: Path) -> None:
    small = Small("ot-token + kd-contrastive")
    there, here = small.student().cuda(), small.student()
    assert small.run(there, tmp_path / "a") == pytest.approx(small.run(here, tmp_path / "b"), rel=1e-3)
    parts = Small("ot-token + kd-contrastive", accumulate=2)
    assert parts.run(parts.student().cuda(), tmp_path / "c") == pytest.approx(
        parts.run(parts.student(), tmp_path / "d"), rel=1e-3
    )
