"""Load TensorRT for RTX: the module with NVIDIA's Python bindings out.

The bindings want libtensorrt_rtx.so.1 and libtensorrt_onnxparser_rtx.so.1 from the loader. Both libraries are in the wheel of ONNX
Runtime's plugin, under longer names and where the loader does not look. Once loaded from there they are found by the short names
inside them, so that neither links nor LD_LIBRARY_PATH are needed. The plugin's own package is not imported: it would write links
into its folder and change this process's environment.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import BackendError

BINDINGS = "tensorrt_rtx_bindings"
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
PACKAGES = (BINDINGS, PLUGIN)
INSTALL = "pip install onnx onnxruntime-ep-nv-tensorrt-rtx-cu13 tensorrt-rtx-cu13-bindings, on Linux x86-64"
READABLE = "pip install 'tensorrt-rtx-cu13-bindings==1.7.1.116' 'onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0'"
"""The versions that everything here was tried with."""
_OLDEST = (1, 7, 1)  # 1.6.1 has no convolution in int8
_log = logging.getLogger(__name__)
_LIBRARIES = ("libtensorrt_rtx", "libtensorrt_onnxparser_rtx")  # in this order: the second needs the first
_VERSION = re.compile(r"\.so\.(\d+\.\d+\.\d+)$")  # of the file; the bindings have a fourth number


@cache
def load_tensorrt_rtx() -> ModuleType:
    """Return `tensorrt_rtx_bindings`, its libraries loaded.

    Raises:
        BackendError: the packages are not both installed, are not of one version, or cannot be loaded.
    """
    folder = find_folder()
    files = [_find_library(folder, library) for library in _LIBRARIES]
    try:
        for file in files:
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
        bindings = importlib.import_module(BINDINGS)
    except (ImportError, OSError) as error:
        raise BackendError(f"TensorRT for RTX is installed but cannot be loaded: {error}", hint=INSTALL) from error
    library = _VERSION.search(files[0].name)
    version = str(bindings.__version__)
    if library is None or not version.startswith(f"{library[1]}."):
        raise BackendError(f"{BINDINGS} is {version}, and {files[0]} is of another version", hint=READABLE)
    if tuple(map(int, library[1].split("."))) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise BackendError(f"TensorRT for RTX {version} is too old, expected {oldest} or later", hint=READABLE)
    return bindings


@cache
def shared_logger() -> Any:  # noqa: ANN401 # of a class that derives from one of the bindings
    """Return the one of this process: the library reports to the first that it was given, whatever it is given later."""
    trt: Any = load_tensorrt_rtx()

    class Logger(trt.ILogger):  # type: ignore[misc] # the bindings have no types
        """Keeps the last errors and a build's lists of layers, and nothing else: a verbose log has thousands of lines."""

        def __init__(self) -> None:
            super().__init__()
            self.begin()

        def begin(self) -> None:
            """Forget what was kept."""
            self.layer_lists: list[str] = []
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self._errors = [*self._errors[-2:], message]
            elif severity == trt.ILogger.Severity.WARNING:
                _log.info("TensorRT for RTX: %s", message)
            elif message.startswith("Layers:"):
                self.layer_lists.append(message)

        @property
        def reasons(self) -> str:
            """The last errors, and none twice."""
            return "; ".join(dict.fromkeys(self._errors)) or "it gives no reason"

    return Logger()


def find_folder() -> Path:
    """Return the folder of the plugin's package; BackendError where it is not installed."""
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise BackendError(f"TensorRT for RTX is not installed: {' and '.join(missing)} cannot be found", hint=INSTALL)
    spec = importlib.util.find_spec(PLUGIN)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


def _find_library(folder: Path, name: str) -> Path:
    found = [path for path in sorted(folder.glob(f"{name}.so.*")) if _VERSION.search(path.name)]
    if not found:
        raise BackendError(f"{folder} holds no {name}.so of TensorRT for RTX", hint=INSTALL)
    return found[-1]
