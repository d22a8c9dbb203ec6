"""Run a command within a time limit, and write what it took: `measured.py REPORT SECONDS COMMAND…`.

CPU time and memory are the operating system's own count, of the command and of all that it starts.
The command and all its descendants end with this process, and this process ends when its standard input does: a benchmark that is
stopped leaves nothing running. It imports the standard library alone, so that its own memory, which the system counts as a child's
until that child's program is loaded, is less than any quantizer's.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_KIB = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in


def main(report: str, limit_s: str, *command: str) -> None:
    """Write {exit_code or null, cpu_seconds, wall_seconds, peak_bytes}; null: it did not end in time, and was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    _take_one_core()
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_kill_at_end_of_input, args=(process.pid,), daemon=True).start()
    exit_code: int | None
    try:
        exit_code = process.wait(timeout=float(limit_s))
    except subprocess.TimeoutExpired:
        exit_code = None
    _kill_group(process.pid)  # and what it may have left behind
    process.wait()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    counted = {
        "exit_code": exit_code,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": time.perf_counter() - began,
        "peak_bytes": usage.ru_maxrss * _KIB,
    }
    Path(report).write_text(json.dumps(counted), encoding="utf-8")


def _take_one_core() -> None:
    """Leave this process and its children one core, where the system can: libraries start as many threads as there are cores."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})


def _kill_at_end_of_input(group: int) -> None:
    while os.read(0, 4096):
        pass
    _kill_group(group)
    os._exit(1)


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
