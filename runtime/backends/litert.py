"""Run .tflite files that were written beforehand with LiteRT on the CPU: its own kernels, XNNPACK's where that has them.

https://ai.google.dev/edge/litert; `python -m export.engine --for litert` writes the files.
"""

from __future__ import annotations

import os
import platform
from queue import SimpleQueue
from types import TracebackType

import ai_edge_litert
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from typing_extensions import Self

from ..bundle import sha256_bytes
from ..errors import BackendError
from ..sizes import SizeLimits
from ..targets import Precision
from .backend import BackendOptions, LayerPrecision, Values
from .compiled_engines import find_compiled, read_compiled_plan
from .litert_layers import read_layers
from .native_output import quietly

_HALVES_ARE_COMPUTED_IN_FP32 = ("x86_64", "AMD64")  # XNNPACK has kernels of half precision for Arm


def open_graph(graph: bytes, *, precision: Precision, options: BackendOptions) -> LiteRtBackend:
    """Open the engine of `graph` in the folder that `options` name."""
    if options.device not in (None, "CPU"):
        raise BackendError(f"litert runs on the CPU here, not on {options.device}", hint="--device CPU")
    if options.engines is None:
        raise BackendError(
            "litert runs files that were written beforehand, and none was named", hint="python -m export.engine --for litert"
        )
    record = find_compiled(options.engines, "litert", graph_sha256=sha256_bytes(graph), precision=precision, io=options.io)
    profile = record.key.profile
    return LiteRtBackend(read_compiled_plan(options.engines, record), options, limits=None if profile is None else profile.limits)


class LiteRtBackend:
    """See `runtime.backends.backend.Backend`. An interpreter has one size at a time: another one prepares it anew."""

    name = "litert"

    def __init__(self, file: bytes, options: BackendOptions, *, limits: SizeLimits | None) -> None:
        self.limits = limits
        self._file = file
        self._floats = options.io == "float32"
        threads = max((options.threads or os.cpu_count() or 1) // options.parallel, 1)
        self._interpreters: SimpleQueue[Interpreter] = SimpleQueue()
        for _ in range(options.parallel):
            self._interpreters.put(_open(file, threads=threads))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._interpreters

    def run(self, array: NDArray[Values]) -> NDArray[Values]:
        interpreters = self._interpreters  # which those that wait still get one from when the backend is closed meanwhile
        interpreter = interpreters.get()
        try:
            return self._run(interpreter, array)
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [""])[-1]
            raise BackendError(f"litert {version()} cannot run {array.shape} through this file: {reason}") from error
        finally:
            interpreters.put(interpreter)

    def precisions(self) -> tuple[LayerPrecision, ...]:
        """Return what the file says, and fp32 of weights in fp16 where the CPU has no kernels of that."""
        layers = read_layers(self._file)
        if platform.machine() not in _HALVES_ARE_COMPUTED_IN_FP32:
            return layers
        return tuple(
            LayerPrecision(layer.name, layer.op, "fp32", layer.writes) if layer.precision == "fp16" else layer for layer in layers
        )

    def _run(self, interpreter: Interpreter, array: NDArray[Values]) -> NDArray[Values]:
        (entry,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
        given = np.ascontiguousarray(array.transpose(0, 2, 3, 1) if self._floats else array)
        if tuple(entry["shape"]) != given.shape:
            with quietly(2, noise=b"INFO:"):
                interpreter.resize_tensor_input(entry["index"], given.shape, strict=True)
                interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], given)
        interpreter.invoke()
        made: NDArray[Values] = interpreter.get_tensor(end["index"])
        return np.ascontiguousarray(made.transpose(0, 3, 1, 2)) if self._floats else made


def version() -> str:
    return str(ai_edge_litert.__version__)


def check_file(file: bytes) -> None:
    """Raise BackendError where LiteRT cannot open the file."""
    _open(file, threads=1)


def _open(file: bytes, *, threads: int) -> Interpreter:
    try:
        with quietly(2, noise=b"INFO:"):
            interpreter = Interpreter(model_content=file, num_threads=threads)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise BackendError(f"litert {version()} cannot open this file: {reason}") from error
    return interpreter
