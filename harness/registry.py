"""Names to things: built-ins are strings, imported when asked for, so that listing them costs nothing."""

from __future__ import annotations

import difflib
import functools
import importlib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from harness.api import (
    Bitext,
    Encoder,
    HarnessError,
    HeldOut,
    Language,
    Retrieval,
    Spans,
    Task,
    TextEncoder,
    Translated,
    Translator,
)
from harness.plugins import BROKEN, GUESTS, code_digest, identify, identity, in_one_line, load_attribute, origin_of

if TYPE_CHECKING:
    from torch import Tensor

    from harness.config import DistillConfig, RunConfig
    from harness.distill.tower import Encoded, StartingModel
    from harness.executors.jobs import Executor
    from harness.scorers import Maker

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


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One thing by name. origin: where it comes from, for people. load: import it and hand it over.

    builtin: its `module:attribute` if it comes with the harness, else "".
    """

    origin: str
    load: Callable[[], T]
    builtin: str = ""


class Registry(Generic[T]):
    """Entries of one kind by name: built-ins, given as `module:attribute`; what installed packages offer in the entry point
    group `group`; what `register` was given; and, by the name `FILE.py:NAME`, anything of a file.
    """

    def __init__(self, kind: str, builtins: Mapping[str, str], group: str = "") -> None:
        self.kind = kind
        self.group = group
        self._own = {name: [builtin(target)] for name, target in builtins.items()}

    @functools.cached_property
    def _entries(self) -> dict[str, list[Entry[T]]]:
        """All entries. Packages are asked at the first look-up, which takes 20 ms, and imported only when one is used."""
        from importlib.metadata import entry_points

        entries: dict[str, list[Entry[T]]] = self._own
        for point in entry_points(group=self.group) if self.group else ():
            package = f"package {point.dist.name} {point.dist.version}" if point.dist else "a package"
            GUESTS.add(re.split(r"[.:]", point.value)[0])
            entries.setdefault(point.name, []).append(Entry(f"{package} ({point.value})", point.load))
        return entries

    def register(self, name: str, thing: T) -> None:
        """Add an entry. The same thing from the same place replaces itself, as a notebook's cell does when it is run again.

        Raises HarnessError for a name that could not be typed, and for one that something else has, naming both.
        """
        if not re.fullmatch(r"\w[\w.-]*", name) or name.endswith(".py"):
            raise HarnessError(f"{name!r} cannot name a plug-in {self.kind}: use letters, digits, '-', '_' and '.'")
        entry = Entry(origin_of(thing), lambda: thing)
        others = [other for other in self._own.get(name, []) if other.origin != entry.origin]
        if others:
            raise self._clash(name, [*others, entry])
        self._own[name] = [entry]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def origin(self, name: str) -> str:
        """Where an entry comes from.

        Raises HarnessError for an unknown name, with the nearest ones, and for one that two sources have.
        """
        return self.find(name).origin

    def find(self, name: str) -> Entry[T]:
        """The entry of a name. Raises HarnessError as `origin` does."""
        file, _, attribute = name.rpartition(":")
        if name.endswith(".py"):
            raise HarnessError(f"{name} is a file: name the {self.kind} in it, as {name}:NAME")
        if file.endswith(".py"):
            return Entry(name, lambda: cast(T, load_attribute(Path(file), attribute)))
        found = self._entries.get(name)
        if found is None:
            broken = "".join(f"; {error}" for error in BROKEN.values())
            raise HarnessError(f"no {self.kind} is called {name!r}: {nearest(name, self._entries)}{broken}")
        if len(found) > 1:
            raise self._clash(name, found)
        return found[0]

    def load(self, name: str) -> T:
        """Import an entry. Raises HarnessError as `origin` does, and if a plug-in cannot be imported."""
        entry = self.find(name)
        if entry.builtin:
            return entry.load()
        with in_one_line(f"the {self.kind} {name} of {entry.origin} cannot be loaded"):
            return entry.load()

    def identity(self, name: str) -> tuple[str, ...]:
        """What sets an entry of others apart from every other; nothing for a built-in one, whose own digest says enough.

        Raises HarnessError as `load` does.
        """
        if self.find(name).builtin:
            return ()
        return identity(self.load(name), name.rpartition(":")[2])

    def _clash(self, name: str, entries: Iterable[Entry[T]]) -> HarnessError:
        places = " and of ".join(entry.origin for entry in entries)
        return HarnessError(f"two {self.kind}s are called {name!r}, of {places}: rename one, or take one away")


def builtin(target: str) -> Entry[Any]:
    """The entry of a built-in, `module:attribute`."""

    def load() -> Any:
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    return Entry(f"built in ({target})", load, target)


TASKS: Registry[Callable[[], Task]] = Registry(
    "task",
    {
        "flickr30k": "harness.tasks.flickr30k:Flickr30k",
        "xtd": "harness.tasks.transfer:xtd",
        "crossmodal3600": "harness.tasks.transfer:crossmodal3600",
        "flickr30k-entities": "harness.tasks.grounding:Flickr30kEntities",
        "flickr30k-clir": "harness.tasks.cross_lingual:Flickr30kClir",
        "clir": "harness.tasks.beir:Clir",
    },
    group="harness.tasks",
)

ENCODERS: Registry[Callable[[str, str], Encoder]] = Registry(
    "encoder",
    {
        "sample": "harness.encoders.open_clip:sample",
        "open_clip": "harness.encoders.open_clip:open_clip_tag",
        "hf-hub": "harness.encoders.open_clip:hf_hub",
        "local-dir": "harness.encoders.open_clip:local_dir",
        "fast": "harness.encoders.variants:fast",
        "bfloat16": "harness.encoders.variants:bfloat16",
        "hf": "harness.encoders.hugging_face:hugging_face",
        "text": "harness.encoders.beside:beside",
        "features": "harness.encoders.features:Features",
        "pixels": "harness.encoders.pixels:Pixels",
        "random": "harness.encoders.random:Random",
    },
    group="harness.encoders",
)


def parted(spec: str) -> tuple[str, str]:
    """Name and argument of a spec; the argument is empty if there is none.

    >>> parted("open_clip:ViT-B-32/openai"), parted("./mine.py:Mine:7"), parted("sample")
    (('open_clip', 'ViT-B-32/openai'), ('./mine.py:Mine', '7'), ('sample', ''))
    """
    name, _, argument = spec.partition(":")
    if name.endswith(".py") and argument:
        attribute, _, argument = argument.partition(":")
        name = f"{name}:{attribute}"
    return name, argument


def made(registry: Registry[Callable[[str, str], T]], spec: str, device: str, members: Iterable[str]) -> T:
    """What the entry that a spec names makes of its argument.

    Raises HarnessError if that lacks a member, and if code of others raises anything. The fingerprint of what is not built in
    says what made it too.
    """
    name, argument = parted(spec)
    make = registry.load(name)
    if registry.find(name).builtin:
        return make(argument, device)
    with in_one_line(f"the {registry.kind} {spec} cannot be made", getattr(make, "__module__", None)):
        thing = make(argument, device)
        lacking = [word for word in members if not hasattr(thing, word)]
    if lacking:
        raise HarnessError(f"{spec} is no {registry.kind}: {registry.origin(name)} lacks {', '.join(lacking)} (docs/plugins.md)")
    identify(thing, (*registry.identity(name), argument), spec)
    return thing


def load_encoder(spec: str, device: str) -> Encoder:
    """The encoder that `NAME`, `NAME:ARGUMENT`, `FILE.py:NAME` or `FILE.py:NAME:ARGUMENT` names, its model not loaded yet.

    Raises HarnessError for an unknown name, and for a plug-in that is no encoder.
    """
    return made(ENCODERS, spec, device, ("name", "encode_images", "encode_texts", "fingerprint"))


TRANSLATORS: Registry[Callable[[str, str], Translator]] = Registry(
    "translator", {"hf": "harness.encoders.translating:hugging_face"}, group="harness.translators"
)


def load_translator(spec: str, device: str) -> Translator:
    """The translator that `NAME`, `NAME:ARGUMENT`, `FILE.py:NAME` or `FILE.py:NAME:ARGUMENT` names, its model not loaded yet.

    Raises HarnessError for an unknown name, and for a plug-in that is no translator.
    """
    return made(TRANSLATORS, spec, device, ("name", "translate", "fingerprint"))


TRANSLATION_READERS: Registry[Callable[[Path, Retrieval], Translated]] = Registry(
    "translation reader", {"file": "harness.tasks.translations:read_translations"}
)

TOWERS: Registry[Callable[[Path, str], TextEncoder]] = Registry(
    "text tower", {"distilled": "harness.encoders.distilled:DistilledTower"}
)

BITEXT_READERS: Registry[Callable[[Path, Language, HeldOut], Bitext]] = Registry(
    "bitext reader", {"file": "harness.tasks.bitext:load_bitext_file"}
)

TEXT_READERS: Registry[Callable[[Path, Language], tuple[Sequence[str], Sequence[str]]]] = Registry(
    "text reader", {"folder": "harness.tasks.bitext:load_texts"}
)

SCORERS: Registry[Callable[[RunConfig, Task, Path], Maker]] = Registry(
    "scorer",
    {"plain": "harness.scorers:plain", "entities": "harness.scorers:entities", "maxsim": "harness.scorers:maxsim"},
)

Chunker: TypeAlias = "Callable[[Sequence[str], Language], Sequence[Spans]]"

CHUNKERS: Registry[Callable[[str], Chunker]] = Registry(
    "phrase chunker",
    {"simple": "harness.tasks.chunking:simple", "spacy": "harness.tasks.chunking:spacy"},
    group="harness.chunkers",
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
        "ot-entity": "harness.distill.objectives:ot_entity",
        "ot-batch": "harness.distill.objectives:ot_batch",
        "ot-unbalanced": "harness.distill.objectives:ot_unbalanced",
    },
    group="harness.objectives",
)

STARTS: Registry[Callable[[str], StartingModel]] = Registry("start", {"hf": "harness.encoders.starts:HuggingFaceStart"})


def starting_model(init: str) -> StartingModel | None:
    """The model that the student's start `NAME:ARGUMENT` names; None where it starts from the teacher, or from scratch."""
    name, colon, argument = init.partition(":")
    return STARTS.load(name)(argument) if colon else None


