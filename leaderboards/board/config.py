"""Configurations of boards, read from `boards/*.toml`: the task, split, languages and metric of each."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.core.suggestions import nearest
from harness.retrieval.metrics import spell_measure

BOARDS = Path(__file__).parents[1] / "boards"
_DIRECTION_TITLES = {"t2i": "text → image", "i2t": "image → text", "texts": "query → English text"}


class BoardConfig(BaseModel):
    """The configuration of a board. Records of the embedded sample and of real photographs never share a board."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: Annotated[str, Field(min_length=1)]
    about: str = ""
    task: str
    split: str
    sample: bool
    languages: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = Field(
        None, description="codes of the columns; by default, every language with a record except English"
    )
    direction: Literal["t2i", "i2t", "texts"] = Field(description="texts: for a text-to-text task")
    cutoff: Literal[1, 5, 10] | None = Field(None, description="k of the hit rate R@k")
    measure: str = Field("", description="or a measure of text-to-text retrieval, such as nDCG@10")
    groups: Literal["tier", "script", "none"] = Field(
        "tier", description="the property that groups the columns; each group has a macro mean"
    )
    breakdown: str | None = Field(
        None, description="a facet of the captions, such as entity-type, by which scores are broken down"
    )

    @model_validator(mode="after")
    def _facets_are_of_captions(self) -> Self:
        if self.breakdown is not None and self.direction != "t2i":
            raise PydanticCustomError("breakdown", 'a breakdown needs text-to-image retrieval: direction = "t2i"')
        return self

    @field_validator("measure")
    @classmethod
    def _known(cls, measure: str) -> str:
        try:
            return spell_measure(measure) if measure else ""
        except HarnessError as error:
            raise PydanticCustomError("measure", "{why}", {"why": str(error)}) from None

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if (self.cutoff is None) == (not self.measure):
            raise PydanticCustomError("number", "give either a cutoff (1, 5 or 10) or a measure")
        if self.measure and self.direction != "texts":
            raise PydanticCustomError("measure", 'a measure needs text-to-text retrieval: direction = "texts"')
        return self

    @property
    def metric(self) -> str:
        """The display name of the metric.

        >>> BoardConfig(name="x", title="X", task="t", split="test", sample=True, direction="t2i", cutoff=5).metric
        'R@5 text → image'
        """
        return f"{self.measure or f'R@{self.cutoff}'} {_DIRECTION_TITLES[self.direction]}"

    @property
    def key(self) -> str:
        """The name of the metric in records."""
        return self.measure or f"{self.side}_r{self.cutoff}"

    @property
    def side(self) -> Literal["t2i", "i2t"]:
        """The direction of the ranks in records."""
        return "i2t" if self.direction == "i2t" else "t2i"


def load_board_configs(names: Sequence[str] = (), folder: Path = BOARDS) -> list[BoardConfig]:
    """Return the boards of the given names, all by default. Raises HarnessError for an unknown name or an invalid file."""
    files = {path.stem: path for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}
    for name in names:
        if name not in files:
            raise HarnessError(f"there is no board {name!r}: {nearest(name, files)}")
    return [read_board_config(files[name]) for name in names or files]


def read_board_config(path: Path) -> BoardConfig:
    """Read the file of a board, which has the file's name. Raises HarnessError naming the file and the first invalid entry."""
    try:
        return BoardConfig.model_validate({"name": path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))})
    except (OSError, ValueError, RecursionError) as error:
        raise HarnessError(f"{path} is not a valid board: {short_message(error)}") from None
