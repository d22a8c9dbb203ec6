"""Run one trial: a graph with some layers kept in float is written, compared with the truth on held-back crops, and timed."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from typing_extensions import Self

from calibration.steps import OnStep
from calibration.table import CalibrationTable
from export.graph.serialized import serialize
from quantize.graph.input_correction import added_macs
from quantize.graph.keep_in_float import Liftable, find_liftable
from quantize.graph.placement import lifted_operators
from quantize.graph.qdq import RoundedWeight
from quantize.graph.switches import SwitchedGraph
from quantize.int8 import Int8Graph, quantize_int8
from quantize.options import LEARNING_STEPS, Int8Options
from quantize.prepare import Prepared, prepare
from quantize.search.choose import NOTHING, Lifted, LiftingCost
from quantize.search.held_back import ScoredCrop, psnr_db
from quantize.search.result import Timing, Trial
from runtime.backends import Backend, open_backend
from runtime.bundle import AddedMacs, Manifest, sha256_bytes
from runtime.targets import Precision

_PROBED = 4  # crops that layers' sensitivity is estimated on, a run of the network for each layer and crop
WARM_UP = 3
N = 20
_RUNS = 2  # of one graph before the next has its turn; the faster counts, as the first finds the caches full of another graph
_FP32_TURNS = 3  # of the turns: fp32's latency is shown, and decides nothing


@dataclass(frozen=True)
class Subject:
    """What is tried: a network, how it is quantized, and where it is measured.

    Attributes:
        crops: what weights are rounded on, and sensitivity is estimated on.
        held_back: what drops are measured on, picture by picture.
        backend: the name of the one that runs and times.
    """

    manifest: Manifest
    model: onnx.ModelProto
    table: CalibrationTable
    options: Int8Options
    crops: Sequence[NDArray[np.float32]]
    held_back: Sequence[Sequence[ScoredCrop]]
    backend: str
    timing: Timing


class Trials:
    """Writes and measures graphs of a subject; a context manager that keeps fp32's and the plain int8 graph compiled.

    Nothing is rounded or compiled before it is asked for.
    """

    def __init__(self, subject: Subject, *, on_step: OnStep) -> None:
        self._subject = subject
        self._on_step = on_step
        self._opened = ExitStack()
        self._fitted: dict[Lifted, Int8Graph] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()

    @cached_property
    def costs(self) -> dict[str, LiftingCost]:
        """What can be kept in float, with its cost: layers in the order they run, additions, and inputs of layers."""
        macs = {layer.name: layer.macs for layer in self._subject.manifest.layers}
        total = max(self._subject.manifest.macs, 1)
        layers = {name: LiftingCost(macs.get(name, 0) / total, macs.get(name, 0) / total, name) for name in self._liftable.layers}
        additions = {name: LiftingCost(0.0, 0.0, None) for name in self._liftable.additions}
        inputs = {}
        for name, layer in self._liftable.inputs.items():
            added = self._added_macs([layer])
            inputs[name] = LiftingCost((added.int8 + added.in_float) / total, added.in_float / total, layer)
        return {**layers, **additions, **inputs}

    @cached_property
    def plain(self) -> Int8Graph:
        """The graph with nothing kept in float."""
        return self._quantize(self._subject.options, None)

    def graph(self, lifted: Lifted) -> Int8Graph:
        """Return the graph with those kept in float, its weights as they are with nothing kept in float."""
        return self._quantize(replace(self._subject.options, lifted=lifted), self.plain.rounded) if lifted else self.plain

    def fitted(self, lifted: Lifted) -> Int8Graph:
        """Return the graph with those kept in float, and weights rounded for that; made once."""
        if lifted not in self._fitted:
            self._fitted[lifted] = self._quantize(replace(self._subject.options, lifted=lifted), None)
        return self._fitted[lifted]

    @property
    def rounded(self) -> Mapping[Lifted, Mapping[str, RoundedWeight]]:
        """The weights that were rounded so far, by what is kept in float."""
        plain = {NOTHING: self.plain} if "plain" in self.__dict__ else {}
        return {lifted: graph.rounded for lifted, graph in {**plain, **self._fitted}.items()}

    @property
    def learns(self) -> bool:
        """Whether weights are rounded on pictures, and so for what is kept in float."""
        return bool(self._subject.crops) and not self._subject.options.steps.isdisjoint(LEARNING_STEPS)

    def measure(self, lifted: Lifted, *, fitted: bool = False) -> Trial:
        """Measure what the graph with those kept in float loses, and how long it takes."""
        graph = self.fitted(lifted) if fitted else self.graph(lifted)
        data = serialize(graph.model)
        with open_backend(self._subject.backend, data, precision="int8") as tried:
            drop_db = float(np.mean(np.subtract(self._exact_psnr_db, self._psnr_db(tried))))
            fp32_ms, int8_ms, tried_ms = time_in_turn((self._fp32, self._int8, tried), self._subject.timing)
        return Trial(
            lifted=tuple(name for name in self.costs if name in lifted),
            fitted=fitted,
            sha256=sha256_bytes(data),
            int8_mac_share=self.int8_mac_share(graph),
            drop_db=drop_db,
            p50_ms=_median(tried_ms),
            int8_p50_ms=_median(int8_ms),
            fp32_p50_ms=_median(fp32_ms),
            times_int8=_median([one / other for one, other in zip(tried_ms, int8_ms, strict=True)]),
        )

    def int8_mac_share(self, graph: Int8Graph) -> float:
        """Return the share of int8 in a graph's multiply-accumulates, those that reading rounding errors adds included."""
        layers = {*graph.int8_layers, *graph.merged_layers}
        return self._subject.manifest.share_in_int8(layers, added=self._added_macs(graph.corrected_layers))

    def noise(self, lifted: Lifted) -> float:
        """Mean square of the output's error against fp32 with those kept in float, integers simulated."""
        in_float = lifted_operators(self._prepared.model.graph, self._prepared.target, lifted - self._liftable.inputs.keys())
        quantized = self._switched.operators - in_float
        corrected = {layer for name, layer in self._liftable.inputs.items() if name in lifted}
        psnr_db = self._switched.psnr_db(quantized, corrected=corrected & quantized)
        return 0.0 if psnr_db is None else float(10 ** (-psnr_db / 10))

    def _added_macs(self, layers: Collection[str]) -> AddedMacs:
        return added_macs(self._prepared.model.graph, layers, self._subject.manifest, self._prepared.target)

    def _quantize(self, options: Int8Options, rounded: Mapping[str, RoundedWeight] | None) -> Int8Graph:
        subject = self._subject
        return quantize_int8(
            subject.model,
            subject.table,
            options,
            crops=subject.crops,
            on_step=self._on_step,
            rounded=rounded,
        )

    @cached_property
    def _prepared(self) -> Prepared:
        subject = self._subject
        return prepare(subject.model, subject.table, subject.options)

    @cached_property
    def _liftable(self) -> Liftable:
        return find_liftable(self._prepared.model.graph, self._prepared.target)

    @cached_property
    def _switched(self) -> SwitchedGraph:
        crops, step = self._subject.crops, max(1, len(self._subject.crops) // _PROBED)
        reference = ir.to_proto(self._prepared.model)
        return SwitchedGraph(reference, self.plain.model, crops[::step], target=self._prepared.target)

    @cached_property
    def _fp32(self) -> Backend:
        return self._open(self._subject.model, "fp32")

    @cached_property
    def _int8(self) -> Backend:
        return self._open(self.plain.model, "int8")

    def _open(self, model: onnx.ModelProto, precision: Precision) -> Backend:
        data = serialize(model)
        return self._opened.enter_context(open_backend(self._subject.backend, data, precision=precision))

    @cached_property
    def _exact_psnr_db(self) -> list[float]:
        return self._psnr_db(self._fp32)

    def _psnr_db(self, backend: Backend) -> list[float]:
        return [psnr_db([crop.square_error(backend.run(crop.given)) for crop in crops]) for crops in self._subject.held_back]


def time_in_turn(backends: Sequence[Backend], timing: Timing) -> list[list[float]]:
    """Return each one's milliseconds on one random input, turn by turn, after warming up; the first, fp32, has few turns.

    What a busy machine takes from one turn it takes from the graphs of that turn alone: the median of ratios within turns stays.
    """
    array = np.random.default_rng(0).random(timing.shape, np.float32)
    taken: list[list[float]] = [[] for _ in backends]
    for backend in backends:
        for _ in range(timing.warm_up):
            backend.run(array)
    for turn in range(timing.n // _RUNS):
        for index, backend in enumerate(backends):
            if index > 0 or turn < _FP32_TURNS:
                taken[index].append(min(_run_ms(backend, array) for _ in range(_RUNS)))
    return taken


def _run_ms(backend: Backend, array: NDArray[np.float32]) -> float:
    start = time.perf_counter_ns()
    backend.run(array)
    return (time.perf_counter_ns() - start) / 1e6


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 3)
