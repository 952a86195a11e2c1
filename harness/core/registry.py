"""Plug-in registries: built-in entries and plug-ins by name, imported when they are used."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from harness.core.errors import HarnessError
from harness.core.plugins import (
    BROKEN_FILES,
    PLUGIN_MODULES,
    attach_identity,
    identity,
    load_attribute,
    one_line_errors,
    origin_of,
)
from harness.core.suggestions import nearest

T = TypeVar("T")


@dataclass(frozen=True)
class RegistryEntry(Generic[T]):
    """An entry of a registry. origin: where it comes from, for messages. load: import and return it.

    builtin: its `module:attribute` if it comes with the harness, else "". reads: the options that a built-in declares to read.
    needs: what a built-in initializer takes from the teacher: `layers`, `tokenizer`, `states`, `spans`.
    """

    origin: str
    load: Callable[[], T]
    builtin: str = ""
    reads: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


class Registry(Generic[T]):
    """Entries of one kind by name.

    Entries are built-ins, given as `module:attribute`; the entry points of installed packages in the group `group`; what
    `register` received; and any attribute of a Python file, by the name `FILE.py:NAME`.
    """

    def __init__(self, kind: str, builtins: Mapping[str, str | RegistryEntry[T]], group: str = "") -> None:
        self.kind = kind
        self.group = group
        self._own = {name: [builtin_entry(target) if isinstance(target, str) else target] for name, target in builtins.items()}

    @functools.cached_property
    def _entries(self) -> dict[str, list[RegistryEntry[T]]]:
        """All entries. Entry points are read at the first look-up, in 20 ms. Packages are imported when an entry is used."""
        from importlib.metadata import entry_points

        entries: dict[str, list[RegistryEntry[T]]] = self._own
        for point in entry_points(group=self.group) if self.group else ():
            package = f"package {point.dist.name} {point.dist.version}" if point.dist else "a package"
            PLUGIN_MODULES.add(re.split(r"[.:]", point.value)[0])
            entries.setdefault(point.name, []).append(RegistryEntry(f"{package} ({point.value})", point.load))
        return entries

    def register(self, name: str, thing: T) -> None:
        """Add an entry. An entry of the same origin is replaced, as when a notebook cell runs again.

        Raises HarnessError for an invalid name, and for the name of another entry, naming both.
        """
        if not re.fullmatch(r"\w[\w.-]*", name) or name.endswith(".py"):
            raise HarnessError(f"{name!r} cannot name a plug-in {self.kind}: use letters, digits, '-', '_' and '.'")
        entry = RegistryEntry(origin_of(thing), lambda: thing)
        others = [other for other in self._own.get(name, []) if other.origin != entry.origin]
        if others:
            raise self._clash(name, [*others, entry])
        self._own[name] = [entry]

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._entries)

    def builtin_names(self) -> list[str]:
        """Return the names of the built-in entries, in the order of their table."""
        return [name for name, entries in self._own.items() if entries[0].builtin]

    def origin(self, name: str) -> str:
        """Return where an entry comes from.

        Raises HarnessError for an unknown name, with the nearest ones, and for a name that two entries have.
        """
        return self.find(name).origin

    def find(self, name: str) -> RegistryEntry[T]:
        """Return the entry of a name. Raises HarnessError as `origin` does."""
        file, _, attribute = name.rpartition(":")
        if name.endswith(".py"):
            raise HarnessError(f"{name} is a file: name the {self.kind} in it, as {name}:NAME")
        if file.endswith(".py"):
            return RegistryEntry(name, lambda: cast(T, load_attribute(Path(file), attribute)))
        found = self._entries.get(name)
        if found is None:
            broken = "".join(f"; {error}" for error in BROKEN_FILES.values())
            raise HarnessError(f"no {self.kind} is called {name!r}: {nearest(name, self._entries)}{broken}")
        if len(found) > 1:
            raise self._clash(name, found)
        return found[0]

    def load(self, name: str) -> T:
        """Import an entry. Raises HarnessError as `origin` does, and if a plug-in cannot be imported."""
        entry = self.find(name)
        if entry.builtin:
            return entry.load()
        with one_line_errors(f"the {self.kind} {name} of {entry.origin} cannot be loaded"):
            return entry.load()

    def declared_reads(self, name: str) -> tuple[str, ...] | None:
        """Return the options that an entry declares to read: of a plug-in its attribute `reads`, None where it has none.

        Raises HarnessError as `load` does, and if the attribute is no list of names.
        """
        entry = self.find(name)
        if entry.builtin:
            return entry.reads
        reads = getattr(self.load(name), "reads", None)
        if reads is None:
            return None
        if isinstance(reads, str) or not (isinstance(reads, Iterable) and all(isinstance(word, str) for word in reads)):
            raise HarnessError(f"{self.kind} {name}: reads is {reads!r}; expected names of options, as reads = ('eps',)")
        return tuple(reads)

    def identity(self, name: str) -> tuple[str, ...]:
        """Return what distinguishes a plug-in's entry from every other; () for a built-in entry, whose own digest suffices.

        Raises HarnessError as `load` does.
        """
        if self.find(name).builtin:
            return ()
        return identity(self.load(name), name.rpartition(":")[2])

    def _clash(self, name: str, entries: Iterable[RegistryEntry[T]]) -> HarnessError:
        places = " and of ".join(entry.origin for entry in entries)
        return HarnessError(f"two {self.kind}s are called {name!r}, of {places}: rename one, or take one away")


def builtin_entry(target: str, reads: tuple[str, ...] = (), needs: tuple[str, ...] = ()) -> RegistryEntry[Any]:
    """Return the entry of a built-in, `module:attribute`. reads, needs: as in `RegistryEntry`, known without importing it."""

    def load() -> Any:
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    return RegistryEntry(f"built in ({target})", load, target, reads, needs)


def split_spec(spec: str) -> tuple[str, str]:
    """Split a spec into name and argument; the argument may be empty.

    >>> split_spec("open_clip:ViT-B-32/openai"), split_spec("./mine.py:Mine:7"), split_spec("sample")
    (('open_clip', 'ViT-B-32/openai'), ('./mine.py:Mine', '7'), ('sample', ''))
    """
    name, _, argument = spec.partition(":")
    if name.endswith(".py") and argument:
        attribute, _, argument = argument.partition(":")
        name = f"{name}:{attribute}"
    return name, argument


def make_plug_in(registry: Registry[Callable[..., T]], spec: str, members: Iterable[str], *more: object) -> T:
    """Call the entry that a spec names with the spec's argument and `more`, and return the result.

    Raises HarnessError if the result of a plug-in lacks a member, and for any exception of a plug-in.
    """
    name, argument = split_spec(spec)
    make = registry.load(name)
    if registry.find(name).builtin:
        return make(argument, *more)
    with one_line_errors(f"the {registry.kind} {spec} cannot be made", getattr(make, "__module__", None)):
        return check_members(registry, spec, make(argument, *more), members)


def check_members(registry: Registry[Any], spec: str, thing: T, members: Iterable[str]) -> T:
    """Return what the entry of a spec made. Raises HarnessError if it lacks a member."""
    lacking = [word for word in members if not hasattr(thing, word)]
    if lacking:
        origin = registry.origin(split_spec(spec)[0])
        raise HarnessError(f"{spec} is no {registry.kind}: {origin} lacks {', '.join(lacking)} (docs/plugins.md)")
    return thing


def make_identified(registry: Registry[Callable[[str, str], T]], spec: str, device: str, members: Iterable[str]) -> T:
    """Return `make_plug_in` of a spec and a device. A plug-in's fingerprint includes its code and its argument.

    Raises HarnessError as `make_plug_in` does.
    """
    thing = make_plug_in(registry, spec, members, device)
    name, argument = split_spec(spec)
    if not registry.find(name).builtin:
        attach_identity(thing, (*registry.identity(name), argument), spec)
    return thing
