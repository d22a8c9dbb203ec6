"""OpenVINO on the CPU.

Precisions are read from the compiled model's runtime graph, where each primitive lists its precision and the layers fused into it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from runtime.backends.backend import LayerPrecision, RanIn
from runtime.errors import BackendError
from runtime.targets import Precision

_NAMES: dict[str, RanIn] = {
    "f32": "fp32",
    "f16": "fp16",
    "bf16": "bf16",
    "u8": "int8",
    "i8": "int8",
}


def open_graph(graph: bytes, *, precision: Precision, threads: int | None) -> OpenVinoBackend:
    return OpenVinoBackend(graph, precision=precision, threads=threads)


class OpenVinoBackend:
    """See `runtime.backends.backend.Backend`."""

    name = "openvino"

    def __init__(self, graph: bytes, *, precision: Precision, threads: int | None) -> None:
        config: dict[str, object] = {
            # Without it openvino may compute fp32 graphs in bf16 or fp16 where the CPU has them.
            "INFERENCE_PRECISION_HINT": {"fp16": "f16", "bf16": "bf16"}.get(precision, "f32"),
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            core = ov.Core()
            self._model = core.compile_model(core.read_model(graph), "CPU", config)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise BackendError(f"openvino {ov.__version__} cannot open this graph: {reason}") from error
        self._request = self._model.create_infer_request()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._request, self._model

    def run(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs = self._request.infer([array], share_inputs=True, share_outputs=False)
        result: NDArray[np.float32] = outputs[0]
        return result

    def precisions(self) -> tuple[LayerPrecision, ...]:
        found = []
        for node in self._model.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            kind = info["layerType"].astype(str)
            precision = _NAMES.get(info["runtimePrecision"].astype(str), "other")
            for name in info["originalLayersNames"].astype(str).split(","):
                found.append(LayerPrecision(name, kind, precision))
        return tuple(found)
