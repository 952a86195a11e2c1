"""Code of others: files loaded as plug-ins, what of them is broken, and a digest of what decides their embeddings."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.api import HarnessError, digest_strings

BROKEN: dict[str, str] = {}
"""Plug-in files that could not be loaded, and why: shown by `list` and beside an unknown name."""
LOADED: list[Path] = []
"""Plug-in files that were asked for, in order: another process has to load them too."""


def load_plugins(paths: Iterable[Path]) -> list[str]:
    """Load plug-in files, each once. One that cannot be loaded is kept in `BROKEN`, and what is said of it is given back."""
    told = []
    for path in paths:
        if (place := path.expanduser().resolve()) not in LOADED:
            LOADED.append(place)
        try:
            load_file(path)
        except HarnessError as error:
            BROKEN[str(path)] = str(error)
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
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[str(place)]
        raise HarnessError(f"the plug-in {path} cannot be loaded: {gist(error, place)}") from error
    return module


def load_attribute(path: Path, name: str) -> Any:
    """One thing of a plug-in file. Raises HarnessError as `load_file` does, and if the file does not define it."""
    module = load_file(path)
    if not hasattr(module, name):
        public = ", ".join(key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
        raise HarnessError(f"the plug-in {path} defines no {name}: it has {public or 'nothing of its own'}")
    return getattr(module, name)


def gist(error: BaseException, file: Path | None = None) -> str:
    """An error on one line: its kind, its message, and the line of `file` that it comes from."""
    if isinstance(error, HarnessError):
        return str(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    message = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    return f"{type(error).__name__}: {message}{f' (line {line})' if line else ''}"


def origin_of(thing: object) -> str:
    """Where something is defined: module, or file of a plug-in, and name."""
    module = getattr(thing, "__module__", None) or type(thing).__module__
    return f"{module}:{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def fingerprint(*parts: str | float | Path | Callable[..., object] | None) -> str:
    """A digest for `Encoder.fingerprint`, of everything that decides an embedding.

    A `Path` stands for what lies there: a file's bytes, or a folder's files and their names within it. A class or function stands
    for the file that defines it. Text and numbers (a precision, an image size) stand for themselves.

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
            words += ["code", digest_file(_source_file(part))]
    return digest_strings(words)


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


def digest_file(path: Path) -> str:
    """SHA-256 of a file. Large files of the Hugging Face hub's cache are named by it, and are not read."""
    real = path.resolve()
    if real.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", real.name):
        return real.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
