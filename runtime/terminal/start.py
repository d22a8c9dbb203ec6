"""Start a command line, or say what is missing: `python -m PACKAGE` in, the package's `cli.main` run, or one error with a hint.

This module needs Python's standard library alone, so that an interpreter without our dependencies answers with a sentence and not
with a traceback.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

_ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "python"  # what `make` installs in a checkout

_QUIET_THREADS = {
    # numpy's: in the products of a layer's fit a second thread spins for three times the CPU seconds of the work that it takes
    # over, and what is rounded would follow from the number of cores.
    "OPENBLAS_NUM_THREADS": "1",
    # torch's: those that wait sleep. Spinning they keep the core of whatever else runs, the thread that they wait for included.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def quiet_threads() -> None:
    """Let no idle thread of numpy and torch spin, unless the user has set otherwise; call it before either is loaded."""
    for name, value in _QUIET_THREADS.items():
        os.environ.setdefault(name, value)


def start(package: str) -> None:
    """Run the command line of `package`; exit with 2 and a hint where a package that it needs is not installed."""
    try:
        module = importlib.import_module(f"{package}.cli")
    except ModuleNotFoundError as error:
        hint = _how_to_install(package)
        sys.exit(_say(f"`python -m {package}` needs {error.name}, which {sys.executable} does not have", hint=hint))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    module.main()


def _how_to_install(package: str) -> str:
    if __package__.partition(".")[0] == "sredge":
        return "pip install sredge, in the environment that runs this command"
    if not _ENVIRONMENT.exists():
        return "make demo installs everything into .venv; then source .venv/bin/activate"
    if Path(sys.executable).parent == _ENVIRONMENT.parent:
        return f"pip install -e '.[{package.partition('.')[0]}]'"
    return f"source .venv/bin/activate, and the same again; or {_ENVIRONMENT} -m {package}"


def _say(message: str, *, hint: str) -> int:
    sys.stderr.write(f"error: {message}\n hint: {hint}\n")
    return 2
