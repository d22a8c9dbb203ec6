"""Prepare sessions on Qualcomm's Hexagon Tensor Processor (HTP) through ONNX Runtime's plugin for QNN.

On a Snapdragon the plugin runs the NPU; on x86 its library emulates the NPU's arithmetic.
https://github.com/onnxruntime/onnxruntime-qnn/blob/main/docs/execution_providers/QNN-ExecutionProvider.md
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import onnxruntime as ort
import onnxruntime_qnn

from ..errors import BackendError
from .onnxruntime import session_options

_PROVIDER = "QNNExecutionProvider"
_EVERYWHERE = {
    "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
    "offload_graph_io_quantization": "0",  # else ONNX Runtime's CPU kernels quantize the picture
}


def version() -> str:
    return str(onnxruntime_qnn.__version__)


def htp_options(settings: Mapping[str, str] | None = None) -> ort.SessionOptions:
    """Return the options of a session in which every operator runs on the HTP; `settings` are the provider's own, by name.

    Raises:
        BackendError: ONNX Runtime does not load the plugin.
    """
    options = session_options()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_provider_for_devices(_devices(), {**_EVERYWHERE, **(settings or {})})
    return options


@cache
def _devices() -> list[ort.OrtEpDevice]:
    try:
        ort.register_execution_provider_library(_PROVIDER, onnxruntime_qnn.get_library_path())
        found = [device for device in ort.get_ep_devices() if device.ep_name == _PROVIDER]
    except Exception as error:  # its own exceptions have no base but this
        raise BackendError(f"onnxruntime {ort.__version__} cannot load QNN {version()}: {error}") from error
    if not found:
        raise BackendError(f"QNN {version()} finds no device that it can run on")
    return found
