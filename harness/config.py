"""What a user can choose, validated, and the digest that two equal choices share."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from harness.api import HarnessError
from harness.plugins import without_code
from harness.registry import STEPLESS, UNTRAINED, nearest, reads_entities, spell_objective

LARGEST_SEED = 2**63 - 1
"""What every generator of random numbers takes."""


class Config(BaseModel):
    """A frozen set of choices, in which equal numbers are one value: defaults too are of their fields' types, and -0.0 is 0.0.

    >>> DistillConfig(spelling=-0.0).model_dump_json() == DistillConfig().model_dump_json()
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _zero_has_no_sign(cls, value: object) -> object:
        return value + 0.0 if isinstance(value, float) else value


def digest_json(value: object) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys.

    >>> digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class DistillConfig(Config):
    """How a text tower is distilled. Two arms of a comparison differ in `objective` alone."""

    objective: str = Field(
        "kd-mse",
        description="loss between student and teacher; `none` leaves the student as it starts, `ridge` fits its projection",
    )
    init: str = Field(
        "teacher",
        pattern="^(teacher|scratch|ot-contexts|ot-sentences|ot-vocabulary|association|ibm1|hf:.+)$",
        description="the student at the start: `teacher`, its layers under random subwords; `scratch`, random throughout; "
        "`ot-vocabulary`, the teacher's layers under subwords made of its English ones by transport over the bitext, "
        "`ot-sentences`, the same by transport within each sentence pair too, `ot-contexts`, the same by texts that nobody "
        "translated too (see unpaired), `association` and `ibm1`, these without transport; "
        "`hf:NAME-or-FOLDER`, a Hugging Face BERT or RoBERTa and its subwords",
    )
    size: Literal["tiny", "small", "base"] | None = Field(
        None, description="shape from scratch: 2 blocks x 128, 6 x 384 or 12 x 512; by default the teacher's"
    )
    pooling: Literal["mean", "last", "attention"] = Field(
        "mean", description="a sentence's embedding: the mean of its tokens' states, the last one, or a learned attention"
    )
    pairs: int | None = Field(None, ge=2, description="sentence pairs to use, a nested random subset; all by default")
    unpaired: int = Field(
        0,
        ge=0,
        description="sentences of each language without translations, for ot-contexts and the student's subwords: of --text, or "
        "one side each of pairs that are not used",
    )
    spelling: float = Field(
        0,
        ge=0,
        le=1000,
        description="what a subword's association with an English token gains where both are spelled the same, as a multiple of "
        "it; less where they are spelled alike. For the starts that align a vocabulary",
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="decides subset, initial weights and order of batches")
    held_out: int = Field(
        0, ge=0, description="pairs, of those given, kept for validation by translation retrieval; the best weights are then kept"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after that many of the 20 validations in a row without a better one"
    )
    tune: bool = Field(False, description="choose the learning rate by short trainings, validated on a tenth of the pairs")
    steps: int | None = Field(
        None, ge=1, le=100_000_000, description="optimiser steps; by default 10 passes over the pairs, at least 600"
    )
    batch: int = Field(64, ge=2, le=1_000_000, description="pairs a step")
    learning_rate: float = Field(1e-3, gt=0, description="highest learning rate")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the student's matrix products in training; the weights and the loss stay float32"
    )
    accumulate: int = Field(
        1, ge=1, description="parts that go through the student one after another, for less memory; the loss is the whole batch's"
    )
    checkpointing: bool = Field(False, description="compute the student's blocks again for their gradient, for less memory")
    vocabulary: int = Field(8000, ge=100, le=1_000_000, description="most subwords of the student's tokenizer")
    solver: Literal["sinkhorn", "ipot", "exact"] = Field("sinkhorn", description="how ot-token solves its transport")
    eps: float = Field(0.1, ge=1e-3, le=10, description="entropic regularisation of token transport, in units of cosine cost")
    rho: float = Field(1.0, gt=0, le=1000, description="ot-unbalanced: price of leaving a marginal, in units of cosine cost")
    sentence_weight: float = Field(1.0, ge=0, description="lambda: weight of kd-mse / mean ||z||^2 beside token transport")
    entity_weight: float = Field(
        2.0, ge=1, le=1000, description="ot-entity: mass of a token that names something, where any other has 1"
    )
    temperature: float = Field(0.05, ge=1e-3, le=10, description="tau of every softmax over cosines of the batch")
    diagonal: Literal["keep", "remove"] = Field(
        "keep", description="kd-relation, ot-batch: whether a sentence is a candidate of its own"
    )
    alpha: float = Field(0.5, ge=0, le=1, description="ot-batch: share of InfoNCE; the rest is the divergence from the plan")
    batch_eps: float = Field(0.15, ge=0.01, le=10, description="ot-batch: entropic regularisation of the teacher's plan")
    batch_iterations: int = Field(5, ge=1, le=1000, description="ot-batch: iterations of the teacher's plan")

    @field_validator("size")
    @classmethod
    def _size_is_for_scratch(cls, size: str | None, info: ValidationInfo) -> str | None:
        init = info.data.get("init", "scratch")
        if size is not None and init != "scratch":
            raise PydanticCustomError("size", f"a size is for --init scratch; with --init {init} the shape is the teacher's")
        return size

    @model_validator(mode="after")
    def _patience_needs_validation(self) -> Self:
        if self.patience is not None and not self.held_out:
            raise PydanticCustomError("patience", "--patience counts validations: keep pairs for them with --held-out")
        return self

    @model_validator(mode="after")
    def _spelling_is_for_an_alignment(self) -> Self:
        if self.spelling and (self.init in ("teacher", "scratch") or self.init.startswith("hf:")):
            raise PydanticCustomError(
                "spelling",
                f"--spelling has no use with --init {self.init}: it is for those that align a vocabulary, as ot-sentences",
            )
        return self

    @model_validator(mode="after")
    def _a_model_brings_its_subwords(self) -> Self:
        if self.unpaired and self.init.startswith("hf:"):
            raise PydanticCustomError(
                "unpaired", "--unpaired has no use with --init hf:, which brings subwords and their embeddings"
            )
        return self

    def for_objective(self, objective: str) -> Self:
        """The same choices for another objective, in its one spelling.

        What weighs entities goes back to its default where the objective does not read them, so that no tower is made twice.
        Raises HarnessError as `spell_objective`.
        """
        changes: dict[str, object] = {"objective": spell_objective(objective)}
        if not reads_entities(objective):
            changes["entity_weight"] = type(self).model_fields["entity_weight"].default
        return self.model_copy(update=changes)

    def steps_for(self, pairs: int) -> int:
        """Optimiser steps on that many pairs; none for the objectives `none` and `ridge`.

        >>> DistillConfig().steps_for(1000), DistillConfig().steps_for(27985), DistillConfig(steps=50).steps_for(1000)
        (600, 4372, 50)
        """
        if self.objective in STEPLESS:
            return 0
        return self.steps if self.steps is not None else max(600, 10 * pairs // self.batch)


class GroundingConfig(Config):
    """How regions of images are used: by a grounding task, or by the scorer of entities."""

    rerank: int = Field(10, ge=0, description="scorer entities: how many of the plain scorer's first it sorts anew; 0: all")
    candidates: Literal["boxes", "proposals"] = Field(
        "boxes", description="regions: the boxes people drew in the image, or proposals/<id>.json of a detector"
    )
    view: Literal["crop", "context", "blackout"] = Field(
        "crop", description="how a region is shown: cut out, cut out with as much again around it, or with the rest blacked out"
    )


class RunConfig(Config):
    """One run: languages measured on a task, with every tower beside them that a reader needs for comparison."""

    task: str = "flickr30k"
    lang: str = Field(description="codes or names, comma-separated; all, tier:0-2, script:Arab")
    split: str = "test"
    source: str | None = Field(None, description="caption source to read instead of the first that has the language")
    data: str | None = Field(None, description="folder of the data set, or address of a pack; the embedded sample without one")
    encoder: str = "sample"
    objectives: tuple[str, ...] = ("kd-mse", "ot-token")
    towers: tuple[str, ...] = Field((), description="towers that are there already: folders, or the beginnings of their digests")
    distill: DistillConfig = DistillConfig()
    bitext: Path | None = Field(None, description="file of sentence pairs to distil from, instead of the folder's own")
    text: Path | None = Field(
        None, description="folder of texts without translations, en.txt and CODE.txt, for unpaired; else pairs that are not used"
    )
    clean: bool | None = Field(None, description="clean the bitext; by default only where nobody states how it came to be")
    leakage: Literal["drop", "refuse"] = Field("drop", description="what to do with bitext of the evaluation images")
    skip_broken: bool = Field(False, description="leave out pictures that cannot be decoded, and say so")
    measures: tuple[str, ...] = Field((), description="what is measured where texts are looked for, instead of the task's own")
    translations: str | None = Field(None, description="file of the captions in English; {lang} stands for a language's code")
    translator: str | None = Field(None, description="translator of the captions into English")
    scorer: str = Field("plain", description="scorer to measure beside the plain cosine")
    grounding: GroundingConfig = GroundingConfig()
    chunker: str = Field("simple", description="what finds the phrases of captions and sentences that have no tags")
    device: str = "auto"
    resamples: int = Field(10_000, ge=100, le=1_000_000, description="bootstrap resamples")

    @field_validator("data", mode="before")
    @classmethod
    def _a_path_is_a_name(cls, data: object) -> object:
        return str(data) if isinstance(data, Path) else data

    @model_validator(mode="after")
    def _text_is_asked_for(self) -> Self:
        if self.text is not None and not self.distill.unpaired:
            raise PydanticCustomError("text", "--text holds sentences without translations: say with --unpaired how many to read")
        return self


class ExecutorConfig(Config):
    """What does the cells of a run, and how many at a time. Decides no number."""

    executor: str = Field("local", description="what does the cells: local, this machine, or ray; see `list executors`")
    workers: int = Field(1, ge=1, le=1_024, description="cells at a time on a machine; each has its share of the cores")
    address: str | None = Field(
        None, description="ray: a cluster that is there, as auto or HOST:6379; else a Ray of this machine"
    )
    gpus_per_cell: float | None = Field(
        None, ge=0, description="ray: GPUs that a cell takes, as 1 or 0.5; by default a machine's by --workers, one at most"
    )

    @property
    def in_turn(self) -> bool:
        """Whether one cell after another is done in this process."""
        return self.executor == "local" and self.workers == 1


def first_line(error: Exception) -> str:
    """The gist of an error on one line, whatever it quotes; of a wrong JSON or TOML, the first thing that is wrong and where."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where[:200]}{': ' if where else ''}{first['msg'][:200]}"
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


Side = Literal["transport", "standard", "control"]


def side_of(objective: str, init: str) -> Side:
    """Whose side a tower is on: transport's where its loss or its start transports; nobody's where it shows what that is due to.

    A control is not trained, or starts from an alignment without transport. All others are standard distillation.

    >>> side_of("ot-token + 0.5*kd-mse", "teacher"), side_of("none", "ot-sentences"), side_of("kd-mse", "ibm1")
    ('transport', 'transport', 'control')
    """
    # Others' records may hold objectives that are not installed here.
    if re.search(r"\bot-", objective) or init.startswith("ot-"):
        return "transport"
    return "control" if objective == UNTRAINED or init in ("association", "ibm1") else "standard"


_GRID = "the study goes through sizes and seeds itself: set pairs and seeds at the top"
_BUDGET = "all arms share it, or one would be trained better than the others: set it under [distill]"
_ARM = "each arm has its own: set it in [[arms]], beside its options"
OF_THE_GRID = dict.fromkeys(("pairs", "seed"), _GRID)
OF_THE_ARM = dict.fromkeys(("objective", "init"), _ARM)
BUDGET = (
    "steps",
    "batch",
    "learning_rate",
    "weight_decay",
    "warmup",
    "held_out",
    "patience",
    "tune",
    "precision",
    "accumulate",
    "checkpointing",
)
OF_THE_BUDGET = dict.fromkeys(BUDGET, _BUDGET)


class Arm(Config):
    """One way of making a text tower, compared with the other ways of a study."""

    name: str = Field("", max_length=60, description="what the report calls it; by default what sets it apart")
    objective: str = Field(description="as in DistillConfig, sums too")
    init: str = Field(DistillConfig.model_fields["init"].default, description="as in DistillConfig")
    options: dict[str, Any] = Field({}, description="other options of DistillConfig, but for those of the budget")
    side: Side | None = Field(
        None,
        description="transport: by default where the objective or the start transports; control, on nobody's side: by default "
        "where nothing is trained or the start is association or ibm1; standard: all others",
    )

    @field_validator("objective")
    @classmethod
    def _there_is_such_an_objective(cls, objective: str) -> str:
        try:
            return spell_objective(objective)
        except HarnessError as error:
            raise wrong(str(error)) from None

    @model_validator(mode="after")
    def _is_fair_and_has_a_name(self) -> Self:
        check_options(self.options, OF_THE_GRID | OF_THE_ARM | OF_THE_BUDGET)
        checked = check_values({**self.options, "objective": self.objective, "init": self.init})
        object.__setattr__(self, "options", {key: checked[key] for key in self.options})
        object.__setattr__(self, "name", self.name or self._told()[:60])
        object.__setattr__(self, "side", self.side or side_of(self.objective, self.init))
        return self

    def _told(self) -> str:
        trained = "untrained" if self.objective == UNTRAINED else self.objective
        start = [self.init] if self.init != Arm.model_fields["init"].default else []
        apart = ", ".join([*start, *(f"{spoken(key)} {value}" for key, value in self.options.items())])
        return f"{trained} ({apart})" if apart else trained

    def recipe(self, shared: Mapping[str, Any], pairs: int | None, seed: int) -> DistillConfig:
        """How the arm's tower of one size and seed is made. Where nothing is trained there is no budget."""
        if self.objective in STEPLESS:
            shared = {key: value for key, value in shared.items() if key not in BUDGET}
        own = {"objective": self.objective, "init": self.init, "pairs": pairs, "seed": seed}
        return DistillConfig(**{**shared, **self.options, **own})


class StudyConfig(Config):
    """Arms x languages x bitext sizes x seeds over one split. What the arms do not name they share."""

    title: str = Field("A study", max_length=120)
    question: str = Field(
        "Does distilling a text tower by optimal transport, instead of by standard knowledge distillation, raise zero-shot "
        "image-text R@1 in languages that have little data?",
        max_length=600,
    )
    task: str = "flickr30k"
    lang: str = Field(description="as for run, or a list of codes; those with the fewest resources are run first")
    split: str = "test"
    source: str | None = None
    data: str | None = None
    encoder: str = "sample"
    bitext: Path | None = None
    text: Path | None = None
    clean: bool | None = None
    leakage: Literal["drop", "refuse"] = "drop"
    pairs: tuple[int | Literal["all"], ...] = Field(min_length=1, description="sizes of the bitext, nested, run in this order")
    seeds: tuple[Annotated[int, Field(ge=0, le=LARGEST_SEED)], ...] = Field((0, 1, 2), min_length=1)
    replicate: tuple[Annotated[int, Field(ge=0, le=LARGEST_SEED)], ...] = Field(
        (), description="seeds of the same study again, run last, which is to say the same; true: as many new ones"
    )
    distill: dict[str, Any] = Field({}, description="options of DistillConfig that all arms share")
    chunker: str = Field("simple", description="what finds the phrases of English sentences that have no tags, for ot-entity")
    arms: tuple[Arm, ...] = Field(min_length=2)
    direction: Literal["t2i", "i2t"] = Field("t2i", description="whose R@1 is compared")
    by: tuple[str, ...] = Field(("entity-type",), description="facets of captions to break down by, where the records have them")
    resamples: int | None = Field(
        None, ge=100, le=1_000_000, description="by default 10,000, or as many as Holm needs over the study's tests"
    )

    @field_validator("lang", "data", mode="before")
    @classmethod
    def _lists_and_paths_are_text(cls, value: object) -> object:
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return ",".join(value)
        return str(value) if isinstance(value, Path) else value

    @field_validator("pairs", mode="before")
    @classmethod
    def _a_size_is_a_number_or_all(cls, sizes: object) -> object:
        for size in sizes if isinstance(sizes, list | tuple) else ():
            if size != "all" and (type(size) is not int or size < 2):
                raise wrong(f'{size!r} is no size: give whole numbers of 2 or more, and "all" for all that there are')
        return sizes

    @field_validator("replicate", mode="before")
    @classmethod
    def _true_is_as_many_new_ones(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, bool):
            return value
        seeds = info.data.get("seeds", (0,))
        return tuple(range(max(seeds) + 1, max(seeds) + 1 + len(seeds))) if value else ()

    @field_validator("pairs", "seeds", "replicate", "by")
    @classmethod
    def _nothing_twice(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if twice := [value for value in values if values.count(value) > 1]:
            raise wrong(f"{twice[0]!r} stands there twice: once is enough")
        return values

    @field_validator("distill")
    @classmethod
    def _what_is_shared_is_known(cls, shared: dict[str, Any]) -> dict[str, Any]:
        check_options(shared, OF_THE_GRID | OF_THE_ARM)
        return check_values(shared)

    @model_validator(mode="after")
    def _the_grid_holds_together(self) -> Self:
        if known := sorted(set(self.replicate) & set(self.seeds)):
            raise wrong(f"seed {known[0]} is in seeds and in replicate: give other ones there, or replicate = true")
        seen: dict[DistillConfig, str] = {}
        for arm in self.arms:
            if arm.name in seen.values():
                raise wrong(f"two arms are called {arm.name!r}: give one another name")
            check_values({**self.distill, **arm.options, "objective": arm.objective, "init": arm.init})
            recipe = arm.recipe(self.distill, None, 0)
            if recipe in seen:
                raise wrong(f"the arms {seen[recipe]!r} and {arm.name!r} are the same: leave one out")
            seen[recipe] = arm.name
        for side in ("transport", "standard"):
            if all(arm.side != side for arm in self.arms):
                raise wrong(f"no arm is on the side of {side}: add one, or say so of one with side = {side!r}")
        return self

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """The bitext sizes; None for all there is."""
        return tuple(None if size == "all" else size for size in self.pairs)

    def on(self, side: Side) -> tuple[Arm, ...]:
        """The arms of one side."""
        return tuple(arm for arm in self.arms if arm.side == side)


def wrong(message: str) -> PydanticCustomError:
    """A mistake in a configuration, in the words that the user is to read."""
    return PydanticCustomError("wrong", "{message}", {"message": message})


def spoken(field: str) -> str:
    """A field's name as words."""
    return field.replace("_", " ")


def check_options(given: Mapping[str, Any], elsewhere: Mapping[str, str]) -> None:
    """Refuse options that distillation does not know, and those that belong elsewhere, with the reason."""
    for key in given:
        if key not in DistillConfig.model_fields:
            raise wrong(
                f"no option of distillation is called {key!r}: {nearest(key, DistillConfig.model_fields.keys() - elsewhere)}"
            )
        if key in elsewhere:
            raise wrong(f"{key}: {elsewhere[key]}")


def check_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options, each of its field's type. Refuses those out of their range, naming the first."""
    try:
        checked = DistillConfig(**given)
    except ValidationError as error:
        detail = error.errors()[0]
        at = f"{detail['loc'][0]} = {detail['input']!r}: " if detail["loc"] else ""
        raise wrong(f"{at}{detail['msg']}") from None
    return {key: getattr(checked, key) for key in given}


def read_study(path: Path, **given: Any) -> StudyConfig:
    """A study's TOML file, with what was given on the command line in place of what it says.

    Raises HarnessError naming the file, the key and what is wrong with it.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise HarnessError(f"{path} cannot be read as TOML: {reason}; docs/study.md shows a study") from None
    for spec in specs_of(told):
        without_code(spec, path)
    try:
        return StudyConfig(**{"title": path.stem, **told, **{key: value for key, value in given.items() if value is not None}})
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(str(part + 1 if isinstance(part, int) else part) for part in detail["loc"])
        raise HarnessError(f"{path}: {key + ': ' if key else ''}{said(detail)}") from None


def specs_of(told: Mapping[str, Any]) -> Iterator[str]:
    """What names code in a study's file: what is to be loaded by name."""
    arms = told.get("arms")
    for table in (told, *(arms if isinstance(arms, list) else ())):
        if isinstance(table, dict):
            yield from (
                value for name in ("task", "encoder", "chunker", "objective") if isinstance(value := table.get(name), str)
            )


def said(detail: Any) -> str:
    """What pydantic found wrong in a study's file, and the way out."""
    if detail["type"] == "missing":
        return "is missing"
    if detail["type"] == "extra_forbidden":
        kind = Arm if detail["loc"][0] == "arms" else StudyConfig
        return f"no such key: {nearest(str(detail['loc'][-1]), kind.model_fields)}"
    return str(detail["msg"]) if detail["type"] == "wrong" else f"{detail['msg']}, not {detail['input']!r}"


C = TypeVar("C", bound=Config)


def validated(kind: type[C], **choices: Any) -> C:
    """A configuration of the given choices. Raises HarnessError naming the first option that is out of range."""
    try:
        return kind(**choices)
    except ValidationError as error:
        detail = error.errors()[0]
        # What is wrong between two options names them itself.
        option = f"--{str(detail['loc'][0]).replace('_', '-')} {detail['input']}: " if detail["loc"] else ""
        raise HarnessError(f"{option}{detail['msg']}") from error
