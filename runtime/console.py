"""What every command line here shares: errors as two lines, progress on stderr, tables on stdout.

Results go to stdout, progress and errors to stderr; progress is silent where stderr is not a terminal.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.errors import SredgeError, UserError

_INTERRUPTED = 130  # what shells give for a program ended by Ctrl-C

_PIPE_WIDTH = 120  # columns where there is no terminal to ask: a table stays one line a row in a log

out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(stderr=True, highlight=False)


def application(help_text: str) -> typer.Typer:
    """A typer application that leaves errors to `run`."""
    return typer.Typer(help=help_text, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def start(package: str) -> None:
    """`python -m package`: its command line, or what to install where that cannot be imported."""
    try:
        module = importlib.import_module(f"{package}.cli")
    except ModuleNotFoundError as error:
        fail(UserError(f"`python -m {package}` needs {error.name}", hint=f"pip install 'sredge[{package.partition('.')[0]}]'"))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    module.main()


def run(app: typer.Typer, arguments: Sequence[str] | None, *, name: str) -> None:
    """Runs `app`; an error of ours is printed with its hint and becomes its exit code, any other is a bug and shows itself."""
    interrupts: list[int] = []

    def note_interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note_interrupt)
    try:
        app(args=None if arguments is None else list(arguments), prog_name=name)
    except SystemExit as ended:  # how typer ends every command, the successful ones too
        if ended.code and not interrupts:
            raise
    except SredgeError as error:
        fail(error)
    except Exception:
        if not interrupts:  # torch makes other errors of a Ctrl-C that meets it at the wrong moment
            raise
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if interrupts:
        typer.echo("stopped; nothing half-written is in use", err=True)
        sys.exit(_INTERRUPTED)


def fail(error: SredgeError) -> NoReturn:
    """Prints `error` and its hint to stderr, and exits with its code."""
    typer.echo(f"error: {error}", err=True)
    if error.hint:
        typer.echo(f" hint: {error.hint}", err=True)
    sys.exit(error.exit_code)


def progress() -> Progress:
    """A progress bar on stderr, shown only on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def show(text: str) -> None:
    """A line of the result on stdout, as it is: not wrapped, no markup."""
    typer.echo(text)


def say(text: str) -> None:
    """A line of progress on stderr that a terminal's reader should see and a pipe should not."""
    if err.is_terminal:
        typer.echo(text, err=True)


def parse_size(text: str, *, option: str) -> tuple[int, int]:
    """ "HxW" -> (H, W); UserError says what was expected."""
    height, _, width = text.lower().replace("×", "x").partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise UserError(f"{option} {text}: expected HEIGHTxWIDTH in pixels", hint=f"{option} 128x128")
    return int(height), int(width)
