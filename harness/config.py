"""What a user can choose, validated, and the digest that two equal choices share."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from harness.api import HarnessError
from harness.registry import UNTRAINED


class Config(BaseModel):
    """A frozen set of choices."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def digest_json(value: object) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys.

    >>> digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class DistillConfig(Config):
    """How a text tower is distilled. Two arms of a comparison differ in `objective` alone."""

    objective: str = Field("kd-mse", description="loss between student and teacher; `none` leaves the student as it starts")
    init: str = Field(
        "teacher",
        pattern="^(teacher|scratch|ot-vocabulary|association|hf:.+)$",
        description="the student at the start: `teacher`, its layers under random subwords; `scratch`, random throughout; "
        "`ot-vocabulary`, the teacher's layers under subwords made of its English ones by transport over the bitext, "
        "`association`, the same without transport; `hf:NAME-or-FOLDER`, a Hugging Face BERT or RoBERTa and its subwords",
    )
    size: Literal["tiny", "small", "base"] | None = Field(
        None, description="shape from scratch: 2 blocks x 128, 6 x 384 or 12 x 512; by default the teacher's"
    )
    pooling: Literal["mean", "last", "attention"] = Field(
        "mean", description="a sentence's embedding: the mean of its tokens' states, the last one, or a learned attention"
    )
    pairs: int | None = Field(None, ge=2, description="sentence pairs to use, a nested random subset; all by default")
    seed: int = Field(0, ge=0, description="decides subset, initial weights and order of batches")
    held_out: int = Field(
        0, ge=0, description="pairs, of those given, kept for validation by translation retrieval; the best weights are then kept"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after that many of the 20 validations in a row without a better one"
    )
    tune: bool = Field(False, description="choose the learning rate by short trainings, validated on a tenth of the pairs")
    steps: int | None = Field(None, ge=1, description="optimiser steps; by default 10 passes over the pairs, at least 600")
    batch: int = Field(64, ge=2, description="pairs a step")
    learning_rate: float = Field(1e-3, gt=0, description="highest learning rate")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the student's matrix products in training; the weights and the loss stay float32"
    )
    vocabulary: int = Field(8000, ge=100, description="most subwords of the student's tokenizer")
    solver: Literal["sinkhorn", "ipot", "exact"] = Field("sinkhorn", description="how ot-token solves its transport")
    eps: float = Field(0.1, ge=1e-3, le=10, description="entropic regularisation of token transport, in units of cosine cost")
    rho: float = Field(1.0, gt=0, le=1000, description="ot-unbalanced: price of leaving a marginal, in units of cosine cost")
    sentence_weight: float = Field(1.0, ge=0, description="lambda: weight of kd-mse / mean ||z||^2 beside token transport")
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

    def steps_for(self, pairs: int) -> int:
        """Optimiser steps on that many pairs; none for the objective `none`.

        >>> DistillConfig().steps_for(1000), DistillConfig().steps_for(27985), DistillConfig(steps=50).steps_for(1000)
        (600, 4372, 50)
        """
        if self.objective == UNTRAINED:
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
    chunker: str = Field("simple", description="scorer entities: what finds the phrases of captions that have no tags")


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
    clean: bool | None = Field(None, description="clean the bitext; by default only where nobody states how it came to be")
    leakage: Literal["drop", "refuse"] = Field("drop", description="what to do with bitext of the evaluation images")
    scorer: str = Field("plain", description="scorer to measure beside the plain cosine")
    grounding: GroundingConfig = GroundingConfig()
    device: str = "auto"
    resamples: int = Field(10_000, ge=100, description="bootstrap resamples")

    @field_validator("data", mode="before")
    @classmethod
    def _a_path_is_a_name(cls, data: object) -> object:
        return str(data) if isinstance(data, Path) else data


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
