"""Run a command on one core within a time limit: a command in; its CPU seconds, its peak memory and what it last said out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.registry import SCRIPTS
from runtime.errors import PipelineError

# Every quantizer has one thread: their CPU seconds can then be compared, and no time is spent on threads that wait for one another.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_REPORT, LOG = "counted.json", "log.txt"


@dataclass(frozen=True)
class Counted:
    """What a command took, as the operating system counts it, with all its descendants.

    Attributes:
        exit_code: None where it did not end within the limit.
        cpu_seconds: user and system time.
        peak_bytes: of the largest process.
        last_line: what it last wrote to stderr.
    """

    exit_code: int | None
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    last_line: str


def run_counted(command: Sequence[str], folder: Path, *, limit_s: float, environment: dict[str, str] | None = None) -> Counted:
    """Run `command` in `folder`, where its output goes to a log. The command ends when this process does.

    Args:
        environment: variables to set beside those there are.

    Raises:
        PipelineError: the process that counts was ended from outside, for want of memory perhaps.
    """
    report, log = folder.absolute() / _REPORT, folder / LOG
    counting = [sys.executable, str(SCRIPTS / "measured.py"), str(report), str(limit_s), *command]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # of sredge's own packages
    variables = {**kept, **dict.fromkeys(_ONE_THREAD, "1"), **(environment or {})}
    with (
        log.open("wb") as written,
        subprocess.Popen(
            counting, stdin=subprocess.PIPE, stdout=written, stderr=subprocess.STDOUT, env=variables, cwd=folder
        ) as process,
    ):
        try:
            process.wait()
        finally:
            assert process.stdin is not None
            process.stdin.close()  # which ends the command, where it still runs
    if not report.is_file():
        raise PipelineError(f"was ended from outside (exit code {process.returncode})")
    counted = json.loads(report.read_text(encoding="utf-8"))
    return Counted(**counted, last_line=_last_line(log))


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")
