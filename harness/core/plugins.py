"""Plug-ins: loading of files, attribution of errors, and fingerprints of code and weights."""

from __future__ import annotations

import importlib.util
import inspect
import operator
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.core.digests import digest_file, digest_strings
from harness.core.error_messages import one_line_message
from harness.core.errors import HarnessError

BROKEN_FILES: dict[str, str] = {}
"""Errors of plug-in files that could not be loaded. `list` and messages on unknown names show them."""
REQUESTED_FILES: list[Path] = []
"""Requested plug-in files, in order. Worker processes load them too."""
PLUGIN_MODULES: set[str] = set()
"""Names of the modules and packages that are plug-ins."""


def load_plugins(paths: Iterable[Path]) -> list[str]:
    """Load plug-in files, each once. Return the errors of those that cannot be loaded, and add them to `BROKEN_FILES`."""
    told = []
    for path in paths:
        if (place := path.expanduser().resolve()) not in REQUESTED_FILES:
            REQUESTED_FILES.append(place)
        try:
            load_file(path)
        except HarnessError as error:
            BROKEN_FILES[str(path)] = str(error)
            told.append(str(error))
    return told


def load_file(path: Path) -> ModuleType:
    """Run a file as a module whose name is its path, so that `__module__` of its definitions names the file.

    Raises HarnessError naming file and line if the file does not exist or raises.
    """
    place = path.expanduser().resolve()
    if str(place) in sys.modules:
        return sys.modules[str(place)]
    if not place.is_file():
        raise HarnessError(f"the plug-in {path} does not exist: expected a Python file, or FILE.py:NAME for one attribute of it")
    spec = importlib.util.spec_from_file_location(str(place), place)
    if spec is None or spec.loader is None:
        raise HarnessError(f"the plug-in {path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[str(place)] = module
    PLUGIN_MODULES.add(str(place))
    try:
        with one_line_errors(f"the plug-in {path} cannot be loaded", place):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[str(place)]
        raise
    return module


def load_attribute(path: Path, name: str) -> Any:
    """Return an attribute of a plug-in file. Raises HarnessError as `load_file` does, and if the file does not define it."""
    module = load_file(path)
    if not hasattr(module, name):
        public = ", ".join(key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
        raise HarnessError(f"the plug-in {path} defines no {name}: it has {public or 'nothing of its own'}")
    return getattr(module, name)


@contextmanager
def one_line_errors(what: str, file: Path | str | None = None) -> Iterator[None]:
    """Turn every exception of a plug-in into a HarnessError that begins with `what`, except for Ctrl-C and HarnessError.

    `sys.exit()` and panics of Rust extensions do not derive from `Exception`; they are turned too.
    """
    try:
        yield
    except (HarnessError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise HarnessError(f"{what}: {one_line_message(error, file)}") from error


def plugin_at_fault(error: BaseException) -> str | None:
    """Return the plug-in whose code ran last before an error, or None."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    guests = (name if name in PLUGIN_MODULES else name.partition(".")[0] for name in reversed(names))
    return next((name for name in guests if name in PLUGIN_MODULES), None)


def origin_of(thing: object) -> str:
    """Return where something is defined: its module, or a plug-in's file, and its name."""
    module = getattr(thing, "__module__", None) or type(thing).__module__
    return f"{module}:{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def fingerprint(*parts: str | float | Path | Callable[..., object] | None) -> str:
    """Return a digest for `Encoder.fingerprint` of everything that determines an embedding.

    A `Path` contributes a file's bytes, or the names and bytes of a folder's files. A class or function contributes its qualified
    name and the file that defines it. Strings and numbers (a precision, an image size) contribute themselves.

    Raises HarnessError for a missing path, and for code that is in no file.

    >>> fingerprint("float32", 224) == fingerprint("float32", 224), fingerprint("a", "bc") == fingerprint("ab", "c")
    (True, False)
    """
    words: list[str] = []
    for part in parts:
        if isinstance(part, Path):
            words += ["path", *_contents(part)]
        elif part is None or isinstance(part, str | int | float):
            words += [type(part).__name__, str(part)]
        else:
            words += ["code", digest_file(_source_file(part)), getattr(part, "__qualname__", "")]
    return digest_strings(words)


def code_digest(thing: Callable[..., object]) -> str:
    """Return a digest of the file that defines a class or function. Raises HarnessError as `fingerprint` does."""
    return digest_strings(["code", digest_file(_source_file(thing))])


def identity(thing: object, name: str) -> tuple[str, str]:
    """Return what identifies a plug-in's class, function or object: its module and its qualified name.

    `name` replaces the qualified name of what is no attribute of its module: a lambda, a partial, or a function that another
    function or a loop creates.
    """
    module, qualified = getattr(thing, "__module__", None) or "", getattr(thing, "__qualname__", "")
    try:
        known = operator.attrgetter(qualified)(sys.modules[module]) is thing
    except (AttributeError, KeyError, TypeError):
        known = False
    return _code_of(module), qualified if known else name


def _code_of(module: str) -> str:
    """Return a module's name; for plug-in files and the main program, a digest of the contents instead."""
    # Worker processes name the main program `__mp_main__`.
    program = module in ("__main__", "__mp_main__")
    file = getattr(sys.modules.get(module), "__file__", None) if program else module if module in PLUGIN_MODULES else None
    if file and Path(file).is_absolute() and Path(file).is_file():
        return digest_file(Path(file))
    return "__main__" if program else module


@dataclass(frozen=True, eq=False)
class PluginFingerprint:
    """The method `fingerprint` of a plug-in's object, as the engine calls it.

    It combines the object's own fingerprint with its name and with `made`, the identity of what created it. Two classes therefore
    never have the same fingerprint, whatever they return themselves. own: the object's own method.
    """

    thing: Any
    own: Callable[[], str]
    made: tuple[str, ...]
    spec: str

    def __call__(self) -> str:
        """Return the digest. Raises HarnessError if the object's own method raises or returns no string."""
        with one_line_errors(f"the fingerprint of {self.spec} cannot be had", type(self.thing).__module__):
            own, name = self.own(), str(self.thing.name)
        if not isinstance(own, str) or not own:
            raise HarnessError(f"the fingerprint of {self.spec} is {own!r}: expected a text (docs/plugins.md)")
        return digest_strings(["plug-in 1", own, name, *self.made])


def attach_identity(thing: Any, made: Iterable[str], spec: str) -> None:
    """Add what created an object to its fingerprint. Raises HarnessError for an object that takes no attributes."""
    own = thing.fingerprint.own if isinstance(thing.fingerprint, PluginFingerprint) else thing.fingerprint
    kind = type(thing)
    told = PluginFingerprint(thing, own, (*made, *identity(kind, kind.__qualname__)), spec)
    try:
        object.__setattr__(thing, "fingerprint", told)
    except (AttributeError, TypeError):
        raise HarnessError(f"{spec} is a {kind.__qualname__}, which takes no attributes: leave out its __slots__") from None


def own_fingerprint(thing: Any) -> Any:
    """Return what an object's own method returns as fingerprint, of any type."""
    return thing.fingerprint.own() if isinstance(thing.fingerprint, PluginFingerprint) else thing.fingerprint()


def _contents(path: Path) -> list[str]:
    if path.is_file():
        return [digest_file(path)]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise HarnessError(f"{path} cannot be fingerprinted: there is no such file, and no folder that holds any")
    return [word for file in files for word in (file.relative_to(path).as_posix(), digest_file(file))]


def _source_file(thing: Callable[..., object]) -> Path:
    try:
        file = inspect.getsourcefile(thing)
    except TypeError:
        file = None
    if file is None or not Path(file).is_file():
        raise HarnessError(f"{origin_of(thing)} cannot be fingerprinted: put its code into a file")
    return Path(file)


def unnamed_code(spec: str) -> str | None:
    """The Python file that a spec names and that the user did not name with --plugin; None where there is none.

    >>> unnamed_code("fast:./mine.py:Mine"), unnamed_code("ot-token + 0.5*kd-mse")
    ('./mine.py', None)
    """
    files = [file.strip() for file in re.findall(r"[^:+*,]*\.py(?=:|$)", spec)]
    return next((file for file in files if str(Path(file).expanduser().resolve()) not in sys.modules), None)


def without_code(spec: str, source: object) -> str:
    """A spec out of a file of somebody else, which may not make this program run code.

    Raises HarnessError if it names a Python file that the user did not name with --plugin.
    """
    if file := unnamed_code(spec):
        raise HarnessError(f"{source} names code, {file[:200]}: if you trust it, name it yourself with --plugin {file[:200]}")
    return spec
