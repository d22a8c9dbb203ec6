"""Start the command line, or say what it needs."""

from __future__ import annotations

from runtime.errors import UserError
from runtime.terminal.console import fail

try:
    from benchmarks.picture_formats.cli import main
except ModuleNotFoundError as error:
    fail(UserError(f"`python -m benchmarks.picture_formats` needs {error.name}", hint="pip install 'sredge[dev]'"))
main()
