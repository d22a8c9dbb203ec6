"""Run graphs on an NVIDIA RTX GPU through ONNX Runtime's plugin for TensorRT for RTX: a bundle's ONNX graph in, arrays out.

The plugin builds the engine itself when the graph is opened, by the parser and builder that `python -m export.engine --for
tensorrt-rtx` has; neither an engine in the bundle nor pycuda is needed.
https://nvidia.github.io/TensorRT-RTX-EP-ABI/integration-guide.html
"""

from __future__ import annotations

import ctypes
import importlib
from functools import cache
from pathlib import Path
from threading import BoundedSemaphore
from types import TracebackType

import onnxruntime as ort
from numpy.typing import NDArray
from typing_extensions import Self

from ..errors import BackendError
from ..targets import Precision
from .backend import BackendOptions, LayerPrecision, Values
from .onnxruntime import session_options
from .tensorrt_rtx_library import PLUGIN

_NAME = "onnxruntime-rtx"
_HINT = "nvidia-smi shows the driver, which must know CUDA 13, and the GPU, an RTX 30 or later; without one: --backend onnxruntime"


def open_graph(graph: bytes, *, precision: Precision, options: BackendOptions) -> OnnxRuntimeRtxBackend:
    del precision  # the graph carries it: the plugin builds strongly typed networks
    devices = {f"cuda:{number}": device for number, device in enumerate(_devices())}
    chosen = devices.get(options.device or "cuda:0")
    if chosen is None:
        raise BackendError(f"no GPU {options.device}; {_NAME} has: {', '.join(devices)}", hint="--device cuda:0")
    return OnnxRuntimeRtxBackend(graph, chosen, options)


class OnnxRuntimeRtxBackend:
    """See `runtime.backends.backend.Backend`."""

    name = _NAME
    limits = None

    def __init__(self, graph: bytes, device: ort.OrtEpDevice, options: BackendOptions) -> None:
        settings = session_options(options.threads, spinning=options.spinning)
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # the builder is given the graph as written
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # what the GPU does not take is an error
        cache = {} if options.cache is None else {"nv_runtime_cache_path": str(options.cache)}
        settings.add_provider_for_devices([device], cache)  # it takes one
        try:
            self._session = ort.InferenceSession(graph, settings)
        except Exception as error:  # its own exceptions have no base but this
            raise _failed("cannot open this graph", error) from error
        self._session.disable_fallback()  # else a run that fails is repeated on the CPU without a word
        self._free_places = BoundedSemaphore(options.parallel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._session

    def run(self, array: NDArray[Values]) -> NDArray[Values]:
        with self._free_places:
            try:
                outputs: list[NDArray[Values]] = self._session.run(None, {self._session.get_inputs()[0].name: array})
            except Exception as error:  # its own exceptions have no base but this
                raise _failed(f"cannot run {array.shape} through this graph", error) from error
        return outputs[0]

    def precisions(self) -> tuple[LayerPrecision, ...]:
        """Return nothing: the plugin does not tell what its layers run in. What the builder makes of them, the engine's record
        tells that `python -m export.engine --for tensorrt-rtx` writes."""
        return ()


@cache
def _devices() -> tuple[ort.OrtEpDevice, ...]:
    """Return the GPUs that the plugin takes, at least one."""
    try:
        plugin = importlib.import_module(PLUGIN)  # loads its libraries, and links them under the names that they look for
        for runtime in Path(plugin.get_library_path()).parent.glob("libcudart.so.*"):  # but for this one
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
        ort.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
        found = tuple(device for device in ort.get_ep_devices() if device.ep_name == plugin.get_ep_name())
    except Exception as error:  # ONNX Runtime's own exceptions have no base but this
        raise _failed("cannot load the plugin of TensorRT for RTX", error) from error
    if not found:
        raise BackendError("no GPU here that ONNX Runtime's plugin of TensorRT for RTX takes", hint=_HINT)
    return found


def _failed(what: str, error: Exception) -> BackendError:
    return BackendError(f"onnxruntime {ort.__version__} {what}: {str(error).splitlines()[0]}", hint=_HINT)
