"""Progress of a stage where standard error is no terminal."""

import io

import pytest

from harness.runtime.console import Console
from harness.runtime.terminal import Terminal


class Clock:
    """A clock that is put forward by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def told(console: Console) -> list[str]:
    return console.err.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def piped(clock: Clock, terminal: bool = False, live: bool = True) -> Console:
    console = Console(live=live, clock=clock)
    console.err = Terminal(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None)
    return console


def test_a_line_every_half_minute_has_the_steps_the_loss_and_the_time_left(clock: Clock) -> None:
    console = piped(clock)
    with console.stage("distils de by kd-mse", 1200, "steps") as stage:
        for step in range(1200):
            clock.now += 0.25
            stage(1, f"loss {1200 - step}")
    first, second, *_, last = told(console)
    assert first == "distils de by kd-mse: 120 of 1,200 steps, loss 1081, about 4 min left"
    assert second == "distils de by kd-mse: 240 of 1,200 steps, loss 961, about 4 min left"
    assert last == "distils de by kd-mse: 1,200 steps in 300.0 s, loss 1"
    assert [line.split()[-3] for line in told(console)[:-1]] == ["4", "4", "4", "3", "2", "2", "2", "60", "30"]


def test_a_short_stage_is_one_line_and_one_without_work_none(clock: Clock) -> None:
    console = piped(clock)
    with console.stage("embeds", 2, "images") as stage:
        stage(1)
        clock.now += 29
        stage(1)
    with console.stage("embeds", 2, "images"):
        pass
    assert told(console) == ["embeds: 2 images in 29.0 s"]


def test_a_resumed_training_shows_where_it_is_and_estimates_by_its_own_pace(clock: Clock) -> None:
    console = piped(clock, live=False, terminal=True)
    with console.stage("distils", 600, "steps") as stage:
        for step in range(501, 601):
            clock.now += 1
            stage.reach(step)
    assert told(console)[0] == "distils: 530 of 600 steps, about 70 s left"
    assert told(console)[-1] == "distils: 100 steps in 100.0 s"


def test_a_terminal_has_a_bar_instead_of_lines(clock: Clock) -> None:
    console = piped(clock, terminal=True)
    with console.stage("embeds", 4, "images") as stage:
        for _ in range(4):
            clock.now += 31
            stage(1)
    assert not [line for line in told(console) if "left" in line]
    assert "embeds: 4 images in 124.0 s" in told(console)[-1]
