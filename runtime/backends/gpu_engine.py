"""Run an engine on an NVIDIA GPU, with TensorRT or TensorRT for RTX: an engine that its library has read in, arrays out.

The two libraries have one Python API in two modules. Each run that may happen at a time has its own execution context, stream and
buffers. Where the engine takes but one shape, its work is captured once and launched as a CUDA graph.
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-api-docs.html
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray
from typing_extensions import Self

from ..bundle import Io
from ..errors import BackendError
from ..sizes import SizeLimits
from .backend import DeviceTimes, Values
from .cuda import Buffers, CapturedWork, Gpu
from .engines import EngineInput

_log = logging.getLogger(__name__)
_SHAPES_KEPT = 4  # buffers of as many shapes stay allocated; an app that streams has one, tiles of one picture have one


class ErrorLog(Protocol):
    """A logger of a library's that keeps its last errors."""

    @property
    def reasons(self) -> str: ...


@dataclass
class LoadedEngine:
    """An engine that a library has read.

    Attributes:
        trt: the library's module.
        name: what the library is called in errors.
        logger: the library's, which keeps its errors.
        runtime: the engine needs it for as long as it is used.
    """

    trt: Any
    name: str
    logger: ErrorLog
    runtime: Any
    engine: Any


class GpuEngine:
    """All that `runtime.backends.backend.Backend` and `DeviceTimer` ask for but `precisions`.

    It enters and leaves the GPU that it is given.
    """

    def __init__(self, load: Callable[[], LoadedEngine], takes: EngineInput, *, gpu: Gpu, parallel: int = 1) -> None:
        """`load` is called in the GPU's context."""
        self.limits: SizeLimits | None = takes.profile.limits
        self._takes = takes
        self._gpu = gpu
        self._loaded: LoadedEngine | None = None
        self._lanes: list[_Lane] = []
        self._free: SimpleQueue[_Lane] = SimpleQueue()
        with ExitStack() as opened:
            opened.enter_context(gpu)
            opened.callback(self._drop)
            with gpu.current():
                self._loaded = load()
                for _ in range(parallel):  # they share the one profile, as TensorRT 10 and newer allow
                    self._lanes.append(_Lane(self._loaded, takes))
            self._opened = opened.pop_all()
        for lane in self._lanes:
            self._free.put(lane)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()

    def _drop(self) -> None:
        """What there is on the GPU, in this order: each holds what the next is made of."""
        with self._gpu.current():
            for lane in self._lanes:
                lane.close()
            if self._loaded is not None:
                self._loaded.engine = None
                self._loaded.runtime = None

    def run(self, array: NDArray[Values]) -> NDArray[Values]:
        self._check(array)
        with self._lane() as lane:
            return lane.run(array)

    def time_on_device(self, array: NDArray[Values], count: int) -> DeviceTimes:
        self._check(array)
        with self._lane() as lane:
            times = [lane.time(array) for _ in range(count)]
        return DeviceTimes(tuple(alone for alone, _ in times), tuple(whole for _, whole in times))

    def inspect(self) -> str:
        """Return what the engine inspector tells of the layers, as JSON."""
        with self._lane() as lane:
            return lane.inspect()

    def _check(self, array: NDArray[Values]) -> None:
        axes = ["batch", "height", "width"]
        axes.insert(self._takes.channel_axis, "channels")
        if array.dtype != self._takes.io or array.ndim != len(axes):
            raise BackendError(f"this engine takes {self._takes.io} of {', '.join(axes)}; got {array.shape} {array.dtype}")
        if not self._takes.holds(array.shape):
            raise BackendError(
                f"this engine takes {self._takes.profile}; got {array.shape} ({', '.join(axes)})",
                hint="python -m export.engine with --min, --max or --batch that hold it, or leave tiling to the Upscaler",
            )

    @contextmanager
    def _lane(self) -> Iterator[_Lane]:
        """One that no other thread uses meanwhile, in the GPU's context."""
        lane = self._free.get()
        try:
            with self._gpu.current():
                yield lane
        finally:
            self._free.put(lane)


