"""Run an engine with TensorRT 10 or 11 on an NVIDIA GPU: a plan that `python -m export.engine` built here in, arrays out.

Each run that may happen at a time has its own execution context, stream and buffers. Where the engine takes but one shape, its work
is captured once and launched as a CUDA graph.
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-api-docs.html
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
import pycuda.driver as cuda
import tensorrt as trt
from numpy.typing import NDArray
from typing_extensions import Self

from ..bundle import Io, sha256_bytes
from ..errors import BackendError
from ..targets import Precision
from .backend import BackendOptions, DeviceTimes, LayerPrecision, Values
from .cuda import Buffers, CapturedWork, Gpu
from .engines import EngineKey, build_command, find_engine, read_plan
from .tensorrt_layers import parse_layers

_log = logging.getLogger(__name__)
_SHAPES_KEPT = 4  # buffers of as many shapes stay allocated; an app that streams has one, tiles of one picture have one


def open_graph(graph: bytes, *, precision: Precision, options: BackendOptions) -> TensorRtBackend:
    if options.engines is None:
        raise BackendError(
            "tensorrt runs engines, which a packed bundle has not",
            hint="python -m zipfile -e FILE FOLDER, then python -m export.engine FOLDER on this machine",
        )
    record = find_engine(options.engines, graph_sha256=sha256_bytes(graph), precision=precision, io=options.io)
    gpu = Gpu(options.device)
    reason = record.key.why_unfit(tensorrt=trt.__version__, gpu=gpu.name, compute_capability=gpu.compute_capability)
    if reason is not None:
        again = build_command(options.engines.parent, precision=precision, io=options.io)
        raise BackendError(
            f"the {precision} engine in {options.engines} cannot run here: {reason}", hint=f"{again}, on this machine"
        )
    return TensorRtBackend(read_plan(options.engines, record), record.key, gpu=gpu, parallel=options.parallel)


class TensorRtBackend:
    """See `runtime.backends.backend.Backend`, and `DeviceTimer` there. It enters and leaves the GPU that it is given."""

    name = "tensorrt"

    def __init__(self, plan: bytes, key: EngineKey, *, gpu: Gpu, parallel: int = 1) -> None:
        self.limits = key.profile.limits
        self._key = key
        self._gpu = gpu
        self._runtime: Any = None
        self._engine: Any = None
        self._lanes: list[_Lane] = []
        self._free: SimpleQueue[_Lane] = SimpleQueue()
        with ExitStack() as opened:
            opened.enter_context(gpu)
            opened.callback(self._drop)
            with gpu.current():
                self._runtime, self._engine = deserialize(plan, key)
                for _ in range(parallel):  # they share the one profile, as TensorRT 10 and newer allow
                    self._lanes.append(_Lane(self._engine, key, shared_logger()))
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
            self._engine = None
            self._runtime = None

    def run(self, array: NDArray[Values]) -> NDArray[Values]:
        self._check(array)
        with self._lane() as lane:
            return lane.run(array)

    def time_on_device(self, array: NDArray[Values], count: int) -> DeviceTimes:
        self._check(array)
        with self._lane() as lane:
            times = [lane.time(array) for _ in range(count)]
        return DeviceTimes(tuple(alone for alone, _ in times), tuple(whole for _, whole in times))

    def precisions(self) -> tuple[LayerPrecision, ...]:
        with self._lane() as lane:
            return parse_layers(lane.inspect())

    def _check(self, array: NDArray[Values]) -> None:
        axes = ["batch", "height", "width"]
        axes.insert(self._key.channel_axis, "channels")
        if array.dtype != self._key.io or array.ndim != len(axes):
            raise BackendError(f"this engine takes {self._key.io} of {', '.join(axes)}; got {array.shape} {array.dtype}")
        if not self._key.holds(array.shape):
            raise BackendError(
                f"this engine takes {self._key.profile}; got {array.shape} ({', '.join(axes)})",
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


class Logger(trt.ILogger):  # type: ignore[misc] # tensorrt has no types
    """Passes TensorRT's messages on to logging, and keeps its errors for ours."""

    def __init__(self) -> None:
        super().__init__()
        self._errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self._errors.append(message)
        elif severity == trt.ILogger.Severity.WARNING:
            _log.info("TensorRT: %s", message)  # there may be one per layer

    @property
    def reasons(self) -> str:
        """The last errors, and none twice."""
        reasons = "; ".join(dict.fromkeys(self._errors[-3:])) or "it gives no reason"
        self._errors.clear()
        return reasons


