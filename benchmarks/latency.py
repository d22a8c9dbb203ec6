"""Latency: how it is timed, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from runtime.bundle import Noun

WARM_UP = 3
RUNS = 30
ROUND = 5  # runs of one case before the next case has its turn, so that a machine's drift meets all cases alike


class Latency(Noun):
    """Milliseconds of one forward pass, array in, array out: no decoding, no conversion from uint8."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    n: int
    warm_up: int
    shape: tuple[int, int, int, int]
    threads: int


def time_runs(run: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each of `count` calls, one after the other."""
    taken = []
    for _ in range(count):
        start = time.perf_counter_ns()
        run()
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return taken


def summarise(taken_ms: Sequence[float], *, shape: tuple[int, int, int, int], threads: int) -> Latency:
    """Percentiles of the times, linear between neighbours."""
    p50, p90, p99 = (round(float(value), 3) for value in np.percentile(taken_ms, (50, 90, 99)))
    return Latency(p50_ms=p50, p90_ms=p90, p99_ms=p99, n=len(taken_ms), warm_up=WARM_UP, shape=shape, threads=threads)
