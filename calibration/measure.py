"""Measure activations: an fp32 graph and crops in, a table of every tensor's statistics out (`table.py`).

Memory does not grow with the number of crops, nor with their size: statistics are streamed, crop by crop.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.fingerprint import graph_fingerprint
from calibration.observers import ChannelObserver, HistogramObserver
from calibration.pieces import stream_tensors
from calibration.ranges import summarise
from calibration.steps import OnStep, ignore_step
from calibration.table import CalibrationSource, CalibrationTable
from runtime.errors import PipelineError


@dataclass(frozen=True)
class Rewritten:
    """What was done to a graph before it was measured.

    Attributes:
        fingerprint: of the graph as it was.
        mixing: matrices by group (`quantize/exact/mix_channels.py`); None where none was asked for.
        equalization: scales by group (`quantize/exact/equalize.py`), likewise.
    """

    fingerprint: str
    mixing: Mapping[str, tuple[tuple[float, ...], ...]] | None
    equalization: Mapping[str, tuple[float, ...]] | None


def measure_activations(
    model: ir.Model,
    crops: Iterator[NDArray[np.float32]],
    *,
    tensors: Collection[str],
    source: CalibrationSource,
    percentile: float,
    rewritten: Rewritten | None = None,
    on_step: OnStep = ignore_step,
) -> CalibrationTable:
    """Run `crops` through the fp32 `model` and summarise what each of `tensors` held.

    Where channels of the model were mixed or scaled, `rewritten` says how.

    Raises:
        PipelineError: a tensor held NaN or infinity.
    """
    observers = {name: (HistogramObserver(), ChannelObserver()) for name in sorted(tensors)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy and cv2 let go of the interpreter while they count
        for index, values in stream_tensors(model, crops, tensors):
            on_step("measuring", index, source.crops)
            places = [f"{name}, crop {index}" for name in values]
            list(pool.map(_observe, [observers[name] for name in values], values.values(), places))
            del values  # not held while the next are made
    return CalibrationTable(
        graph_fingerprint=graph_fingerprint(model.graph) if rewritten is None else rewritten.fingerprint,
        source=source,
        mixing=None if rewritten is None or rewritten.mixing is None else dict(rewritten.mixing),
        equalization=None if rewritten is None or rewritten.equalization is None else dict(rewritten.equalization),
        tensors={name: summarise(*both, percentile=percentile) for name, both in observers.items()},
    )


def _observe(observers: tuple[HistogramObserver, ChannelObserver], values: NDArray[np.float32], place: str) -> None:
    histogram, channels = observers
    try:
        histogram.update(values)
    except ValueError as error:
        raise PipelineError(f"{place}: {error}") from error
    if values.ndim == 4:
        channels.update(values)


def measure_channels(
    model: ir.Model, crops: Iterator[NDArray[np.float32]], *, tensors: Collection[str]
) -> dict[str, NDArray[np.float64]]:
    """Return the largest magnitude of each channel, (C,), of each of `tensors` that has four dimensions."""
    observers: dict[str, ChannelObserver] = {}
    for _, values in stream_tensors(model, crops, tensors):
        for name in values:
            if values[name].ndim == 4:
                observers.setdefault(name, ChannelObserver()).update(values[name])
        del values  # not held while the next are made
    return {name: observer.largest for name, observer in observers.items()}
