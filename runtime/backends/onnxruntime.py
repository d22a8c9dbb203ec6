"""Run graphs with ONNX Runtime on the CPU.

Precisions are read from the runtime's own profile of a run: the types each kernel was really given, after its graph optimiser.
https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import BoundedSemaphore
from types import TracebackType
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from typing_extensions import Self

from ..errors import BackendError
from ..targets import Precision
from .backend import BackendOptions, LayerPrecision, RanIn, Values

_NAMES: dict[str, RanIn] = {
    "float": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "uint8": "int8",
    "int8": "int8",
}
_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
_PROBE = 16  # pixels per side of the run that is profiled, where the graph leaves the shape open
_LOG_NOTHING = 4  # but what ends the process: its errors are raised too, and are ours to tell
# What ONNX Runtime's graph optimiser adds to the name of a node it replaces.
_REWRITTEN = re.compile(r"^InsertedPrecisionFreeCast_|_token_\d+$|_nchwc$")

# It rounds weights that were left in float between two tensors in int8 (https://github.com/microsoft/onnxruntime/pull/22969).
_UNWANTED = ["WeightBiasQuantization"]
# On x86 without VNNI its products of bytes overflow: it adds two in 16 bits, 45 dB from the graph as written (LESRCNN x2). Told so,
# it stores weights as uint8 there, whose products it adds exactly in twice the time; elsewhere nothing changes.
# https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#when-and-why-do-i-need-to-try-u8u8
_EXACT_PRODUCTS = "session.x64quantprecision"
# Its convolutions end the process where nothing is left of a small picture, dividing by zero; others raise.
_ENDS_THE_PROCESS = "NchwcTransformer"
# How a graph is opened: with exact products; else without fusing integers, so that it runs in floats. Storing weights as uint8
# breaks graphs whose layers share one, and fusing breaks joins of float16 tensors, as QLinearConcat has scales of float32 alone.
_ATTEMPTS = (("1", ()), ("0", ("QDQSelectorActionTransformer",)))


def open_graph(graph: bytes, *, precision: Precision, options: BackendOptions) -> OnnxRuntimeBackend:
    del precision  # the graph carries it: ONNX Runtime has no precision switch on the CPU
    if options.device not in (None, "CPU"):
        raise BackendError(f"onnxruntime runs on the CPU here, not on {options.device}", hint="--device CPU, or --backend openvino")
    return OnnxRuntimeBackend(graph, options)


def open_for_any_size(graph: bytes) -> OnnxRuntimeBackend:
    """Open `graph` so that a picture of a size which it does not take ends in a BackendError always; it is slower.

    Raises:
        BackendError: ONNX Runtime cannot open it.
    """
    return OnnxRuntimeBackend(graph, BackendOptions(), without=(_ENDS_THE_PROCESS,))


class OnnxRuntimeBackend:
    """See `runtime.backends.backend.Backend`."""

    name = "onnxruntime"
    limits = None

    def __init__(self, graph: bytes, options: BackendOptions, *, without: Sequence[str] = ()) -> None:
        self._graph = graph
        self._unwanted = [*_UNWANTED, *without]
        self._threads = options.threads
        self._free_places = BoundedSemaphore(options.parallel)
        self._session = self._open(lambda: session_options(options.threads, spinning=options.spinning))
        self._input = self._session.get_inputs()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._session, self._input  # the latter keeps the session, and all its memory, too

    def run(self, array: NDArray[Values]) -> NDArray[Values]:
        with self._free_places:
            return self._run(self._session, array)

    def precisions(self) -> tuple[LayerPrecision, ...]:
        shape = [size if isinstance(size, int) else _PROBE for size in self._input.shape]
        shape[0] = 1 if not isinstance(self._input.shape[0], int) else shape[0]
        with tempfile.TemporaryDirectory() as folder:

            def profiled() -> ort.SessionOptions:
                options = session_options(self._threads)
                options.enable_profiling = True
                options.profile_file_prefix = str(Path(folder) / "profile")
                return options

            session = self._open(profiled)
            self._run(session, np.zeros(shape, _DTYPES[self._input.type]))
            events = json.loads(Path(session.end_profiling()).read_text())
        return tuple(_layer(event) for event in events if event["name"].endswith("_kernel_time"))

    def _run(self, session: ort.InferenceSession, array: NDArray[Values]) -> NDArray[Values]:
        try:
            outputs: list[NDArray[Values]] = session.run(None, {self._input.name: array})
        except Exception as error:  # its own exceptions have no base but this
            reason = str(error).splitlines()[0]
            raise BackendError(f"onnxruntime {ort.__version__} cannot run {array.shape} through this graph: {reason}") from error
        return outputs[0]

    def _open(self, make_options: Callable[[], ort.SessionOptions]) -> ort.InferenceSession:
        errors: list[Exception] = []
        for exact_products, without in _ATTEMPTS:
            options = make_options()
            options.add_session_config_entry(_EXACT_PRODUCTS, exact_products)
            try:
                return _session(self._graph, options, [*self._unwanted, *without])
            except Exception as error:  # noqa: BLE001 # its own exceptions have no base but this; raised below
                errors.append(error)
        reason = str(errors[0]).splitlines()[0]
        raise BackendError(f"onnxruntime {ort.__version__} cannot open this graph: {reason}") from errors[0]


def _session(graph: bytes, options: ort.SessionOptions, without: list[str]) -> ort.InferenceSession:
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=without)


def run_as_written(graph: bytes, array: NDArray[Values]) -> NDArray[Values]:
    """Run each operator of `graph` as ONNX defines it, one after the other: the graph optimiser is off.

    Raises:
        BackendError: ONNX Runtime cannot open or run it.
    """
    options = session_options(spinning=False)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        outputs: list[NDArray[Values]] = session.run(None, {session.get_inputs()[0].name: array})
    except Exception as error:  # its own exceptions have no base but this
        raise BackendError(f"onnxruntime {ort.__version__} cannot simulate this graph: {str(error).splitlines()[0]}") from error
    return outputs[0]


def session_options(threads: int | None = None, *, spinning: bool = True) -> ort.SessionOptions:
    """Options of a session that writes nothing to stderr: those of every session of this project.

    `spinning`: as of `open_backend`.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_NOTHING
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _layer(event: dict[str, Any]) -> LayerPrecision:
    arguments = event["args"]
    name = _REWRITTEN.sub("", event["name"].removesuffix("_kernel_time"))
    # A kernel multiplies in the type of its first input.
    reads, writes = _first_type(arguments["input_type_shape"]), _first_type(arguments["output_type_shape"])
    return LayerPrecision(name, arguments["op_name"], reads, writes)


def _first_type(tensors: list[dict[str, list[int]]]) -> RanIn:
    """Return the types that a profile lists: each tensor is a one-item dict {type: shape}."""
    return _NAMES.get(next(iter(tensors[0]), ""), "other") if tensors else "other"
