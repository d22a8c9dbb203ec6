"""The bytes of an ONNX graph: the same graph gives the same bytes."""

from __future__ import annotations

import onnx


def serialize(model: onnx.ModelProto) -> bytes:
    """Return `model` as the bytes of an .onnx file."""
    return bytes(model.SerializeToString(deterministic=True))
