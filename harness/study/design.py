"""The design of a study: arms, languages, sizes and seeds, read from a TOML file and validated."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from harness.core.arms import (
    DEFAULT_INIT,
    STEPLESS,
    InitializerName,
    Side,
    side_of,
    spell_arm,
    spell_objective,
    split_arm,
)
from harness.core.config import LARGEST_SEED, Config, DataConfig, DistillConfig, field_label
from harness.core.errors import HarnessError
from harness.core.option_use import TUNING, initializer_reads, unread_option
from harness.core.plugins import without_code
from harness.core.suggestions import nearest

_GRID = "the study sets it for each cell: set pairs and seeds at the top level"
_BUDGET = "all arms must share it for a fair comparison: set it under [distill]"
_ARM = "each arm sets it: move it to [[arms]]"
GRID_OPTIONS = dict.fromkeys(("pairs", "seed"), _GRID)
ARM_OPTIONS = dict.fromkeys(("objective", "init"), _ARM)
BUDGET = (
    "steps",
    "batch",
    "learning_rate",
    "weight_decay",
    "warmup",
    "held_out",
    "patience",
    "tune",
    *TUNING,
    "precision",
    "accumulate",
    "checkpointing",
)
BUDGET_OPTIONS = dict.fromkeys(BUDGET, _BUDGET)


class Arm(Config):
    """One way of making a text tower."""

    name: str = Field("", max_length=60, description="name in the report; by default made from the options")
    objective: str = Field(description="as in DistillConfig, including sums")
    init: InitializerName = Field(DEFAULT_INIT, description="as in DistillConfig")
    options: dict[str, Any] = Field({}, description="other options of DistillConfig, except those of the training budget")
    side: Side | None = Field(
        None,
        description="transport: default if the objective or the initializer uses transport; control: default if nothing is "
        "trained or the initializer is association or one of ibm1's; standard: default for all others",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        """Read the name of an arm, OBJECTIVE@INITIALIZER, as one without other options."""
        if not isinstance(value, str):
            return value
        try:
            objective, init = split_arm(value)
        except HarnessError as error:
            raise invalid_value(str(error)) from None
        return {"objective": objective, "init": init}

    @field_validator("objective")
    @classmethod
    def _known_objective(cls, objective: str) -> str:
        try:
            return spell_objective(objective)
        except HarnessError as error:
            raise invalid_value(str(error)) from None

    @field_validator("init")
    @classmethod
    def _known_initializer(cls, init: str) -> str:
        try:
            initializer_reads(init)
        except HarnessError as error:
            raise invalid_value(str(error)) from None
        return init

    @model_validator(mode="after")
    def _set_defaults(self) -> Self:
        check_option_names(self.options, GRID_OPTIONS | ARM_OPTIONS | BUDGET_OPTIONS)
        checked = check_values({**self.options, "objective": self.objective, "init": self.init})
        check_read([DistillConfig(**checked)])
        object.__setattr__(self, "options", {key: checked[key] for key in self.options})
        object.__setattr__(self, "name", self.name or self._default_name()[:60])
        object.__setattr__(self, "side", self.side or side_of(self.objective, self.init))
        return self

    def _default_name(self) -> str:
        details = ", ".join(f"{field_label(key)} {value}" for key, value in self.options.items())
        arm = spell_arm(self.objective, self.init)
        return f"{arm} ({details})" if details else arm

    def recipe(self, shared: Mapping[str, Any], pairs: int | None, seed: int) -> DistillConfig:
        """Return the configuration of the arm's tower for one size and seed, without a budget if nothing is trained.

        Options that the arm does not read keep their defaults.
        """
        if self.objective in STEPLESS:
            shared = {key: value for key, value in shared.items() if key not in BUDGET}
        own = {"objective": self.objective, "init": self.init, "pairs": pairs, "seed": seed}
        return DistillConfig(**{**shared, **self.options, **own}).for_arm(self.objective)


class StudyConfig(DataConfig):
    """Arms x languages x bitext sizes x seeds over one split.

    Arms share every option that they do not set themselves.
    """

    title: str = Field("A study", max_length=120)
    question: str = Field(
        "Does distilling a text tower by optimal transport, instead of by standard knowledge distillation, raise zero-shot "
        "image-text R@1 in languages that have little data?",
        max_length=600,
    )
    lang: str = Field(description="as for run, or a list of codes; languages with the fewest resources run first")
    pairs: tuple[int | Literal["all"], ...] = Field(
        min_length=1, description="nested sizes of the bitext, in the order of the run"
    )
    seeds: tuple[Annotated[int, Field(ge=0, le=LARGEST_SEED)], ...] = Field((0, 1, 2), min_length=1)
    replicate: tuple[Annotated[int, Field(ge=0, le=LARGEST_SEED)], ...] = Field(
        (), description="seeds of a replication, run last; true for as many new seeds"
    )
    distill: dict[str, Any] = Field({}, description="options of DistillConfig that all arms share")
    arms: tuple[Arm, ...] = Field(min_length=2)
    direction: Literal["t2i", "i2t"] = Field("t2i", description="direction of the compared R@1")
    by: tuple[str, ...] = Field(("entity-type",), description="facets of captions for the breakdown, if the records have them")
    primary: Literal["means", "languages"] | None = Field(
        None, description="the family of tests that the answer is about; by default the means over languages, if there are any"
    )
    margin: float | None = Field(
        None, ge=0.01, description="of equivalence, in points of R@1: smaller differences do not matter; none by default"
    )
    resamples: int | None = Field(
        None, ge=100, le=1_000_000, description="by default 10,000, or more if Holm needs them for the number of tests"
    )

    @field_validator("lang", mode="before")
    @classmethod
    def _list_of_codes_to_string(cls, value: object) -> object:
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return ",".join(value)
        return value

    @field_validator("pairs", mode="before")
    @classmethod
    def _valid_sizes(cls, sizes: object) -> object:
        for size in sizes if isinstance(sizes, list | tuple) else ():
            if size != "all" and (type(size) is not int or size < 2):
                raise invalid_value(f'{size!r} is no valid size: give whole numbers of at least 2, or "all"')
        return sizes

    @field_validator("replicate", mode="before")
    @classmethod
    def _new_seeds_for_true(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, bool):
            return value
        seeds = info.data.get("seeds", (0,))
        return tuple(range(max(seeds) + 1, max(seeds) + 1 + len(seeds))) if value else ()

    @field_validator("pairs", "seeds", "replicate", "by")
    @classmethod
    def _no_duplicates(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if twice := [value for value in values if values.count(value) > 1]:
            raise invalid_value(f"{twice[0]!r} is listed twice: remove one")
        return values

    @field_validator("distill")
    @classmethod
    def _known_shared_options(cls, shared: dict[str, Any]) -> dict[str, Any]:
        check_option_names(shared, GRID_OPTIONS | ARM_OPTIONS)
        return check_values(shared)

    @model_validator(mode="after")
    def _consistent_grid(self) -> Self:
        if known := sorted(set(self.replicate) & set(self.seeds)):
            raise invalid_value(f"seed {known[0]} is in seeds and in replicate: give other seeds there, or replicate = true")
        seen: dict[DistillConfig, str] = {}
        for arm in self.arms:
            if arm.name in seen.values():
                raise invalid_value(f"two arms have the name {arm.name!r}: rename one")
            recipe = arm.recipe(self.distill, None, 0)
            if recipe in seen:
                raise invalid_value(f"the arms {seen[recipe]!r} and {arm.name!r} are equal: remove one")
            seen[recipe] = arm.name
        check_read([DistillConfig(**{**self.distill, "objective": arm.objective, "init": arm.init}) for arm in self.arms])
        for side in ("transport", "standard"):
            if all(arm.side != side for arm in self.arms):
                raise invalid_value(f"no arm has the side {side}: add one, or set side = {side!r} in an arm")
        return self

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """The bitext sizes, None for all pairs."""
        return tuple(None if size == "all" else size for size in self.pairs)

    @property
    def rivals(self) -> tuple[Arm, ...]:
        """The arms without transport: a claim for transport must hold against the best of them, controls included."""
        return tuple(arm for arm in self.arms if arm.side != "transport")

    def on(self, side: Side) -> tuple[Arm, ...]:
        """Return the arms of one side."""
        return tuple(arm for arm in self.arms if arm.side == side)


def invalid_value(message: str) -> PydanticCustomError:
    """Return a validation error whose message is shown to the user unchanged."""
    return PydanticCustomError("wrong", "{message}", {"message": message})


def check_option_names(given: Mapping[str, Any], elsewhere: Mapping[str, str]) -> None:
    """Refuse unknown options of distillation, and options that belong elsewhere, with the reason."""
    for key in given:
        if key not in DistillConfig.model_fields:
            raise invalid_value(
                f"distillation has no option {key!r}: {nearest(key, DistillConfig.model_fields.keys() - elsewhere)}"
            )
        if key in elsewhere:
            raise invalid_value(f"{key}: {elsewhere[key]}")


def check_read(configs: Sequence[DistillConfig]) -> None:
    """Refuse an option that none of the configurations reads."""
    if line := unread_option(configs, flags=False):
        raise invalid_value(line)


def check_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options converted to the types of their fields. Refuses the first invalid one."""
    try:
        checked = DistillConfig(**given)
    except ValidationError as error:
        detail = error.errors()[0]
        at = f"{detail['loc'][0]} = {detail['input']!r}: " if detail["loc"] else ""
        raise invalid_value(f"{at}{detail['msg']}") from None
    return {key: getattr(checked, key) for key in given}