class _Lane:
    """One execution context with its stream and buffers; one thread at a time."""

    def __init__(self, loaded: LoadedEngine, takes: EngineInput) -> None:
        self._loaded = loaded
        self._takes = takes
        self._input, self._output = _input_and_output(loaded, takes.io)
        self._context = loaded.engine.create_execution_context()
        if self._context is None:
            hint = "build it for smaller windows (--max), or run fewer at a time (--parallel)"
            raise BackendError(f"no memory for this engine on the GPU: {loaded.logger.reasons}", hint=hint)
        self._stream = cuda.Stream()
        self._buffers: dict[tuple[int, ...], Buffers] = {}
        self._shape: tuple[int, ...] = ()
        self._captured: CapturedWork | None = None
        self._may_capture = takes.profile.fixed

    def run(self, array: NDArray[Values]) -> NDArray[Values]:
        buffers = self._prepare(array)
        buffers.copy_in(self._stream)
        self._enqueue()
        buffers.copy_out(self._stream)
        self._stream.synchronize()
        return buffers.host_output.astype(array.dtype)  # a copy, of the same type

    def time(self, array: NDArray[Values]) -> tuple[float, float]:
        """Milliseconds between CUDA events: around the network, and around the copies and the network."""
        buffers = self._prepare(array)
        before, copied, computed, after = (cuda.Event() for _ in range(4))
        before.record(self._stream)
        buffers.copy_in(self._stream)
        copied.record(self._stream)
        self._enqueue()
        computed.record(self._stream)
        buffers.copy_out(self._stream)
        after.record(self._stream)
        after.synchronize()
        return copied.time_till(computed), before.time_till(after)

    def inspect(self) -> str:
        """Return the inspector's JSON, for the shape that the engine is fastest at: without one it tells no types."""
        trt, engine = self._loaded.trt, self._loaded.engine
        channels = engine.get_tensor_shape(self._input)[self._takes.channel_axis]
        self._set_shape(self._takes.shape(1, self._takes.profile.opt, channels=channels))
        inspector = engine.create_engine_inspector()
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        if self._captured is not None:
            self._captured.close()
        del self._captured, self._buffers, self._stream, self._context, self._loaded

    def _prepare(self, array: NDArray[Values]) -> Buffers:
        """Buffers of this shape, the context set to it, and the input in the pinned one."""
        if array.shape != self._shape:
            self._set_shape(array.shape)
        if array.shape not in self._buffers:
            if len(self._buffers) == _SHAPES_KEPT:
                self._buffers.pop(next(iter(self._buffers)))
            output_shape = tuple(self._context.get_tensor_shape(self._output))
            self._buffers[array.shape] = Buffers.allocate(array.shape, output_shape, array.dtype.type)
        buffers = self._buffers[array.shape]
        self._context.set_tensor_address(self._input, int(buffers.device_input))
        self._context.set_tensor_address(self._output, int(buffers.device_output))
        if self._may_capture:
            self._capture()
        np.copyto(buffers.host_input, array)
        return buffers

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(self._input, shape):
            raise BackendError(f"{self._loaded.name} refuses the shape {shape}: {self._loaded.logger.reasons}")
        self._shape = shape

    def _enqueue(self) -> None:
        if self._captured is not None:
            self._captured.launch()
        elif not self._context.execute_async_v3(self._stream.handle):
            raise BackendError(f"{self._loaded.name} cannot run {self._shape}: {self._loaded.logger.reasons}")

    def _capture(self) -> None:
        """Once, after a run, as TensorRT asks; an engine that cannot be captured is run call by call."""
        self._may_capture = False
        self._enqueue()
        self._stream.synchronize()
        with suppress(BackendError):
            self._captured = CapturedWork(self._stream.handle, self._enqueue)
        if self._captured is None:
            _log.warning("this engine cannot be captured as a CUDA graph: its layers are started one by one")


def _input_and_output(loaded: LoadedEngine, io: Io) -> tuple[str, str]:
    """Return the names of the one input and the one output; BackendError where there are others, or other types than `io`."""
    trt, engine = loaded.trt, loaded.engine
    wanted = trt.uint8 if io == "uint8" else trt.float32
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    if len(inputs) != 1 or len(outputs) != 1 or any(engine.get_tensor_dtype(name) != wanted for name in names):
        raise BackendError(f"this engine has inputs {inputs} and outputs {outputs}; expected one of each, {io}")
    return inputs[0], outputs[0]
