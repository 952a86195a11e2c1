"""Names to things: built-ins are strings, imported when asked for, so that listing them costs nothing."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, cast

from harness.api import Encoder, HarnessError, Task, TextEncoder

if TYPE_CHECKING:
    from torch import Tensor

    from harness.config import DistillConfig
    from harness.distill.tower import Encoded

T = TypeVar("T")


def nearest(word: str, known: Iterable[str]) -> str:
    """A did-you-mean clause, or every known name where none is near.

    >>> nearest("flickr", ["flickr30k", "coco"])
    'did you mean flickr30k?'
    >>> nearest("zzz", ["flickr30k", "coco"])
    'known are coco, flickr30k'
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(names)}"


class Registry(Generic[T]):
    """Entries of one kind by name, each given as `module:attribute`."""

    def __init__(self, kind: str, builtins: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(builtins)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def origin(self, name: str) -> str:
        """Where an entry comes from, as `module:attribute`. Raises HarnessError for an unknown name, with the nearest ones."""
        if name not in self._entries:
            raise HarnessError(f"no {self.kind} is called {name!r}: {nearest(name, self._entries)}")
        return self._entries[name]

    def load(self, name: str) -> T:
        """Import an entry. Raises HarnessError as `origin` does."""
        module, _, attribute = self.origin(name).partition(":")
        return cast(T, getattr(importlib.import_module(module), attribute))


TASKS: Registry[Callable[[], Task]] = Registry("task", {"flickr30k": "harness.tasks.flickr30k:Flickr30k"})

ENCODERS: Registry[Callable[[str, str], Encoder]] = Registry(
    "encoder",
    {
        "sample": "harness.encoders.open_clip:sample",
        "open_clip": "harness.encoders.open_clip:open_clip_tag",
        "hf-hub": "harness.encoders.open_clip:hf_hub",
        "local-dir": "harness.encoders.open_clip:local_dir",
    },
)


def load_encoder(spec: str, device: str) -> Encoder:
    """The encoder that `NAME` or `NAME:ARGUMENT` names, its model not loaded yet."""
    name, _, argument = spec.partition(":")
    return ENCODERS.load(name)(argument, device)


TOWERS: Registry[Callable[[Path, str], TextEncoder]] = Registry(
    "text tower", {"distilled": "harness.encoders.distilled:DistilledTower"}
)

Objective: TypeAlias = "Callable[[Encoded, Encoded, DistillConfig], Tensor]"

OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    {
        "kd-mse": "harness.distill.objectives:kd_mse",
        "ot-token": "harness.distill.objectives:ot_token",
    },
)
