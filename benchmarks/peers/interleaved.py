"""Time graphs in turns: files in; each one's CPU time on one thread, and its ratios to fp32 and to sredge's, out.

fp32 is timed on every backend here that runs it, and the ratio is to the fastest: to be faster than a slow fp32 is no gain.

All graphs of a backend are open in one process, which has one thread to compute with, and each turn runs each of them once. What is
counted is the process's CPU time, and a ratio is the median of the ratios within the turns: what else the machine does changes
neither much.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.latency import WARM_UP
from benchmarks.peers.opened import open_made
from benchmarks.worker import end_with_parent
from runtime.backends import BACKENDS
from runtime.errors import BackendError

TURNS = 21  # at the least what a median needs to be steady beside other work
FP32 = "fp32"
_SEED = 0
Shape = tuple[int, int, int, int]
Times = NDArray[np.float64]


@dataclass(frozen=True)
class Timed:
    """CPU time of one forward pass on one thread.

    Attributes:
        cpu_ms: the median.
        times_fp32: how many times as fast as fp32, on whatever backend here that is fastest.
        times_sredge: this time as a multiple of that of sredge's graph; None where there is none.
    """

    cpu_ms: float
    times_fp32: float
    times_sredge: float | None


def time_interleaved(
    graphs: Mapping[str, Path], *, fp32: Path, sredge: str | None, backend: str, shape: Shape, turns: int = TURNS
) -> dict[str, Timed]:
    """Time int8 `graphs` by label beside `fp32`, itself labelled FP32; those that the backend cannot run are left out.

    Args:
        sredge: the label of the graph that `times_sredge` refers to.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent) as pool:
        try:
            taken = pool.submit(_time_all, dict(graphs), fp32, backend, shape, turns).result()
        except BrokenProcessPool as error:
            raise BackendError(f"{backend}: a graph ended the process that timed it") from error
    return ratios(taken, graphs, sredge=sredge)


def ratios(taken: Mapping[str, Times], graphs: Collection[str], *, sredge: str | None) -> dict[str, Timed]:
    """Hold times, turn by turn, against the fastest fp32 and sredge's; fp32 on other backends is left out of what comes back."""
    ours = taken.get(sredge or "")
    fastest = min((times for label, times in taken.items() if label not in graphs), key=lambda times: float(np.median(times)))
    return {
        label: Timed(
            round(float(np.median(times)), 3),
            round(float(np.median(fastest / times)), 3),
            None if ours is None else round(float(np.median(times / ours)), 3),
        )
        for label, times in taken.items()
        if label in {FP32, *graphs}
    }


def _time_all(graphs: dict[str, Path], fp32: Path, backend: str, shape: Shape, turns: int) -> dict[str, Times]:
    """Milliseconds of CPU time, turn by turn, by label."""
    array = np.random.default_rng(_SEED).random(shape, np.float32)
    with ExitStack() as stack:
        runs: dict[str, Callable[[], object]] = {}
        others = [entry.name for entry in BACKENDS if entry.opens_graphs and "fp32" in entry.precisions and entry.name != backend]
        for label, path, name in (
            (FP32, fp32, backend),
            *((f"{FP32} on {other}", fp32, other) for other in others),
            *((label, path, backend) for label, path in graphs.items()),
        ):
            try:
                opened = stack.enter_context(open_made(path, name, precision="fp32" if path == fp32 else "int8", threads=1))
                for _ in range(WARM_UP):
                    opened.run(array)
            except BackendError:
                if label == FP32:
                    raise
                continue
            runs[label] = lambda opened=opened: opened.run(array)  # type: ignore[misc] # bound now, and not when it is called
        taken: dict[str, list[float]] = {label: [] for label in runs}
        for _ in range(turns):
            for label, run in runs.items():
                began = time.process_time_ns()
                run()
                taken[label].append((time.process_time_ns() - began) / 1e6)
    return {label: np.array(times) for label, times in taken.items()}
