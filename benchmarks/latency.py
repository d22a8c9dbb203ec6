"""Time a case: runs in; the median and the percentiles that so many runs can carry out.

A percentile p is told from n runs where one slow run among them would not have been luck. Were more than 1 - p of all runs slower
than p, one at most of n would be so with the probability p^n + n (1 - p) p^(n-1); n is enough where that is 0.01 or less: 64 runs
for p90, 662 for p99. That is the early stopping of MLPerf Inference with one slow query allowed
(https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc, "Early Stopping Criterion").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from runtime.backends import DeviceTimes
from runtime.bundle import Noun

WARM_UP = 3
RUNS = 30
ENOUGH_RUNS = {90: 64, 99: 662}  # by percentile, as the docstring has it
ROUND = 5  # runs of one case before the next case has its turn, so that a machine's drift meets all cases alike


class Latency(Noun):
    """Milliseconds of one forward pass, array in, array out: no decoding, no conversion from uint8.

    p90_ms and p99_ms are None where `n` runs are too few to tell them.
    """

    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    n: int
    warm_up: int
    shape: tuple[int, int, int, int]
    threads: int


class DeviceLatency(Noun):
    """Medians of the accelerator's own clock (CUDA events), after as many runs to warm up, and its state around them."""

    network_p50_ms: float
    """The network alone: input and output stay on the device."""
    with_copies_p50_ms: float
    """The same runs from pinned memory of the host and back into it."""
    n: int
    before: dict[str, str]
    after: dict[str, str]


def time_runs(run: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each of `count` calls, one after the other."""
    taken = []
    for _ in range(count):
        start = time.perf_counter_ns()
        run()
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return taken


def summarise_device(times: DeviceTimes, *, before: Mapping[str, str], after: Mapping[str, str]) -> DeviceLatency:
    network, with_copies = (round(float(np.median(taken)), 4) for taken in (times.network_ms, times.with_copies_ms))
    return DeviceLatency(
        network_p50_ms=network,
        with_copies_p50_ms=with_copies,
        n=len(times.network_ms),
        before=dict(before),
        after=dict(after),
    )


def summarise(taken_ms: Sequence[float], *, shape: tuple[int, int, int, int], threads: int) -> Latency:
    """Percentiles of the times, linear between neighbours; only those that so many runs are enough for."""
    p50, p90, p99 = (round(float(value), 3) for value in np.percentile(taken_ms, (50, 90, 99)))
    n = len(taken_ms)
    return Latency(
        p50_ms=p50,
        p90_ms=p90 if n >= ENOUGH_RUNS[90] else None,
        p99_ms=p99 if n >= ENOUGH_RUNS[99] else None,
        n=n,
        warm_up=WARM_UP,
        shape=shape,
        threads=threads,
    )
