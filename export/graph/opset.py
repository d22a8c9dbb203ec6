"""Read a graph's opset, and raise it."""

from __future__ import annotations

import onnx
from onnx import version_converter


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that `model` imports."""
    return int(next(entry.version for entry in model.opset_import if entry.domain == ""))


def raise_opset(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """Return `model` at opset `least` where it is below that, else as it is."""
    return version_converter.convert_version(model, least) if opset_of(model) < least else model
