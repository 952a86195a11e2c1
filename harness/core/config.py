"""The options of a run, validated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from harness.core.errors import HarnessError
from harness.core.objective_terms import STEPLESS, reads_entities, spell_objective

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


def spoken(field: str) -> str:
    """A field's name as words."""
    return field.replace("_", " ")


def specs_of(told: Mapping[str, Any]) -> Iterator[str]:
    """What names code in a study's file: what is to be loaded by name."""
    arms = told.get("arms")
    for table in (told, *(arms if isinstance(arms, list) else ())):
        if isinstance(table, dict):
            yield from (
                value for name in ("task", "encoder", "chunker", "objective") if isinstance(value := table.get(name), str)
            )


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