def plug_in_names(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield every task, encoder, chunker and objective that a study's file names: `FILE.py:NAME` would load code."""
    arms = table.get("arms")
    for each in (table, *(arms if isinstance(arms, list) else ())):
        if isinstance(each, dict):
            names = (each.get(key) for key in ("task", "encoder", "chunker", "objective", "init"))
            yield from (name for name in names if isinstance(name, str))


def read_study(path: Path, **given: Any) -> StudyConfig:
    """Read a study from a TOML file. Values given on the command line replace those of the file.

    Raises HarnessError with the file, the key and the problem.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise HarnessError(f"{path} cannot be read as TOML: {reason}; see docs/study.md for an example") from None
    for spec in plug_in_names(table):
        without_code(spec, path)
    try:
        return StudyConfig(**{"title": path.stem, **table, **{key: value for key, value in given.items() if value is not None}})
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(str(part + 1 if isinstance(part, int) else part) for part in detail["loc"])
        raise HarnessError(f"{path}: {key + ': ' if key else ''}{validation_message(detail)}") from None


def validation_message(detail: Any) -> str:
    """Return the message for a validation error in a study file, with the way out."""
    if detail["type"] == "missing":
        return "is missing"
    if detail["type"] == "extra_forbidden":
        kind = Arm if detail["loc"][0] == "arms" else StudyConfig
        return f"no such key: {nearest(str(detail['loc'][-1]), kind.model_fields)}"
    return str(detail["msg"]) if detail["type"] == "wrong" else f"{detail['msg']}, not {detail['input']!r}"