EXPORTS: Registry[Callable[[Path, Encoder, Path, str | None], None]] = Registry(
    "export", {"open_clip": "harness.encoders.export:write_open_clip"}
)

PAGES: Registry[Callable[..., Any]] = Registry(
    "page",
    {
        "leaderboard": "harness.leaderboards.publish:publish",
        "results": "harness.leaderboards.publish:own_results",
        "submission": "harness.leaderboards.submission:submit",
        "browser": "harness.leaderboards.browser:browse",
        "transport": "harness.leaderboards.transport:show",
        "study": "harness.leaderboards.study_page:publish_study",
    },
)


EXECUTORS: Registry[Executor] = Registry(
    "executor", {"local": "harness.executors.local:local", "ray": "harness.executors.ray:on_ray"}, group="harness.executors"
)


def register_encoder(name: str, make: Callable[[str, str], Encoder]) -> None:
    """Add an encoder: `make(argument, device)` is called for `--encoder NAME:ARGUMENT`; a class will do.

    Raises HarnessError for a name that something else has, naming both.
    """
    ENCODERS.register(name, make)


def register_task(name: str, make: Callable[[], Task]) -> None:
    """Add a task: `make()` is called for `--task NAME`. Raises HarnessError as `register_encoder` does."""
    TASKS.register(name, make)


