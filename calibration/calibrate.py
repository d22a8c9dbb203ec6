"""The calibration stage: a graph and pictures in, a table of activation statistics out.

Memory does not grow with the number of pictures: one is decoded at a time. Nor do activations grow with their size: the network
sees crops of one size.
Where a picture is larger than a crop, the crop with the most detail of a few random ones is taken: flat sky has no say in where an
activation's range ends, edges do. Every other crop of a picture is its negative: a few photographs have few saturated colours, and
a range that was never shown one clips it (on BSDS500 test pictures ESPCN x3 lost 0.03 dB with them, 0.45 without).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.fingerprint import graph_fingerprint
from calibration.observers import ChannelObserver, HistogramObserver
from calibration.pairs import ImageSet, Pair, hash_pair, load_low
from calibration.pieces import stream_tensors, watched_options
from calibration.ranges import CalibrationImage, CalibrationSource, CalibrationTable, summarise
from runtime.bundle import Contract
from runtime.errors import PipelineError
from runtime.filling import fill_up
from runtime.images import Picture, to_network

CROPS = 64
CROP_SIZE = (96, 96)
_CANDIDATES = 4
Phase = Literal["reading", "mixing", "measuring", "rounding", "distilling", "checking"]
OnStep = Callable[[Phase, int, int], None]
"""Called with what is being done, how many steps of it are done, and of how many."""


@dataclass(frozen=True)
class Rewritten:
    """What was done to a graph before it was measured.

    Attributes:
        fingerprint: of the graph as it was.
        mixing: matrices by group (`quantize/mix_channels.py`); None where none was asked for.
        equalization: scales by group (`quantize/equalize.py`), likewise.
    """

    fingerprint: str
    mixing: Mapping[str, tuple[tuple[float, ...], ...]] | None
    equalization: Mapping[str, tuple[float, ...]] | None


def ignore_step(phase: Phase, done: int, total: int) -> None:
    """An `OnStep` that shows nothing."""


def describe_source(
    images: ImageSet,
    *,
    scale: float,
    crops: int = CROPS,
    crop_size: tuple[int, int] = CROP_SIZE,
    seed: int = 0,
    on_step: OnStep = ignore_step,
) -> CalibrationSource:
    """Which pictures of `images` will be used (a seeded choice where there are more than `crops`), and their hashes."""
    chosen = _choose(images.pairs, crops, seed)
    described = []
    for index, pair in enumerate(chosen):
        on_step("reading", index, len(chosen))
        hashes = hash_pair(pair, scale=scale)
        described.append(CalibrationImage(name=pair.name, low_sha256=hashes.low, high_sha256=hashes.high))
    return CalibrationSource(dataset=images.name, seed=seed, crops=crops, crop_size=crop_size, images=tuple(described))


def crops_of(images: ImageSet, source: CalibrationSource, *, scale: float, contract: Contract) -> Iterator[NDArray[np.float32]]:
    """The crops that `source` describes, (1, C, H, W) float32 in [0, 1], of RGB or luma.

    Where a picture is smaller than a crop, so is its crop; it is mirrored up to a size that the graph takes.
    """
    rng = np.random.default_rng(source.seed)
    chosen = _choose(images.pairs, source.crops, source.seed)
    for index, pair in enumerate(chosen):
        share = source.crops // len(chosen) + (index < source.crops % len(chosen))
        picture = load_low(pair, scale=scale)
        for turn in range(share):
            crop = _detailed_crop(picture, source.crop_size, rng)
            crop = 255 - crop if turn % 2 else crop  # the negative
            sized = _mirror_to(crop, source.crop_size) if contract.static_shape else crop
            yield fill_up(to_network(sized, contract, scale=scale), contract)


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
    """Runs `crops` through the fp32 `model` and summarises what each of `tensors` held.

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
    """The largest magnitude of each channel, (C,), of each of `tensors` that has four dimensions."""
    observers: dict[str, ChannelObserver] = {}
    for _, values in stream_tensors(model, crops, tensors):
        for name in values:
            if values[name].ndim == 4:
                observers.setdefault(name, ChannelObserver()).update(values[name])
        del values  # not held while the next are made
    return {name: observer.largest for name, observer in observers.items()}


def _choose(pairs: Sequence[Pair], most: int, seed: int) -> list[Pair]:
    if len(pairs) <= most:
        return list(pairs)
    picked = np.random.default_rng(seed).choice(len(pairs), size=most, replace=False)
    return [pairs[index] for index in sorted(picked)]


def _detailed_crop(picture: Picture, size: tuple[int, int], rng: np.random.Generator) -> Picture:
    height, width = min(size[0], picture.shape[0]), min(size[1], picture.shape[1])
    candidates = []
    for _ in range(_CANDIDATES):
        top = int(rng.integers(picture.shape[0] - height + 1))
        left = int(rng.integers(picture.shape[1] - width + 1))
        candidates.append(picture[top : top + height, left : left + width])
    return max(candidates, key=_detail)


def _detail(crop: Picture) -> float:
    """Mean absolute difference of neighbouring pixels; 0 where there are none."""
    values = crop.astype(np.float32)
    return sum(float(np.abs(np.diff(values, axis=axis)).mean()) for axis in (0, 1) if crop.shape[axis] > 1)


def _mirror_to(crop: Picture, size: tuple[int, int]) -> Picture:
    missing = [(0, wanted - have) for wanted, have in zip(size, crop.shape[:2], strict=True)]
    return np.pad(crop, [*missing, (0, 0)], mode="symmetric")


def watch_tensors(
    model: ir.Model, crops: Iterator[NDArray[np.float32]], tensors: Collection[str], *, as_written: bool = False
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """What every one of `tensors`, inputs of the graph or made by it, holds, crop by crop."""
    session = session_with_outputs(model, tensors, as_written=as_written)
    input_name = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]
    for crop in crops:
        yield {**dict(zip(names, session.run(names, {input_name: crop}), strict=True)), input_name: crop}


def session_with_outputs(model: ir.Model, tensors: Collection[str], *, as_written: bool = False) -> ort.InferenceSession:
    """The model with every one of `tensors`, of whatever type, among its outputs; `as_written`: node by node, nothing fused."""
    proto = onnx.ModelProto()
    proto.CopyFrom(ir.to_proto(model))
    del proto.graph.value_info[:]  # shapes that were recorded may not hold for the outputs added
    present = {value.name for value in (*proto.graph.output, *proto.graph.input)}
    for name in sorted(set(tensors) - present):
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    options = watched_options()
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
