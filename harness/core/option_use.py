"""Determine the distillation options that a tower depends on: those that its objective, initializer or trainer reads.

Other options are refused where they are given, and left out of the tower's digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from harness.core.arms import DEFAULT_INIT, ENGLISH_FITTED, parse_objective, reads_entities, spell_arm, split_arm
from harness.core.builtins import INITIALIZERS, OBJECTIVES
from harness.core.errors import HarnessError
from harness.core.registry import Registry, split_spec
from harness.core.suggestions import nearest

if TYPE_CHECKING:
    from harness.core.config import DistillConfig

T = TypeVar("T", bound="DistillConfig")

ALWAYS_READ = ("objective", "init", "pairs", "seed", "held_out")
"""The options that decide which sentence pairs a tower is made of, and how."""
TUNING = ("tune_rates", "tune_vocabulary", "tune_steps")
"""The options that list the values of a search."""
SEARCH_READS = ("tune_vocabulary",)
"""The options that the trainer reads for initializers that read `vocabulary`."""
TRAINER_READS = (
    "steps",
    "batch",
    "learning_rate",
    "weight_decay",
    "warmup",
    "patience",
    "tune",
    "tune_rates",
    "tune_steps",
    "precision",
    "accumulate",
    "checkpointing",
    "lora",
    "english_side",
)
"""The options that the trainer reads, for every objective with steps."""
OBJECTIVE_READS = tuple(dict.fromkeys(option for name in OBJECTIVES.builtin_names() for option in OBJECTIVES.find(name).reads))
INITIALIZER_READS = tuple(
    dict.fromkeys(option for name in INITIALIZERS.builtin_names() for option in INITIALIZERS.find(name).reads)
)

OPTIONS = {*ALWAYS_READ, *TRAINER_READS, *SEARCH_READS, *OBJECTIVE_READS, *INITIALIZER_READS}
"""The fields of `DistillConfig`."""


def objective_reads(objective: str) -> frozenset[str]:
    """Return the options that an objective reads, besides the trainer's. A sum reads the options of every term.

    A plug-in without the attribute `reads` counts as reading every option of objectives. `entity_weight` is among them only with
    `reads_entities`. Raises HarnessError as `parse_objective` does, and for a plug-in that declares an unknown option.
    """
    read: set[str] = set()
    for _, name in parse_objective(objective):
        declared = _declared(OBJECTIVES, name)
        if declared is None:
            declared = {option for option in OBJECTIVE_READS if option != "entity_weight" or reads_entities(name)}
        read |= declared
    return frozenset(read)


def initializer_reads(init: str) -> frozenset[str]:
    """Return the options that an initializer reads. Raises HarnessError for an unknown name.

    A plug-in without the attribute `reads` counts as reading every option of initializers.
    """
    declared = _declared(INITIALIZERS, split_spec(init)[0])
    return frozenset(INITIALIZER_READS if declared is None else declared)


def options_read(config: DistillConfig) -> frozenset[str]:
    """Return the options that decide the tower of a configuration.

    `ridge-english` reads `unpaired` too. What `tune` chooses is not among them, and without `tune` the values that it would try
    are not. `patience` is not among them without validations.
    Raises HarnessError for an unknown objective or initializer.
    """
    read = objective_reads(config.objective) | initializer_reads(config.init) | {*ALWAYS_READ}
    if not parse_objective(config.objective):
        return read | {"unpaired"} if config.objective == ENGLISH_FITTED else read
    return (read | {*TRAINER_READS, *(SEARCH_READS if "vocabulary" in read else ())}) - _replaced(config)


def _replaced(config: DistillConfig) -> set[str]:
    """Return the options of the trainer that another option makes useless."""
    found = set() if config.held_out else {"patience"}
    if not config.tune:
        return found | {*TUNING}
    chosen = {"steps": config.tune_steps, "vocabulary": config.tune_vocabulary}
    return found | {"learning_rate"} | {option for option, values in chosen.items() if values}


def without_unread(config: T) -> T:
    """Return a copy with options that nothing reads at their defaults. Raises HarnessError as `options_read` does."""
    defaults = type(config)()
    return config.model_copy(update={name: getattr(defaults, name) for name in _unread(config)})


def unread_option(configs: Sequence[DistillConfig], flags: bool = True) -> str:
    """Return a line on the first non-default option that no configuration reads, or "" if there is none.

    configs: one for each objective and initializer of a run, with the same options otherwise. flags: name options as the command
    line does, else as a study's file does. Raises HarnessError as `options_read` does.
    """
    unread, *others = map(_unread, configs)
    unread = [option for option in unread if all(option in other for other in others)]
    if not unread:
        return ""
    option, config = unread[0], configs[0]
    given = _given(option, config, flags)
    arms = dict.fromkeys(spell_arm(config.objective, config.init) for config in configs)
    return f"{given} has no use with {_listed(arms)}: {_way_out(option, config)}"


def check_options(config: DistillConfig, arms: Sequence[str]) -> None:
    """Raise HarnessError for an option that is not at its default and that nothing reads in a run of these arms.

    arms: as in `DistillConfig.for_arm`. Raises HarnessError as `options_read` does too.
    """
    if not arms:
        if changed := _changed(config):
            raise HarnessError(f"{_given(changed[0], config)} has no use: nothing is distilled without --arms")
        return
    named = [split_arm(arm, config.init) for arm in arms]
    if config.init != DEFAULT_INIT and all(init != config.init for _, init in named):
        raise HarnessError(f"--init {config.init} has no use: every arm names another initializer")
    if line := unread_option([config.model_copy(update={"objective": objective, "init": init}) for objective, init in named]):
        raise HarnessError(line)


def _unread(config: DistillConfig) -> list[str]:
    read = options_read(config)
    return [name for name in _changed(config) if name not in read]


def _changed(config: DistillConfig) -> list[str]:
    defaults = type(config)()
    return [name for name in type(config).model_fields if getattr(config, name) != getattr(defaults, name)]


def _declared(registry: Registry[Any], name: str) -> set[str] | None:
    declared = registry.declared_reads(name)
    for option in declared or ():
        if option not in OPTIONS:
            raise HarnessError(
                f"the {registry.kind} {name} declares that it reads {option!r}, which is no option of distillation: "
                f"{nearest(option, OPTIONS)}"
            )
    return None if declared is None else set(declared)


def _given(option: str, config: DistillConfig, flags: bool = True) -> str:
    value = getattr(config, option)
    if flags:
        value = ",".join(map(str, value)) if isinstance(value, tuple) else value
        return f"--{option.replace('_', '-')}{'' if value is True else f' {value}'}"
    return f"{option} = {json.dumps(value)}"


def _way_out(option: str, config: DistillConfig) -> str:
    if parse_objective(config.objective) and option in _replaced(config):
        if option == "patience":
            return "it counts validations, so keep pairs for them with --held-out"
        return "it lists values for --tune" if option in TUNING else f"--tune chooses the {option.replace('_', ' ')}"
    if option in TRAINER_READS:
        return "only objectives that are trained read it"
    readers = [name for name in OBJECTIVES.builtin_names() if option in OBJECTIVES.find(name).reads]
    read = "vocabulary" if option in SEARCH_READS else option
    inits = [name for name in INITIALIZERS.builtin_names() if read in INITIALIZERS.find(name).reads]
    names = [*readers, *([ENGLISH_FITTED] if option == "unpaired" else []), *(f"--init {name}" for name in inits[:1]), *inits[1:]]
    return f"{_listed(names)} {'reads' if len(names) == 1 else 'read'} it"


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