def register_translator(name: str, make: Callable[[str, str], Translator]) -> None:
    """Add a translator: `make(argument, device)` is called for `--translator NAME:ARGUMENT`; a class will do.

    Raises HarnessError as `register_encoder` does.
    """
    TRANSLATORS.register(name, make)


def register_objective(name: str, loss: Objective) -> None:
    """Add a distillation objective, `loss(student, teacher, config)`. Raises HarnessError as `register_encoder` does."""
    OBJECTIVES.register(name, loss)


def register_chunker(name: str, make: Callable[[str], Chunker]) -> None:
    """Add a phrase chunker: `make(argument)` is called for `--chunker NAME:ARGUMENT`, and gives `chunk(texts, language)`.

    Raises HarnessError as `register_encoder` does.
    """
    CHUNKERS.register(name, make)


def register_executor(name: str, make: Executor) -> None:
    """Add an executor: `make(choices, store, console)` is called for `--executor NAME`.

    Raises HarnessError as `register_encoder` does.
    """
    EXECUTORS.register(name, make)


UNTRAINED, FITTED = "none", "ridge"
STEPLESS = (UNTRAINED, FITTED)
"""Objectives without a step of training: the student as it starts, and with its projection fitted in closed form."""


def parse_objective(text: str) -> list[tuple[float, str]]:
    """Weights and names of an objective `NAME`, or of a sum `NAME + 0.5*NAME + ...`; nothing for `none` and `ridge`.

    Raises HarnessError for what is neither, for a weight that is not a positive number, and for an unknown name.

    >>> parse_objective("ot-token + 0.5*kd-mse")
    [(1.0, 'ot-token'), (0.5, 'kd-mse')]
    """
    if text.strip() in STEPLESS:
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
        return text.strip()
    return " + ".join(name if weight == 1 else f"{weight!r}*{name}".replace("e+", "e") for weight, name in parse_objective(text))


def objective_sources(text: str) -> list[str]:
    """Digests of the code of an objective's plug-in terms: the same name with other code makes another tower."""
    names = [name for _, name in parse_objective(text)]
    return [code_digest(OBJECTIVES.load(name)) for name in names if not OBJECTIVES.find(name).builtin]


def reads_entities(text: str) -> bool:
    """Whether an objective, or a term of a sum, needs to know which tokens name something (`Encoded.entities`).

    `ot-entity` does, and a plug-in whose function has the attribute `reads_entities = True`.
    """
    entries = [(name, OBJECTIVES.find(name)) for _, name in parse_objective(text)]
    return any(
        name == "ot-entity" if entry.builtin else getattr(OBJECTIVES.load(name), "reads_entities", False)
        for name, entry in entries
    )


def load_objective(text: str) -> Objective:
    """The loss that an objective, or a sum of them, names. Raises HarnessError as `parse_objective` does."""
    terms = [(weight, OBJECTIVES.load(name)) for weight, name in parse_objective(text)]
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]

    def weighted(student: Encoded, teacher: Encoded, config: DistillConfig) -> Tensor:
        losses = [weight * objective(student, teacher, config) for weight, objective in terms]
        return functools.reduce(operator.add, losses)

    return weighted
