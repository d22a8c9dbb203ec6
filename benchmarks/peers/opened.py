"""Open what a quantizer made, ONNX or openvino's own format, and count the convolutions that run in int8."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import onnx_ir as ir

from runtime.backends import Backend, BackendOptions, LayerPrecision, open_backend
from runtime.errors import BackendError
from runtime.targets import Precision

_CONVOLUTION = re.compile(r'<layer\b[^>]*\bname="([^"]*)"[^>]*\btype="Convolution"')  # openvino writes a layer's tag on one line
_APART = "/WithoutBiases"  # what openvino calls a convolution whose bias it adds apart


def open_made(path: Path, backend: str, *, precision: Precision = "int8", threads: int | None = None) -> Backend:
    """Open a graph file on a backend.

    Raises:
        BackendError: the backend cannot run it.
    """
    if path.suffix == ".onnx":
        return open_backend(backend, path.read_bytes(), precision=precision, threads=threads)
    if backend != "openvino":
        raise BackendError(f"{backend} does not read openvino's own format")
    from runtime.backends.openvino import open_ir  # only where it is installed

    opened = open_ir(path.read_bytes(), path.with_suffix(".bin").read_bytes(), options=BackendOptions(threads=threads))
    return cast(Backend, opened)


def convolution_names(path: Path) -> frozenset[str]:
    """Return the names of a graph file's convolutions, as openvino calls them."""
    if path.suffix != ".onnx":
        names = _CONVOLUTION.findall(path.read_text(encoding="utf-8"))
        return frozenset(name.removesuffix(_APART) for name in names)
    graph = ir.load(path).graph
    return frozenset(str(node.name or node.outputs[0].name) for node in graph if node.op_type == "Conv")


def in_int8(names: frozenset[str], ran: tuple[LayerPrecision, ...]) -> int:
    """Return how many of those convolutions a backend multiplied in int8."""
    return len(names & {layer.name.removesuffix(_APART) for layer in ran if layer.precision == "int8"})
