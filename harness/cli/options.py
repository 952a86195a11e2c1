"""Options of the commands, generated from the configurations in `harness.core.config`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from harness.core.config import Config, RunConfig, validated

_SPELLINGS = {"towers": "--tower", "skip_broken": "--skip-broken", "clean": "--clean/--no-clean"}
"""Options whose spelling does not follow from the field's name."""
_REPEATABLE = frozenset({"towers"})
"""Lists whose option is repeated. Other lists are comma-separated."""


def comma_separated(text: str) -> tuple[str, ...]:
    """Return the words of a comma-separated list, each once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def run_option(field: str, help_text: str = "") -> Any:
    """Return the option of a field of `RunConfig` with its bounds, for a command that has no other field of it."""
    info = RunConfig.model_fields[field]
    bounds: dict[str, Any] = {}
    for each in info.metadata:
        bounds |= {"min": each.ge} if isinstance(each, Ge) else {"max": each.le} if isinstance(each, Le) else {}
    return typer.Option(**bounds, help=help_text or info.description)


DEFAULT_TASK: str = RunConfig.model_fields["task"].default
DEFAULT_CHUNKER: str = RunConfig.model_fields["chunker"].default
DEFAULT_DEVICE: str = RunConfig.model_fields["device"].default
DEFAULT_RESAMPLES: int = RunConfig.model_fields["resamples"].default

TaskOption = Annotated[str, run_option("task")]
ChunkerOption = Annotated[str, run_option("chunker")]
DeviceOption = Annotated[str, run_option("device")]
ResamplesOption = Annotated[int, run_option("resamples")]
DataOption = Annotated[str | None, run_option("data")]
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Folder that stores everything computed; by default $HARNESS_STORE.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]


def configured(
    kind: type[Config], name: str, without: Iterable[str] = (), renamed: Mapping[str, tuple[str, str]] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a configuration, and pass it the validated configuration as `name`.

    A field's type, default and description become the option's. Fields of nested configurations become options too. The options
    of a configuration with a `group` appear under that heading, after the command's own.

    without: fields without an option. renamed: spelling and help of options by field, where they differ from the field's.
    """
    hidden = frozenset(without)
    options = [_parameter(group, field, info, renamed or {}) for group, field, info in _fields(kind) if field not in hidden]
    grouped = {field for group, field, _ in _fields(kind) if group}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in signature.parameters.values() if each.name != name]
        before = [option for option in options if option.name not in grouped]
        after = [option for option in options if option.name in grouped]

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            chosen = {option.name: given.pop(option.name) for option in options}
            command(**given, **{name: _build(kind, chosen)})

        wrapper.__signature__ = signature.replace(parameters=[*before, *own, *after])  # type: ignore[attr-defined]
        return wrapper

    return decorate


def _fields(kind: type[Config]) -> Iterator[tuple[str, str, FieldInfo]]:
    """Yield heading, name and definition of each field of a configuration and of the configurations in it."""
    for field, info in kind.model_fields.items():
        if nested := _nested(info):
            yield from _fields(nested)
        else:
            yield kind.group, field, info


def _nested(info: FieldInfo) -> type[Config] | None:
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Config) else None


def _is_list(info: FieldInfo) -> bool:
    return get_origin(info.annotation) is tuple


def _parameter(group: str, field: str, info: FieldInfo, renamed: Mapping[str, tuple[str, str]]) -> Parameter:
    """Return the parameter of a command that represents a field. The bounds are checked by the configuration."""
    spelling, text = renamed.get(field, (_SPELLINGS.get(field), info.description))
    kind: Any = info.annotation
    default = Parameter.empty if info.is_required() else info.default
    if _is_list(info):
        kind, default = (list[str] if field in _REPEATABLE else str) | None, None
    decl = [spelling] if spelling else []
    option = typer.Option(*decl, help=text, rich_help_panel=group or None, show_default=default is not None)
    return Parameter(field, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _build(kind: type[Config], chosen: Mapping[str, Any]) -> Config:
    """Return the configuration of the chosen options, nested configurations included.

    Lists without a value get the default of the configuration. Raises HarnessError naming the first invalid option.
    """
    values: dict[str, Any] = {}
    for field, info in kind.model_fields.items():
        if nested := _nested(info):
            values[field] = _build(nested, chosen)
        elif not _is_list(info):
            values |= {field: chosen[field]} if field in chosen else {}
        elif chosen.get(field) is not None:
            given = chosen[field]
            values[field] = comma_separated(given) if isinstance(given, str) else tuple(given)
    return validated(kind, **values)
