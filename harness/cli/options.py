"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.core.config import Config, validated

StoreOption = Annotated[Path | None, typer.Option("--store", help="Folder that keeps everything computed; else $HARNESS_STORE.")]
DataOption = Annotated[
    str | None,
    typer.Option(help="Folder of Flickr30k, or a pack's folder or address; else $FLICKR30K_ROOT, else the embedded sample."),
]
BitextOption = Annotated[
    Path | None, typer.Option(help="Sentence pairs to distil from: .tsv, .tmx or Moses' x.en; else what the folder has.")
]
TextOption = Annotated[
    Path | None, typer.Option(help="Folder of sentences without translations, en.txt and CODE.txt, for --unpaired.")
]
CleanOption = Annotated[
    bool | None, typer.Option("--clean/--no-clean", help="Clean the bitext; by default only your own.", show_default=False)
]
ChunkerOption = Annotated[
    str,
    typer.Option(help="What finds phrases where there are no tags (--scorer entities, ot-entity), see `list chunkers`."),
]
TaskOption = Annotated[str, typer.Option(help="Task: see `list tasks`.")]


def listed(text: str) -> tuple[str, ...]:
    """The words of a comma-separated list, each once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def configured(kind: type[Config], name: str, panel: str, *without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a configuration, but those in `without`, and pass it the whole as `name`.

    They stand in a panel of their own. The field's type, default and description are the option's: what a user can choose is
    said once, in `harness.core.config`.
    """
    fields = {field: info for field, info in kind.model_fields.items() if field not in without}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            chosen = {field: given.pop(field) for field in fields}
            command(**given, **{name: validated(kind, **chosen)})

        own = [parameter for parameter in signature.parameters.values() if parameter.name != name]
        options = [
            inspect.Parameter(
                field,
                inspect.Parameter.KEYWORD_ONLY,
                default=info.default,
                annotation=Annotated[info.annotation, typer.Option(help=info.description, rich_help_panel=panel)],
            )
            for field, info in fields.items()
        ]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        wrapper.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        return wrapper

    return decorate
