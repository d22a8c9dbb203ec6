"""The opset that a graph is written at; apart from `onnx_export.py`, because the engine builder works without torch."""

from __future__ import annotations

import onnx


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that `model` imports."""
    return int(next(entry.version for entry in model.opset_import if entry.domain == ""))
