"""Run a command line: errors as two lines, progress on stderr, tables on stdout, an orderly end when it is stopped.

Results go to stdout, progress and errors to stderr; progress is silent where stderr is not a terminal. A character that a stream's
encoding lacks is written in ASCII.
"""

from __future__ import annotations

import codecs
import errno
import io
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer
import typer.main
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import SredgeError, UserError
from .commands import with_shared_options

_SIGNALLED = 128  # what shells add to a signal's number for a program that it ended
_STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))  # Windows has no HUP
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_ASCII = {"×": "x", "·": "*", "…": "...", "–": "-", "−": "-", "→": "->", "≤": "<=", "≥": ">=", "²": "^2", "σ": "sigma"}

_PIPE_WIDTH = 140  # columns where there is no terminal to ask: a table stays one line per row in a log

out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(stderr=True, highlight=False)


def application(help_text: str) -> typer.Typer:
    """Return a typer application that leaves errors to `run`."""
    return typer.Typer(help=help_text, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def run(app: typer.Typer, arguments: Sequence[str] | None, *, name: str) -> None:
    """Run `app`; print an error of ours with its hint and exit with its code; let any other error show its traceback, as a bug.

    Ctrl-C, SIGTERM and SIGHUP all stop the command as an exception does: its files and processes are cleaned up.
    """
    _write_any_character()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)  # to stderr; a no-op where an app has its own handlers
    with stopped_by() as received:
        try:
            with_shared_options(typer.main.get_command(app))(args=None if arguments is None else list(arguments), prog_name=name)
        except SystemExit as ended:  # how typer ends every command, the successful ones too
            if ended.code and not received:
                raise
        except SredgeError as error:
            fail(error)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                place = f" to {error.filename}" if error.filename else ""
                fail(UserError(f"cannot write{place}: {error.strerror}", hint="free some space, and run it again"))
            if not received:  # torch makes other errors of a Ctrl-C that meets it at the wrong moment
                raise
        except KeyboardInterrupt:  # met where typer does not catch it
            if not received:
                raise
    if received:
        typer.echo("stopped; nothing half-written is in use", err=True)
        sys.exit(_SIGNALLED + received[0])


@contextmanager
def stopped_by(*, raising: bool = True) -> Iterator[list[int]]:
    """The numbers of the signals to stop that come meanwhile; each raises KeyboardInterrupt, unless told not to.

    A signal that is ignored stays ignored (nohup).
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if raising:
            signal.default_int_handler(number, frame)

    before = {number: signal.getsignal(number) for number in _STOPPING}
    taken = [number for number in _STOPPING if before[number] != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number in taken:
            signal.signal(number, before[number] or signal.SIG_DFL)


def _write_any_character() -> None:
    """Let stdout and stderr replace what their encoding lacks: no locale, and no file's name, may end a command."""
    codecs.register_error("sredge", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="sredge")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    written = (_IN_ASCII.get(one) or one.encode("ascii", "backslashreplace").decode("ascii") for one in missing)
    return "".join(written), error.end


def fail(error: SredgeError) -> NoReturn:
    """Print `error` and its hint to stderr, and exit with its code."""
    _write_any_character()
    typer.echo(f"error: {error}", err=True)
    if error.hint:
        typer.echo(f" hint: {error.hint}", err=True)
    sys.exit(error.exit_code)


def progress() -> Progress:
    """Return a progress bar on stderr, shown only on a terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
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
