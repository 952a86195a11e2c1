"""Options of commands are generated from the configurations."""

from __future__ import annotations

import pytest
import typer

from harness.cli.app import app
from harness.cli.options import comma_separated, configured
from harness.core.config import (
    Config,
    DataConfig,
    DistillConfig,
    ExecutorConfig,
    GroundingConfig,
    RunConfig,
    ScoringConfig,
    validated,
)
from harness.core.errors import HarnessError
from harness.study.design import StudyConfig

NESTED = {"distill", "grounding", "scoring"}
DEFAULT_ARMS = ("kd-mse@keep-tokenizer", "ot-token@random", "kd-mse@ot-teacher-tokens")


def options(command: str) -> dict[str, object]:
    """Return the options of a command and their defaults."""
    found = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {each.name: each.default for each in found}


def fields(*kinds: type[Config]) -> dict[str, object]:
    return {name: info.default for kind in kinds for name, info in kind.model_fields.items() if name not in NESTED}


def test_run_has_an_option_for_every_field_with_its_default() -> None:
    expected = fields(RunConfig, GroundingConfig, ScoringConfig, DistillConfig, ExecutorConfig)
    del expected["objective"]  # `run` takes several: --arms
    found = options("run")
    assert expected.keys() | {"by", "examples", "dry_run", "store", "plugin"} == found.keys()
    plain = {name for name, default in expected.items() if not isinstance(default, tuple) and name != "lang"}
    assert {name: found[name] for name in plain} == {name: expected[name] for name in plain}


def test_distill_has_an_option_for_every_field_of_a_distillation() -> None:
    expected = fields(DataConfig, DistillConfig, ExecutorConfig).keys() - {"split", "source"}
    assert options("distill").keys() == expected | {"device", "seeds", "shared", "store", "plugin"}


def test_a_study_states_nothing_that_a_run_states() -> None:
    own = StudyConfig.model_fields.keys() - DataConfig.model_fields.keys()
    assert own & RunConfig.model_fields.keys() == {
        "arms",
        "distill",
        "resamples",
    }  # a study's arms have options, its `distill` is a dictionary, and its `resamples` defaults to the number that Holm needs
    shared = DataConfig.model_fields.keys() - {"lang"}
    assert all(StudyConfig.model_fields[name].default == RunConfig.model_fields[name].default for name in shared)


@pytest.mark.parametrize(
    ("given", "arms", "towers"),
    [
        ({}, DEFAULT_ARMS, ()),
        ({"objectives": "ot-token, kd-mse,ot-token"}, ("ot-token@random", "kd-mse@random"), ()),
        ({"objectives": "kd-mse", "init": "scratch"}, ("kd-mse@scratch",), ()),
        ({"arms": "kd-mse, kd-mse@random,ot-token+kd-mse @ scratch"}, ("kd-mse@random", "ot-token + kd-mse@scratch"), ()),
        ({"arms": "kd-mse, kd-mse@random", "init": "ibm1"}, ("kd-mse@ibm1", "kd-mse@random"), ()),
        ({"objectives": ""}, (), ()),
        ({"towers": ["a,b", "c"]}, DEFAULT_ARMS, ("a,b", "c")),
    ],
)
def test_lists_are_comma_separated_or_repeated(given: dict[str, object], arms: object, towers: object) -> None:
    built: list[RunConfig] = []

    @configured(RunConfig, "config")
    def command(config: RunConfig) -> None:
        built.append(config)

    lists = [
        name for kind in (RunConfig, DistillConfig) for name, info in kind.model_fields.items() if isinstance(info.default, tuple)
    ]
    command(**fields(RunConfig, GroundingConfig, ScoringConfig, DistillConfig) | dict.fromkeys(lists) | {"lang": "de"} | given)
    assert (built[0].arms, built[0].towers) == (arms, towers)
    assert ("objectives" in built[0].model_fields_set) == ("objectives" in given)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"arms": ("kd-mse",), "objectives": ("kd-mse",)}, "--arms and --objectives both name what to distill"),
        ({"arms": ("kd-mse@",)}, "arm 'kd-mse@': expected OBJECTIVE or OBJECTIVE@INITIALIZER"),
        ({"arms": ("kd-mes",)}, "no objective is called 'kd-mes': did you mean kd-mse"),
    ],
)
def test_an_arm_that_cannot_be_read_is_refused(given: dict[str, object], line: str) -> None:
    with pytest.raises(HarnessError, match=line):
        validated(RunConfig, lang="de", **given)


def test_a_value_out_of_bounds_names_its_option() -> None:
    @configured(ExecutorConfig, "execution")
    def command(execution: ExecutorConfig) -> None:
        raise AssertionError(execution)

    with pytest.raises(HarnessError, match=r"^--workers 0: Input should be greater than or equal to 1"):
        command(**fields(ExecutorConfig) | {"workers": 0})


def test_words_of_a_list_are_taken_once() -> None:
    assert comma_separated(" a,b ,,a") == ("a", "b")
