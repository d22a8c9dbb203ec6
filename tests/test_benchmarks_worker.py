"""A worker ends with the process that started it, however that ends and whatever the worker is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.bundle import Bundle

_PARENT = """
import sys, threading, time
from pathlib import Path
import numpy as np
from benchmarks.worker import Case, Worker
from runtime.terminal import console

def main():
    with Worker(Case(Path(sys.argv[1]), "fp32", "onnxruntime", 1)) as worker:
        print(worker._process.pid, flush=True)
        if sys.argv[2] == "opening":
            print("opening", flush=True)
            time.sleep(100)
        worker.peak_rss_bytes()  # it is open
        if sys.argv[2] == "idle":
            print("idle", flush=True)
            time.sleep(100)
        threading.Timer(0.5, print, ["computing"], {"flush": True}).start()
        worker.time(np.zeros((1, 3, 256, 256), np.float32), 1000)

if __name__ == "__main__":
    with console.stopped_by():
        main()
"""
_SOON_S = 10  # importing the runtime takes one or two; computing would take minutes


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked at in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("doing", ["opening", "idle", "computing"])
def test_a_worker_ends_with_its_parent(exported: Bundle, doing: str, number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    root = str(Path(__file__).parents[1])
    command = [sys.executable, str(script), str(exported.directory), doing]
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        try:
            assert parent.stdout.readline() == f"{doing}\n"
            parent.send_signal(number)
            parent.wait(timeout=_SOON_S)
            deadline = time.monotonic() + _SOON_S
            while _runs(worker) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not _runs(worker)
        finally:
            parent.kill()
            if _runs(worker):
                os.kill(worker, signal.SIGKILL)
