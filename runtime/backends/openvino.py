"""OpenVINO on the CPU.

Precisions are read from the compiled model's runtime graph, where each primitive lists its precision and the layers fused into it.
"""

from __future__ import annotations

from queue import SimpleQueue
from threading import Lock
from types import TracebackType

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from typing_extensions import Self

from runtime.backends.backend import BackendOptions, LayerPrecision, RanIn, Values
from runtime.errors import BackendError
from runtime.targets import Precision

_NAMES: dict[str, RanIn] = {
    "f32": "fp32",
    "f16": "fp16",
    "bf16": "bf16",
    "u8": "int8",
    "i8": "int8",
}
# What openvino's binding sets up at its first conversion from and to numpy hangs where two threads come to it at once: one waits
# for it with Python's lock in hand, which the other needs to finish. So each backend comes to it here, under a lock.
_ONE_THREAD = Lock()


def open_graph(graph: bytes, *, precision: Precision, options: BackendOptions) -> OpenVinoBackend:
    return OpenVinoBackend(graph, precision=precision, options=options)


class OpenVinoBackend:
    """See `runtime.backends.backend.Backend`."""

    name = "openvino"
    limits = None

    def __init__(self, graph: bytes, *, precision: Precision, options: BackendOptions) -> None:
        device = options.device or "CPU"
        with _ONE_THREAD:
            _ = ov.Tensor(np.zeros(1, np.float32)).data
        try:
            core = ov.Core()
            if device.partition(".")[0] not in {known.partition(".")[0] for known in core.available_devices}:
                found = ", ".join(core.available_devices)
                raise BackendError(f"openvino {ov.__version__} finds no {device} here; it has: {found}", hint=f"--device {found}")
            self._model = core.compile_model(core.read_model(graph), device, _config(precision, options, on_cpu=device == "CPU"))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise BackendError(f"openvino {ov.__version__} cannot open this graph: {reason}") from error
        self._requests: SimpleQueue[ov.InferRequest] = SimpleQueue()
        for _ in range(options.parallel):
            self._requests.put(self._model.create_infer_request())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._requests, self._model

    def run(self, array: NDArray[Values]) -> NDArray[Values]:
        request = self._requests.get()
        try:
            outputs = request.infer([array], share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise BackendError(f"openvino {ov.__version__} cannot run {array.shape} through this graph: {reason}") from error
        finally:
            self._requests.put(request)
        result: NDArray[Values] = outputs[0]
        return result

    def precisions(self) -> tuple[LayerPrecision, ...]:
        found = []
        for node in self._model.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            kind = info["layerType"].astype(str)
            precision = _NAMES.get(info["runtimePrecision"].astype(str), "other")
            writes = _NAMES.get(info["outputPrecisions"].astype(str).partition(",")[0], "other")  # one for each output
            for name in info["originalLayersNames"].astype(str).split(","):
                found.append(LayerPrecision(name, kind, precision, writes))
        return tuple(found)


def _config(precision: Precision, options: BackendOptions, *, on_cpu: bool) -> dict[str, object]:
    config: dict[str, object] = {
        # Without it openvino may compute fp32 graphs in bf16 or fp16 where the CPU has them.
        "INFERENCE_PRECISION_HINT": {"fp16": "f16", "bf16": "bf16"}.get(precision, "f32"),
        "PERFORMANCE_HINT": "LATENCY" if options.parallel == 1 else "THROUGHPUT",
    }
    if on_cpu:
        # A pinned thread waits for its core while another is free: 15 times slower beside a busy program, or another Upscaler.
        config["ENABLE_CPU_PINNING"] = False
    if options.parallel > 1:
        config["NUM_STREAMS"] = options.parallel
    if options.threads is not None:
        config["INFERENCE_NUM_THREADS"] = options.threads
    if options.cache is not None:
        config["CACHE_DIR"] = str(options.cache)
    return config
