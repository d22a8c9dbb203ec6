"""Inference backends: one file each, and this list, the fastest first.

The order is that of measured int8 latency on x86 with VNNI; `auto` takes the first that is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from runtime.backends.backend import Backend, BackendOptions, LayerPrecision, RanIn, Values
from runtime.errors import BackendError, UnknownNameError
from runtime.targets import PRECISIONS, Precision

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendEntry",
    "BackendOptions",
    "LayerPrecision",
    "RanIn",
    "Values",
    "choose_backend",
    "open_backend",
]


_MOST_THREADS = 1024  # beyond any machine's cores; a backend given a million dies instead of saying so


@dataclass(frozen=True)
class BackendEntry:
    """Where a backend lives; its module is imported only when it is opened."""

    name: str
    module: str
    package: str
    """The import that must be installed."""
    install: str
    precisions: tuple[Precision, ...]
    """Graphs it opens; which precision they then run in is another matter."""

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


BACKENDS: tuple[BackendEntry, ...] = (
    BackendEntry("openvino", "runtime.backends.openvino", "openvino", "pip install 'sredge[openvino]'", PRECISIONS),
    BackendEntry("onnxruntime", "runtime.backends.onnxruntime", "onnxruntime", "pip install onnxruntime", ("fp32", "fp16", "int8")),
)


def choose_backend(name: str, *, preferred: str | None = None) -> BackendEntry:
    """The backend of that name; for "auto" the `preferred` one where it is installed, else the first that is.

    Raises:
        UnknownNameError: no such backend; lists them.
        BackendError: it is not installed; says how to get it.
    """
    if name == "auto":
        for entry in sorted(BACKENDS, key=lambda entry: entry.name != preferred):
            if entry.installed:
                return entry
        raise BackendError("no inference backend is installed", hint=BACKENDS[-1].install)
    for entry in BACKENDS:
        if entry.name == name:
            if not entry.installed:
                raise BackendError(f"backend {name!r} is not installed", hint=entry.install)
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
) -> Backend:
    """Compiles `graph`, a serialized ONNX model.

    Args:
        precision: what its arithmetic should run in.
        threads: of the backend, for all runs together; None leaves it to the backend.
        parallel: runs at a time; several threads may call `run`, and those beyond it wait.
        device: as the backend calls it; None is the CPU.
        cache: a folder where compiled graphs are kept for the next start; None keeps none.

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
    options = BackendOptions(threads=threads, parallel=parallel, device=device, cache=cache)
    module = importlib.import_module(entry.module)
    return cast(Backend, module.open_graph(graph, precision=precision, options=options))
