"""Open a graph on a backend: ONNX bytes in, a `Backend` that runs arrays out; one file per backend, the fastest first.

The order is that of measured latency on x86 with VNNI, int8 before fp32; what `auto` takes is decided in runtime/verify/pairs.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from ..bundle import Io
from ..errors import BackendError, UnknownNameError
from ..targets import PRECISIONS, Precision
from . import tensorrt_rtx_library
from .backend import Backend, BackendOptions, DeviceTimer, DeviceTimes, LayerPrecision, RanIn, Values

__all__ = [
    "BACKENDS",
    "EMULATED",
    "Backend",
    "BackendEntry",
    "BackendOptions",
    "DeviceTimer",
    "DeviceTimes",
    "LayerPrecision",
    "RanIn",
    "Values",
    "choose_backend",
    "choose_entry",
    "load_backend",
    "missing_packages",
    "open_backend",
]


EMULATED = "emulated: accuracy holds, time does not"
"""What is said of figures of a backend that emulates its accelerator."""
_MOST_THREADS = 1024  # beyond any machine's cores; a backend given a million dies instead of saying so


def missing_packages(packages: Iterable[str]) -> tuple[str, ...]:
    """Return those of the imports that are not installed."""
    return tuple(name for name in packages if importlib.util.find_spec(name) is None)


@dataclass(frozen=True)
class BackendEntry:
    """Where a backend lives; its module is imported only when it is opened."""

    name: str
    module: str
    packages: tuple[str, ...]
    """The imports that must be installed."""
    install: str
    precisions: tuple[Precision, ...]
    """Graphs it opens; which precision they then run in is another matter."""
    prebuilt: bool = False
    """It runs engines that were built beforehand, and no other graphs."""
    by_name_alone: bool = False
    """It runs where it is asked for by name: whether its accelerator is there shows only when a graph is opened."""
    sums_in_16_bits: bool = False
    """It adds products of bytes in 16 bits where a processor has nothing better, and saturates: see `products_overflow`."""
    emulated: bool = False
    """It emulates its accelerator on this machine: its time says nothing."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Those of `packages` that are not installed."""
        return missing_packages(self.packages)

    @property
    def installed(self) -> bool:
        return not self.missing

    @property
    def opens_graphs(self) -> bool:
        """It is installed, runs a graph as it is, and needs no accelerator that may be missing."""
        return self.installed and not self.prebuilt and not self.by_name_alone


_TENSORRT = (
    "JetPack 6: sudo apt install python3-libnvinfer cuda-toolkit-12-6, and in a venv of its own Python 3.10, made with "
    "--system-site-packages, PATH=/usr/local/cuda/bin:$PATH pip install onnx pycuda; "
    "JetPack 7: the same with its own Python 3.12, and the package cuda-toolkit; "
    "workstation: pip install onnx tensorrt --extra-index-url https://pypi.nvidia.com, and with nvcc on the PATH pip install pycuda"
)

_TENSORRT_RTX = f"{tensorrt_rtx_library.INSTALL}; and with nvcc on the PATH pip install pycuda"

