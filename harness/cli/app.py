"""The command line: every command under its name. Heavy imports are inside the commands."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import browse, check, compare, data, distill, leaderboard, listing, run, study, towers, transport
from harness.core.error_messages import one_line_message
from harness.core.errors import HarnessError
from harness.core.plugins import load_plugins, plugin_at_fault
from harness.runtime.console import make_streams_unfailing, output_failure
from harness.runtime.markup import escape_controls


def main() -> None:
    """Run the command line. Exit status 1 if results could not be written to standard output."""
    make_streams_unfailing()
    try:
        app()
    finally:
        if lost := output_failure():
            print(f"error: {lost}: the results are stored, and the same command shows them", file=sys.stderr)
            sys.exit(1)


PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="File of encoders, tasks, objectives or translators; repeatable. By default $HARNESS_PLUGINS.",
        envvar="HARNESS_PLUGINS",
    ),
]


def handled(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option --plugin, and turn errors that users can fix into one line and a non-zero exit status.

    All exceptions of plug-ins, including `sys.exit()`, are handled in this way. Errors of the harness keep their traceback.
    """

    @functools.wraps(command)
    def wrapper(*args: Any, plugin: list[Path] | None = None, **kwargs: Any) -> None:
        try:
            for problem in load_plugins(plugin or []):
                print(escape_controls(f"note: {problem}"), file=sys.stderr)
            command(*args, **kwargs)
        except HarnessError as error:
            print(escape_controls(f"error: {error}"), file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("\ninterrupted; the same command resumes", file=sys.stderr)
            raise typer.Exit(130) from None
        except BaseException as error:
            guest = plugin_at_fault(error)
            if guest is None and isinstance(error, Exception):
                raise
            print(f"error: {f'the plug-in {guest} raised ' if guest else ''}{one_line_message(error, guest)}", file=sys.stderr)
            raise typer.Exit(1) from None

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter("plugin", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=PluginOption)
    wrapper.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    return wrapper


app = typer.Typer(
    name="harness",
    help="Zero-shot image-text retrieval on translated Flickr30k: optimal-transport against standard distillation.",
    epilog="Start with: python -m harness run --task flickr30k --lang de",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command(epilog=run.EXAMPLES)(handled(run.run))
app.command(epilog=distill.EXAMPLES)(handled(distill.distill))
app.command(epilog=study.EXAMPLES)(handled(study.study))
app.command("list")(handled(listing.list_))
app.command()(handled(check.check))
app.command(epilog=compare.EXAMPLES)(handled(compare.compare))
app.command(epilog=leaderboard.EXAMPLES)(handled(leaderboard.leaderboard))
app.command(epilog=browse.EXAMPLES)(handled(browse.browse))
app.command(epilog=transport.EXAMPLES)(handled(transport.transport))

towers_app = typer.Typer(help="List, show and export distilled text towers.", no_args_is_help=True)
towers_app.command("list")(handled(towers.list_))
towers_app.command()(handled(towers.show))
towers_app.command()(handled(towers.export))
app.add_typer(towers_app, name="towers")

data_app = typer.Typer(help="Check a data folder, fetch public files into it, pack it.", no_args_is_help=True)
for command in (data.check, data.fetch, data.pack):
    data_app.command()(handled(command))
app.add_typer(data_app, name="data")
