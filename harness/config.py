"""What a user can choose, validated, and the digest that two equal choices share."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.api import HarnessError


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

    objective: str = Field("kd-mse", description="loss between student and teacher")
    init: Literal["teacher", "scratch"] = Field(
        "teacher", description="the student's layers at the start: the teacher's, or random"
    )
    pairs: int | None = Field(None, ge=2, description="sentence pairs to use, a nested random subset; all by default")
    seed: int = Field(0, ge=0, description="decides subset, initial weights and order of batches")
    steps: int | None = Field(None, ge=1, description="optimiser steps; by default 10 passes over the pairs, at least 600")
    batch: int = Field(64, ge=2, description="pairs a step")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    vocabulary: int = Field(8000, ge=100, description="most subwords of the student's tokenizer")
    eps: float = Field(0.1, ge=0.05, le=10, description="entropic regularisation of token transport, in units of cosine cost")
    sentence_weight: float = Field(
        1.0, ge=0, description="lambda: weight of kd-mse, relative to the teacher's norm, beside transport"
    )

    def steps_for(self, pairs: int) -> int:
        """Optimiser steps on that many pairs.

        >>> DistillConfig().steps_for(1000), DistillConfig().steps_for(27985), DistillConfig(steps=50).steps_for(1000)
        (600, 4372, 50)
        """
        return self.steps if self.steps is not None else max(600, 10 * pairs // self.batch)


class RunConfig(Config):
    """One run: a language measured on a task, with every tower beside it that a reader needs for comparison."""

    task: str = "flickr30k"
    lang: str
    split: Literal["test", "val"] = "test"
    data: Path | None = Field(None, description="folder of the data set; the embedded sample where there is none")
    encoder: str = "sample"
    objectives: tuple[str, ...] = ("kd-mse", "ot-token")
    distill: DistillConfig = DistillConfig()
    leakage: Literal["drop", "refuse"] = Field("drop", description="what to do with bitext of the evaluation images")
    device: str = "auto"
    resamples: int = Field(10_000, ge=100, description="bootstrap resamples")


C = TypeVar("C", bound=Config)


def validated(kind: type[C], **choices: Any) -> C:
    """A configuration of the given choices. Raises HarnessError naming the first option that is out of range."""
    try:
        return kind(**choices)
    except ValidationError as error:
        detail = error.errors()[0]
        option = "--" + str(detail["loc"][0]).replace("_", "-")
        raise HarnessError(f"{option} {detail['input']}: {detail['msg']}") from error
