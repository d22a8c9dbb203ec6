"""Run an engine with TensorRT 10 or 11 on an NVIDIA GPU: a plan that `python -m export.engine` built here in, arrays out."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import tensorrt as trt

from ..bundle import sha256_bytes
from ..errors import BackendError
from ..targets import Precision
from .backend import BackendOptions, LayerPrecision
from .cuda import Gpu
from .engines import EngineKey, build_command, find_engine, read_plan
from .gpu_engine import GpuEngine, LoadedEngine
from .tensorrt_layers import parse_layers

_log = logging.getLogger(__name__)


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


class TensorRtBackend(GpuEngine):
    """See `runtime.backends.backend.Backend`, and `DeviceTimer` there."""

    name = "tensorrt"

    def __init__(self, plan: bytes, key: EngineKey, *, gpu: Gpu, parallel: int = 1) -> None:
        super().__init__(lambda: deserialize(plan, key), key.takes, gpu=gpu, parallel=parallel)

    def precisions(self) -> tuple[LayerPrecision, ...]:
        return parse_layers(self.inspect())


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


def deserialize(plan: bytes, key: EngineKey) -> LoadedEngine:
    """Return the engine; in the current GPU's context.

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
    return LoadedEngine(trt, "TensorRT", logger, runtime, engine)
