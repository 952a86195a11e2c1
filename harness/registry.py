"""Names to things: built-ins are strings, imported when asked for, so that listing them costs nothing."""

from __future__ import annotations

import difflib
import functools
import importlib
import math
import operator
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
        "kd-cosine": "harness.distill.objectives:kd_cosine",
        "kd-contrastive": "harness.distill.objectives:kd_contrastive",
        "kd-relation": "harness.distill.objectives:kd_relation",
        "ot-token": "harness.distill.objectives:ot_token",
        "ot-batch": "harness.distill.objectives:ot_batch",
        "ot-unbalanced": "harness.distill.objectives:ot_unbalanced",
    },
)

UNTRAINED = "none"


def parse_objective(text: str) -> list[tuple[float, str]]:
    """Weights and names of an objective `NAME`, or of a sum `NAME + 0.5*NAME + ...`; nothing for `none`, no training at all.

    Raises HarnessError for what is neither, for a weight that is not a positive number, and for an unknown name.

    >>> parse_objective("ot-token + 0.5*kd-mse")
    [(1.0, 'ot-token'), (0.5, 'kd-mse')]
    """
    if text.strip() == UNTRAINED:
        return []
    terms = []
    for term in text.split("+"):
        weight, star, name = term.rpartition("*")
        name = name.strip()
        if not name or "*" in weight:
            raise HarnessError(f"objective {text!r}: each term is NAME or WEIGHT*NAME, as in 'ot-token + 0.5*kd-mse'")
        OBJECTIVES.origin(name)
        terms.append((positive(weight.strip(), text) if star else 1.0, name))
    names = [name for _, name in terms]
    if len(set(names)) < len(names):
        raise HarnessError(f"objective {text!r} names one objective twice: give it one weight")
    return terms


def positive(weight: str, text: str) -> float:
    """A weight of an objective. Raises HarnessError unless it is a finite number above 0."""
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise HarnessError(f"objective {text!r}: the weight {weight!r} is not a positive number, as in '0.5*kd-mse'")
    return value


def spell_objective(text: str) -> str:
    """The one spelling of an objective, so that spaces and zeros make no other tower. Raises HarnessError as `parse_objective`.

    >>> spell_objective("ot-token+0.50*kd-mse")
    'ot-token + 0.5*kd-mse'
    """
    if not parse_objective(text):
        return UNTRAINED
    return " + ".join(name if weight == 1 else f"{weight!r}*{name}".replace("e+", "e") for weight, name in parse_objective(text))


def load_objective(text: str) -> Objective:
    """The loss that an objective, or a sum of them, names. Raises HarnessError as `parse_objective` does."""
    terms = [(weight, OBJECTIVES.load(name)) for weight, name in parse_objective(text)]
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]

    def weighted(student: Encoded, teacher: Encoded, config: DistillConfig) -> Tensor:
        losses = [weight * objective(student, teacher, config) for weight, objective in terms]
        return functools.reduce(operator.add, losses)

    return weighted
