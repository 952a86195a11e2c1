"""Reader of the JSON lines of xFlickr&CO: captions and their machine translations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.core.error_messages import short_message
from harness.core.errors import HarnessError
from harness.readers.text_files import read_lines


class XFlickrLine(BaseModel):
    """A line of xFlickr&CO. Ids of Flickr30k images are strings, and ids of COCO images are numbers."""

    model_config = ConfigDict(strict=True)

    sentences: list[str] = Field(min_length=1)
    id: str | int


def read_xflickr_lines(path: Path) -> Iterator[XFlickrLine]:
    """Yield every line of a file of xFlickr&CO. Raises HarnessError naming the line that has another form."""
    for number, line in enumerate(read_lines(path), start=1):
        try:
            yield XFlickrLine.model_validate_json(line)
        except ValidationError as error:
            form = '{"sentences": [...], "id": ...}'
            raise HarnessError(f"{path}, line {number:,}: expected {form}: {short_message(error)}") from None
