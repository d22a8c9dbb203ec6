"""Build command lines: a table of commands in, one group with shared options, help and shell completion out.

A table of commands goes in, one command line with help for all of them comes out: `sredge --help` must not import torch to print a
list. The types of typer's own copy of click are not public, hence `Any`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from .. import __version__
from ..errors import UnknownNameError, UserError

_PACKAGES = (__package__.partition(".")[0], "calibration", "export", "quantize", "benchmarks")  # whose loggers --verbose turns on


@dataclass(frozen=True)
class Command:
    """One command of a group.

    Attributes:
        name: what is typed.
        module: where its typer application `app` is; imported when the command is called.
        summary: its line in the group's help.
        within: the command of `app` that is meant, where `app` has several.
    """

    name: str
    module: str
    summary: str
    within: str | None = None


def group(commands: Sequence[Command], *, help_text: str, unknown_hint: str = "") -> typer.Typer:
    """Return an application that has these commands, and shell completion; `unknown_hint` goes with an unknown command's error."""

    class Group(typer.core.TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002
            return [command.name for command in commands]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002
            return next((load(command) for command in commands if command.name == cmd_name), None)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
            known = self.list_commands(ctx)
            if args[0] not in known and not args[0].startswith("-"):
                raise UnknownNameError("command", args[0], valid=known, hint=unknown_hint)
            return super().resolve_command(ctx, args)

        def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002
            _list_commands(commands, formatter)

    app = typer.Typer(cls=Group, help=help_text, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.callback(invoke_without_command=True)
    def show_help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    return app


def beside(*others: Command) -> type[typer.core.TyperCommand]:
    """Return the class of a command whose first word may name another one: `export MODEL`, and `export list`."""

    class Beside(typer.core.TyperCommand):
        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:  # noqa: ANN401
            for other in others:
                if args[:1] == [other.name]:
                    return load(other).make_context(f"{info_name} {other.name}", args[1:], parent=parent, **extra)
            return super().make_context(info_name, args, parent=parent, **extra)

        def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
            return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)

        def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
            super().format_epilog(ctx, formatter)
            _list_commands(others, formatter)

    return Beside


def load(command: Command) -> Any:  # noqa: ANN401
    """Import the application of `command`.

    Raises:
        UserError: a package that the command needs is not installed.
    """
    try:
        found: Any = typer.main.get_command(importlib.import_module(command.module).app)
    except ModuleNotFoundError as error:
        extra = command.module.partition(".")[0]
        raise UserError(f"`sredge {command.name}` needs {error.name}", hint=f"pip install -e '.[{extra}]'") from error
    return with_shared_options(found if command.within is None else found.commands[command.within])


def with_shared_options(command: Any) -> Any:  # noqa: ANN401
    """Add to `command`, and to the commands of a group, what every command has: --verbose and --version."""
    for one in (command, *getattr(command, "commands", {}).values()):
        one.params.extend(param for param in typer.main.get_command(_shared_options()).params if param.name != "help")
    return command


def _shared_options() -> typer.Typer:
    app = typer.Typer(add_completion=False)

    @app.command()
    def shared(
        verbose: Annotated[  # its callback acts
            bool,
            typer.Option(
                "--verbose", is_eager=True, expose_value=False, callback=_log_everything, help="log what happens to stderr"
            ),
        ] = False,
        version: Annotated[
            bool,
            typer.Option(
                "--version",
                is_eager=True,
                expose_value=False,
                callback=_print_version,
                help="print the version of sredge, and exit",
            ),
        ] = False,
    ) -> None: ...

    return app


def _list_commands(commands: Sequence[Command], formatter: Any) -> None:  # noqa: ANN401
    with formatter.section("Commands"):
        formatter.write_dl([(command.name, command.summary) for command in commands])


def _log_everything(context: object, option: object, given: bool) -> None:  # noqa: ARG001 # as typer calls it
    if given:
        for package in _PACKAGES:
            logging.getLogger(package).setLevel(logging.DEBUG)


def _print_version(context: object, option: object, given: bool) -> None:  # noqa: ARG001 # as typer calls it
    if given:
        typer.echo(f"sredge {__version__}")
        raise typer.Exit
