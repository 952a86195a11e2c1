"""Plug-in files: how they are loaded, which of them are broken, and a fingerprint of code and weights."""

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
"""Plug-in files that could not be loaded, and why: shown by `list` and beside an unknown name."""
REQUESTED_FILES: list[Path] = []
"""Plug-in files that were asked for, in order: another process has to load them too."""
PLUGIN_MODULES: set[str] = set()
"""Modules and packages that are plug-ins, by name."""


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
    """Run a file as a module whose name is its path, so that everything it defines says where it is from.

    Raises HarnessError naming file and line if there is no such file or if it raises.
    """
    place = path.expanduser().resolve()
    if str(place) in sys.modules:
        return sys.modules[str(place)]
    if not place.is_file():
        raise HarnessError(f"the plug-in {path} is not there: expected a Python file, or FILE.py:NAME for one thing of it")
    spec = importlib.util.spec_from_file_location(str(place), place)
    if spec is None or spec.loader is None:
        raise HarnessError(f"the plug-in {path} is no Python file: its name must end in .py")
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
    """One thing of a plug-in file. Raises HarnessError as `load_file` does, and if the file does not define it."""
    module = load_file(path)
    if not hasattr(module, name):
        public = ", ".join(key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
        raise HarnessError(f"the plug-in {path} defines no {name}: it has {public or 'nothing of its own'}")
    return getattr(module, name)


@contextmanager
def one_line_errors(what: str, file: Path | str | None = None) -> Iterator[None]:
    """Turn whatever code of others raises into a HarnessError that begins with `what`; Ctrl-C and HarnessError pass.

    `sys.exit()` and a panic of a Rust extension are no `Exception`, and must not end the program either.
    """
    try:
        yield
    except (HarnessError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise HarnessError(f"{what}: {one_line_message(error, file)}") from error


def plugin_at_fault(error: BaseException) -> str | None:
    """The plug-in that an error comes from: the last one whose code was running. None if none was."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    guests = (name if name in PLUGIN_MODULES else name.partition(".")[0] for name in reversed(names))
    return next((name for name in guests if name in PLUGIN_MODULES), None)


def origin_of(thing: object) -> str:
    """Where something is defined: module, or file of a plug-in, and name."""
    module = getattr(thing, "__module__", None) or type(thing).__module__
    return f"{module}:{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def fingerprint(*parts: str | float | Path | Callable[..., object] | None) -> str:
    """A digest for `Encoder.fingerprint`, of everything that decides an embedding.

    A `Path` stands for what lies there: a file's bytes, or a folder's files and their names within it. A class or function stands
    for its qualified name and the file that defines it. Text and numbers (a precision, an image size) stand for themselves.

    Raises HarnessError for a path that is not there, and for code that no file holds.

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
    """A digest of the file that defines a class or function. Raises HarnessError as `fingerprint` does."""
    return digest_strings(["code", digest_file(_source_file(thing))])


def identity(thing: object, name: str) -> tuple[str, str]:
    """What sets a class, function or object of others apart: where it is defined, and its qualified name.

    `name` stands for what its module does not hold under a name of its own: a lambda, a partial, or a function that another
    function or a loop has made.
    """
    module, qualified = getattr(thing, "__module__", None) or "", getattr(thing, "__qualname__", "")
    try:
        known = operator.attrgetter(qualified)(sys.modules[module]) is thing
    except (AttributeError, KeyError, TypeError):
        known = False
    return _code_of(module), qualified if known else name


def _code_of(module: str) -> str:
    """A module's name; of a plug-in file, and of the program that runs, a digest of the contents, wherever they lie."""
    # A worker process knows the program by the second name.
    program = module in ("__main__", "__mp_main__")
    file = getattr(sys.modules.get(module), "__file__", None) if program else module if module in PLUGIN_MODULES else None
    if file and Path(file).is_absolute() and Path(file).is_file():
        return digest_file(Path(file))
    return "__main__" if program else module


@dataclass(frozen=True, eq=False)
class PluginFingerprint:
    """The method `fingerprint` of an object that code of others made, as the engine asks for it.

    It combines the object's own fingerprint with its name and with `made`, what made it. So two classes are never taken for one,
    whatever they say themselves. own: the object's own method.
    """

    thing: Any
    own: Callable[[], str]
    made: tuple[str, ...]
    spec: str

    def __call__(self) -> str:
        """The digest. Raises HarnessError if the object's own method raises, or gives no text."""
        with one_line_errors(f"the fingerprint of {self.spec} cannot be had", type(self.thing).__module__):
            own, name = self.own(), str(self.thing.name)
        if not isinstance(own, str) or not own:
            raise HarnessError(f"the fingerprint of {self.spec} is {own!r}: expected a text (docs/plugins.md)")
        return digest_strings(["plug-in 1", own, name, *self.made])


def attach_identity(thing: Any, made: Iterable[str], spec: str) -> None:
    """Have an object's fingerprint say what made it. Raises HarnessError for an object that takes no attributes."""
    own = thing.fingerprint.own if isinstance(thing.fingerprint, PluginFingerprint) else thing.fingerprint
    kind = type(thing)
    told = PluginFingerprint(thing, own, (*made, *identity(kind, kind.__qualname__)), spec)
    try:
        object.__setattr__(thing, "fingerprint", told)
    except (AttributeError, TypeError):
        raise HarnessError(f"{spec} is a {kind.__qualname__}, which takes no attributes: leave out its __slots__") from None


def own_fingerprint(thing: Any) -> Any:
    """What an object itself gives as its fingerprint, whatever that is."""
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