BACKENDS: tuple[BackendEntry, ...] = (
    BackendEntry("openvino", ".openvino", ("openvino",), "pip install 'sredge[openvino]'", PRECISIONS, sums_in_16_bits=True),
    BackendEntry("onnxruntime", ".onnxruntime", ("onnxruntime",), "pip install onnxruntime", ("fp32", "fp16", "int8")),
    # Behind both: fp32 takes 0.84 of openvino's time on LESRCNN, 2.7 times it on SRCNN's large kernels; see deploy_docs/ncnn.md.
    BackendEntry("ncnn", ".ncnn", ("ncnn",), "pip install 'sredge[ncnn]'", ("fp32", "fp16", "bf16")),
    BackendEntry(
        "litert",
        ".litert",
        ("ai_edge_litert",),
        "pip install 'sredge[litert]'",
        ("fp32", "fp16", "int8"),
        prebuilt=True,
    ),
    BackendEntry(
        "qnn",
        ".qnn",
        ("onnxruntime_qnn",),
        "pip install 'sredge[qnn]', with Python 3.11 or later",
        ("int8",),
        prebuilt=True,
        emulated=platform.machine() in ("x86_64", "AMD64"),
    ),
    # The last: where it is not asked for by name it runs the graphs that were made for it, and no others.
    BackendEntry("tensorrt", ".tensorrt", ("tensorrt", "pycuda"), _TENSORRT, ("fp32", "fp16", "int8"), prebuilt=True),
    BackendEntry(
        "tensorrt-rtx", ".tensorrt_rtx", (*tensorrt_rtx_library.PACKAGES, "pycuda"), _TENSORRT_RTX, PRECISIONS, prebuilt=True
    ),
    BackendEntry(
        "onnxruntime-rtx",
        ".onnxruntime_rtx",
        (tensorrt_rtx_library.PLUGIN,),
        "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13, on Linux x86-64",
        PRECISIONS,
        by_name_alone=True,
    ),
)


def choose_backend(name: str) -> BackendEntry:
    """Return the backend of that name.

    Raises:
        UnknownNameError: no such backend; lists them.
        BackendError: it is not installed; says how to get it.
    """
    entry = choose_entry(name)
    if not entry.installed:
        missing = " and ".join(entry.missing)
        raise BackendError(f"backend {name!r} is not installed: {missing} cannot be found", hint=entry.install)
    return entry


def choose_entry(name: str) -> BackendEntry:
    """Return the backend of that name, installed or not; UnknownNameError lists the valid ones."""
    for entry in BACKENDS:
        if entry.name == name:
            return entry
    raise UnknownNameError("backend", name, valid=("auto", *(entry.name for entry in BACKENDS)))


def open_backend(
    name: str,
    graph: bytes,
    *,
    precision: Precision,
    threads: int | None = None,
    parallel: int = 1,
    device: str | None = None,
    cache: Path | None = None,
    engines: Path | None = None,
    io: Io = "float32",
    spinning: bool = True,
) -> Backend:
    """Compile `graph`, a serialized ONNX model.

    Args:
        precision: what its arithmetic should run in.
        threads: of the backend, for all runs together; None leaves it to the backend.
        parallel: runs at a time; several threads may call `run`, and those beyond it wait.
        device: as the backend calls it; None is the CPU, of tensorrt the first GPU.
        cache: a folder where compiled graphs are kept for the next start; None keeps none.
        engines: the folder of the bundle's engines, for a backend that runs those.
        io: what the graph takes and gives.
        spinning: idle threads of onnxruntime wait for work without sleeping: the least latency, for the CPU time of a core each.

    Raises:
        UnknownNameError, BackendError: no such backend or device, not installed, or unable to run the graph so.
    """
    for what, count in (("threads", threads), ("runs at a time", parallel)):
        if count is not None and not 1 <= count <= _MOST_THREADS:
            raise BackendError(f"{count} {what}: expected 1 to {_MOST_THREADS}")
    entry = choose_backend(name)
    if precision not in entry.precisions:
        able = ", ".join(other.name for other in BACKENDS if precision in other.precisions)
        raise BackendError(f"{name} has no {precision} arithmetic; it runs {', '.join(entry.precisions)}", hint=f"--backend {able}")
    options = BackendOptions(
        threads=threads, parallel=parallel, device=device, cache=cache, engines=engines, io=io, spinning=spinning
    )
    module = load_backend(entry)
    return cast(Backend, module.open_graph(graph, precision=precision, options=options))


def load_backend(entry: BackendEntry) -> ModuleType:
    """Return the backend's module; BackendError where a library that its packages need is missing."""
    try:
        return importlib.import_module(entry.module, __name__)
    except (ImportError, OSError) as error:
        raise BackendError(f"backend {entry.name!r} is installed but cannot be loaded: {error}", hint=entry.install) from error
