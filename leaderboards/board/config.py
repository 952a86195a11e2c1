"""Boards as they are declared in `boards/*.toml`: what is ranked, where, and by which number."""

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
DIRECTION_TITLES = {"t2i": "text → image", "i2t": "image → text", "texts": "query → English text"}


class BoardConfig(BaseModel):
    """What a board is about. Records of the embedded sample and of real photographs are never on one board."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: Annotated[str, Field(min_length=1)]
    about: str = ""
    task: str
    split: str
    sample: bool
    languages: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = Field(
        None, description="codes of the columns; every language but English that has a record, where there are none"
    )
    direction: Literal["t2i", "i2t", "texts"] = Field(description="texts: of a task whose queries look for texts")
    cutoff: Literal[1, 5, 10] | None = Field(None, description="k of the hit rate R@k")
    measure: str = Field("", description="or a measure of texts found, as nDCG@10")
    groups: Literal["tier", "script", "none"] = Field("tier", description="what columns are grouped by, each with a macro mean")
    breakdown: str | None = Field(None, description="facet of the captions, as entity-type, by which scores are broken down too")

    @model_validator(mode="after")
    def _facets_are_of_captions(self) -> Self:
        if self.breakdown is not None and self.direction != "t2i":
            raise PydanticCustomError("breakdown", 'a breakdown is of captions that look for images: direction = "t2i"')
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
            raise PydanticCustomError("measure", 'a measure is of texts that are looked for: direction = "texts"')
        return self

    @property
    def metric(self) -> str:
        """The number's name for a reader.

        >>> BoardConfig(name="x", title="X", task="t", split="test", sample=True, direction="t2i", cutoff=5).metric
        'R@5 text → image'
        """
        return f"{self.measure or f'R@{self.cutoff}'} {DIRECTION_TITLES[self.direction]}"

    @property
    def key(self) -> str:
        """Under what records keep the number."""
        return self.measure or f"{self.side}_r{self.cutoff}"

    @property
    def side(self) -> Literal["t2i", "i2t"]:
        """The direction under which records keep the ranks."""
        return "i2t" if self.direction == "i2t" else "t2i"


def load_board_configs(names: Sequence[str] = (), folder: Path = BOARDS) -> list[BoardConfig]:
    """The boards of those names, all by default. Raises HarnessError for an unknown name or a file that is no board."""
    files = {path.stem: path for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}
    for name in names:
        if name not in files:
            raise HarnessError(f"no board is called {name!r}: {nearest(name, files)}")
    return [read_board_config(files[name]) for name in names or files]


def read_board_config(path: Path) -> BoardConfig:
    """Read one board's file; its name is the file's. Raises HarnessError naming the file and the first wrong entry."""
    try:
        return BoardConfig.model_validate({"name": path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))})
    except (OSError, ValueError, RecursionError) as error:
        raise HarnessError(f"{path} declares no board: {short_message(error)}") from None