@cache
def shared_logger() -> Logger:
    """Return the one of this process: TensorRT reports to the first it was given, whatever it is given later."""
    return Logger()


def create(kind: Any, *arguments: object) -> Any:  # noqa: ANN401 # tensorrt has no types
    """Return an object of TensorRT; BackendError where it gives none, as it does without a GPU."""
    try:
        return kind(*arguments)
    except (TypeError, RuntimeError) as error:
        raise BackendError(
            f"TensorRT {trt.__version__} gives no {kind.__name__}: {error}", hint="nvidia-smi: is there a GPU?"
        ) from error


def deserialize(plan: bytes, key: EngineKey) -> tuple[Any, Any]:
    """TensorRT's runtime and the engine, which needs it as long as it is used; in the current GPU's context.

    Raises:
        BackendError: TensorRT cannot read it.
    """
    logger = shared_logger()
    runtime = create(trt.Runtime, logger)
    # Such a plan brings the runtime of its own version along, and that is code of the host.
    runtime.engine_host_code_allowed = key.version_compatible
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"TensorRT {trt.__version__} cannot read this engine: {logger.reasons}")
    return runtime, engine


class _Lane:
    """One execution context with its stream and buffers; one thread at a time."""

    def __init__(self, engine: Any, key: EngineKey, logger: Logger) -> None:  # noqa: ANN401
        self._engine = engine
        self._key = key
        self._logger = logger
        self._input, self._output = _input_and_output(engine, key.io)
        self._context = engine.create_execution_context()
        if self._context is None:
            hint = "build it for smaller windows (--max), or run fewer at a time (--parallel)"
            raise BackendError(f"no memory for this engine on the GPU: {logger.reasons}", hint=hint)
        self._stream = cuda.Stream()
        self._buffers: dict[tuple[int, ...], Buffers] = {}
        self._shape: tuple[int, ...] = ()
        self._captured: CapturedWork | None = None
        self._may_capture = key.profile.fixed

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
        channels = self._engine.get_tensor_shape(self._input)[self._key.channel_axis]
        self._set_shape(self._key.input_shape(1, self._key.profile.opt, channels=channels))
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        if self._captured is not None:
            self._captured.close()
        del self._captured, self._buffers, self._stream, self._context, self._engine

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
            raise BackendError(f"TensorRT refuses the shape {shape}: {self._logger.reasons}")
        self._shape = shape

    def _enqueue(self) -> None:
        if self._captured is not None:
            self._captured.launch()
        elif not self._context.execute_async_v3(self._stream.handle):
            raise BackendError(f"TensorRT cannot run {self._shape}: {self._logger.reasons}")

    def _capture(self) -> None:
        """Once, after a run, as TensorRT asks; an engine that cannot be captured is run call by call."""
        self._may_capture = False
        self._enqueue()
        self._stream.synchronize()
        with suppress(BackendError):
            self._captured = CapturedWork(self._stream.handle, self._enqueue)
        if self._captured is None:
            _log.warning("this engine cannot be captured as a CUDA graph: its layers are started one by one")


def _input_and_output(engine: Any, io: Io) -> tuple[str, str]:  # noqa: ANN401
    """Return the names of the one input and the one output; BackendError where there are others, or other types than `io`."""
    wanted = trt.uint8 if io == "uint8" else trt.float32
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    if len(inputs) != 1 or len(outputs) != 1 or any(engine.get_tensor_dtype(name) != wanted for name in names):
        raise BackendError(f"this engine has inputs {inputs} and outputs {outputs}; expected one of each, {io}")
    return inputs[0], outputs[0]
