"""Run an engine of TensorRT for RTX on an NVIDIA GPU: a plan that `python -m export.engine --for tensorrt-rtx` built, arrays out.

The plan holds no code for a GPU yet: the library makes that when an execution context is created, for the GPU that is there.
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/advanced.html
"""

from __future__ import annotations

from ..bundle import sha256_bytes
from ..errors import BackendError
from ..targets import Precision
from .backend import BackendOptions, LayerPrecision
from .compiled_engines import CompiledRecord, find_compiled, read_compiled_plan
from .cuda import Gpu
from .engines import EngineInput, build_command
from .gpu_engine import GpuEngine, LoadedEngine
from .tensorrt_rtx_library import load_tensorrt_rtx, shared_logger

_NAME = "tensorrt-rtx"


def open_graph(graph: bytes, *, precision: Precision, options: BackendOptions) -> TensorRtRtxBackend:
    load_tensorrt_rtx()  # whose absence is told before a missing engine
    if options.engines is None:
        raise BackendError(
            f"{_NAME} runs engines, which a packed bundle has not",
            hint=f"python -m zipfile -e FILE FOLDER, then python -m export.engine FOLDER --for {_NAME}",
        )
    record = find_compiled(options.engines, _NAME, graph_sha256=sha256_bytes(graph), precision=precision, io=options.io)
    gpu = Gpu(options.device)
    again = build_command(options.engines.parent, compiler=_NAME, precision=precision, io=options.io)
    reason = _why_unfit(record, gpu)
    if reason is not None:
        capability = "".join(map(str, gpu.compute_capability))
        raise BackendError(
            f"the {precision} engine in {options.engines} cannot run here: {reason}",
            hint=f"{again} --architecture {capability}, where --list names it",
        )
    return TensorRtRtxBackend(read_compiled_plan(options.engines, record), record, gpu=gpu, parallel=options.parallel)


class TensorRtRtxBackend(GpuEngine):
    """See `runtime.backends.backend.Backend`, and `DeviceTimer` there."""

    name = _NAME

    def __init__(self, plan: bytes, record: CompiledRecord, *, gpu: Gpu, parallel: int = 1) -> None:
        assert record.key.profile is not None  # this compiler's engines have sizes
        super().__init__(lambda: _deserialize(plan), EngineInput(record.key.io, record.key.profile), gpu=gpu, parallel=parallel)
        self._record = record

    def precisions(self) -> tuple[LayerPrecision, ...]:
        """What the builder said when the engine was built."""
        return self._record.precisions


def _why_unfit(record: CompiledRecord, gpu: Gpu) -> str | None:
    """Return what keeps the engine from running there; None where nothing does."""
    version = str(load_tensorrt_rtx().__version__)
    if record.key.version != version:
        return f"it was built by TensorRT for RTX {record.key.version}, and this is {version}"
    capability = "".join(map(str, gpu.compute_capability))
    if capability not in record.key.architectures:
        return f"it was built for compute capability {', '.join(record.key.architectures)}, and {gpu.name} has {capability}"
    return None


def _deserialize(plan: bytes) -> LoadedEngine:
    trt, logger = load_tensorrt_rtx(), shared_logger()
    name = f"TensorRT for RTX {trt.__version__}"
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"{name} cannot read this engine: {logger.reasons}")
    return LoadedEngine(trt, name, logger, runtime, engine)
