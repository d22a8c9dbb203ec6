"""Run graphs with OpenVINO on the CPU.

Precisions are read from the compiled model's runtime graph, where each primitive lists its precision and the layers fused into it.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from typing_extensions import Self

from ..bundle import sha256_bytes
from ..errors import BackendError
from ..targets import Precision
from .backend import BackendOptions, LayerPrecision, RanIn, Values
from .compiled import CompiledGraphs
from .processor import describe_processor

_log = logging.getLogger(__name__)
_NAMES: dict[str, RanIn] = {
    "f32": "fp32",
    "f16": "fp16",
    "bf16": "bf16",
    "u8": "int8",
    "i8": "int8",
}
_WITHOUT_BIAS = "/WithoutBiases"  # what it calls the product of a layer whose bias it adds apart
# What openvino's binding sets up at its first conversion from and to numpy hangs where two threads come to it at once: one waits
# for it with Python's lock in hand, which the other needs to finish. So each backend comes to it here, under a lock.
_ONE_THREAD = Lock()
# openvino keeps what it prepares for each input size, 5,000 pieces a stream: up to 2 MB a size of LESRCNN, and so without end for
# pictures of random sizes. With 10 memory is flat. One size, or random ones, are as fast; nine small sizes in turns take 7% longer.
_SIZES_KEPT = "CPU_RUNTIME_CACHE_CAPACITY"


def open_graph(graph: bytes, *, precision: Precision, options: BackendOptions) -> OpenVinoBackend:
    return OpenVinoBackend(_Source(graph), precision=precision, options=options)


def open_ir(xml: bytes, weights: bytes, *, options: BackendOptions) -> OpenVinoBackend:
    """Open a graph in openvino's own format: an .xml file and the .bin file of its weights; int8 where it has quantizers."""
    return OpenVinoBackend(_Source(xml, weights), precision="int8", options=options)


@dataclass(frozen=True)
class _Source:
    """A graph as it is in its file: ONNX, or openvino's own .xml with the weights of its .bin."""

    graph: bytes
    weights: bytes = b""


class OpenVinoBackend:
    """See `runtime.backends.backend.Backend`."""

    name = "openvino"
    limits = None

    def __init__(self, graph: _Source, *, precision: Precision, options: BackendOptions) -> None:
        device = options.device or "CPU"
        with _ONE_THREAD:
            _ = ov.Tensor(np.zeros(1, np.float32)).data
        try:
            core = ov.Core()
            if device.partition(".")[0] not in {known.partition(".")[0] for known in core.available_devices}:
                found = ", ".join(core.available_devices)
                raise BackendError(f"openvino {ov.__version__} finds no {device} here; it has: {found}", hint=f"--device {found}")
            if device == "CPU":
                _bound_memory(core)
            config = _config(precision, options, on_cpu=device == "CPU")
            self._model = _open(core, graph, device, config, cache=options.cache)
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
        requests = self._requests  # which those that wait still get one from when the backend is closed meanwhile
        request = requests.get()
        try:
            outputs = request.infer([array], share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise BackendError(f"openvino {ov.__version__} cannot run {array.shape} through this graph: {reason}") from error
        finally:
            requests.put(request)
        result: NDArray[Values] = outputs[0]
        return result

    def precisions(self) -> tuple[LayerPrecision, ...]:
        found = []
        for node in self._model.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            kind = info["layerType"].astype(str)
            precision = _NAMES.get(info["runtimePrecision"].astype(str), "other")
            writes = _NAMES.get(info["outputPrecisions"].astype(str).partition(",")[0], "other")  # one for each output
            names = info["originalLayersNames"].astype(str).split(",")
            own = [name.removesuffix(_WITHOUT_BIAS) for name in names]  # a Gemm has its bare name nowhere
            for name in [*names, *(name for name in dict.fromkeys(own) if name not in names)]:
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
    return config


def _bound_memory(core: ov.Core) -> None:
    try:
        core.set_property("CPU", {_SIZES_KEPT: 10})
    except RuntimeError:  # it is no documented property: a later version may have another
        _log.warning("openvino %s takes no %s: its memory grows with every size of picture", ov.__version__, _SIZES_KEPT)


def _open(core: ov.Core, graph: _Source, device: str, config: dict[str, object], *, cache: Path | None) -> ov.CompiledModel:
    """Return the compiled graph, from the cache where there is one that holds it.

    openvino's own cache is left alone: it maps files that another process may be writing, and believes what they hold.
    """
    if cache is None:
        return _compile(core, graph, device, config)
    if "EXPORT_IMPORT" not in _ask(core, device, "OPTIMIZATION_CAPABILITIES"):
        _log.warning("openvino keeps no compiled graphs of %s", device)
        return _compile(core, graph, device, config)
    kept, key = CompiledGraphs(cache), _key(core, graph, device, config)
    found = kept.read(key)
    if found is not None:
        try:
            return core.import_model(BytesIO(found), device, config)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            _log.warning("openvino cannot read the graph that it compiled, which is compiled again: %s", reason)
            kept.remove(key)
    model = _compile(core, graph, device, config)
    exported = model.export_model()  # bytes, and in newer versions a file of them
    kept.write(key, exported.getvalue() if isinstance(exported, BytesIO) else bytes(exported))
    return model


def _compile(core: ov.Core, graph: _Source, device: str, config: dict[str, object]) -> ov.CompiledModel:
    model = core.read_model(graph.graph, graph.weights) if graph.weights else core.read_model(graph.graph)
    return core.compile_model(model, device, config)


def _key(core: ov.Core, graph: _Source, device: str, config: dict[str, object]) -> bytes:
    """Return all that a compiled graph follows from: another processor, version, setting or number of cores has another key."""
    # What the device itself names for openvino's own cache: for a GPU its driver, for instance.
    names = ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE", "OPTIMIZATION_CAPABILITIES", *_ask(core, device, "CACHING_PROPERTIES"))
    parts = {
        "graph": sha256_bytes(graph.graph + graph.weights),
        "openvino": ov.get_version(),
        "device": [device, *(str(_ask(core, device, name)) for name in names)],
        "processor": describe_processor(),
        "cores": os.cpu_count() if not hasattr(os, "sched_getaffinity") else len(os.sched_getaffinity(0)),
        "config": config,
    }
    return json.dumps(parts, sort_keys=True).encode()


def _ask(core: ov.Core, device: str, name: str) -> Any:  # noqa: ANN401 # each property has a type of its own
    """Return what the device says; nothing where it does not know the property."""
    try:
        return core.get_property(device, name)
    except RuntimeError:
        return ()
