"""Run one case in a process of its own, so that no other case's memory or threads are measured with it.

The process imports the runtime alone, so that its peak memory is about what a device app would see.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from benchmarks.latency import time_runs
from runtime.backends import DeviceTimes
from runtime.bundle import Variant
from runtime.errors import PipelineError, SredgeError
from runtime.targets import Precision
from runtime.upscaler import Upscaler
from runtime.verify.precision import PrecisionReport
from runtime.verify.value_check import Verify


@dataclass(frozen=True)
class Case:
    """What is measured: one graph of a bundle on one backend."""

    bundle: Path
    precision: Precision
    backend: str
    threads: int
    target: str | None = None
    """The target of the graph; None where the graph is for every target."""

    def __str__(self) -> str:
        target = "" if self.target is None else f" for {self.target}"
        return f"{self.bundle.name} {self.precision}{target} on {self.backend}"


def open_case(case: Case, *, verify: Verify) -> Upscaler:
    """Return the graph of `case` on its backend."""
    return Upscaler.open(
        case.bundle,
        precision=case.precision,
        io="float32",
        target=case.target,
        backend=case.backend,
        threads=case.threads,
        verify=verify,
    )


class Worker:
    """A process that has `case` open, its values unchecked. A context manager; leaving it ends the process, and so does the end of
    this one."""

    def __init__(self, case: Case) -> None:
        self.case = case
        context = get_context("spawn")
        self._connection, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote, case), daemon=True)
        self._process.start()
        remote.close()

    def run(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """(1, 3, H, W) float32 in [0, 1] -> the network's output."""
        return cast(NDArray[np.float32], self._ask("run", array))

    def time(self, array: NDArray[np.float32], count: int) -> list[float]:
        """Milliseconds of `count` forward passes."""
        return cast(list[float], self._ask("time", array, count))

    def time_on_device(self, array: NDArray[np.float32], count: int) -> DeviceTimes | None:
        """Return the same by the accelerator's own clock; None where it has none."""
        return cast("DeviceTimes | None", self._ask("time_on_device", array, count))

    def variant(self) -> Variant:
        """Return the graph of the bundle that runs."""
        return cast(Variant, self._ask("variant"))

    def precision_report(self) -> PrecisionReport:
        return cast(PrecisionReport, self._ask("precision_report"))

    def upscale(self, sizes: Sequence[tuple[int, int]], *, seed: int) -> None:
        """Upscale a random picture of each (height, width)."""
        self._ask("upscale", sizes, seed)

    def peak_rss_bytes(self) -> int | None:
        """Return the process's largest resident memory so far, where the system tells."""
        return cast("int | None", self._ask("peak_rss"))

    def rss_bytes(self) -> int | None:
        """Return the process's resident memory now, where the system tells: on Linux."""
        return cast("int | None", self._ask("rss"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()
        if error is None:  # else it may be computing, and nobody waits for what
            self._process.join(timeout=5)
        self._process.kill()
        self._process.join()

    def _ask(self, *command: object) -> object:
        try:
            self._connection.send(command)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(timeout=5)
            raise PipelineError(f"{self.case}: its process ended (exit code {self._process.exitcode})") from error
        if isinstance(answer, SredgeError):
            raise answer
        return cast(object, answer)


def _serve(connection: Connection, case: Case) -> None:
    """Answer commands until the other end is closed; an error of ours is an answer, any other ends the process loudly."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it closes the connection
    with suppress(EOFError, ConnectionError), ExitStack() as stack:  # which is how the other end's closing shows
        try:
            upscaler = stack.enter_context(open_case(case, verify="never"))
        except SredgeError as error:
            connection.recv()
            connection.send(error)
            return
        while True:
            name, *arguments = connection.recv()
            try:
                answer = _answer(upscaler, name, arguments)
            except SredgeError as error:
                answer = error
            connection.send(answer)


def end_with_parent() -> None:
    """From now on this process ends when the one that started it does, also when that is killed, and whatever this one is doing.

    A thread waits for that end. It needs the interpreter for a moment only, which backends leave free while they compute.
    """
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)  # without the cleaning up that whatever is running would have to end for


def _answer(upscaler: Upscaler, name: str, arguments: list[Any]) -> object:
    if name == "run":
        return upscaler.run(arguments[0])
    if name == "time":
        return time_runs(lambda: upscaler.run(arguments[0]), arguments[1])
    if name == "time_on_device":
        return upscaler.time_on_device(*arguments)
    if name == "variant":
        return upscaler.variant
    if name == "precision_report":
        return upscaler.precision_report
    if name == "upscale":
        sizes, seed = arguments
        rng = np.random.default_rng(seed)
        for size in sizes:
            upscaler(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        return None
    if name == "rss":
        return _status_bytes("VmRSS")
    assert name == "peak_rss"
    return _peak_rss_bytes()


def _status_bytes(field: str) -> int | None:
    """Return what Linux tells of this process's memory; None elsewhere."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


def _peak_rss_bytes() -> int | None:
    """Linux: VmHWM, since getrusage there counts the parent's memory from before exec. Windows does not tell: None."""
    linux = _status_bytes("VmHWM")
    if linux is not None:
        return linux
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
