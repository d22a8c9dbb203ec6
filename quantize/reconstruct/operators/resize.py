"""Resize in torch, in all of its modes: a product with one matrix per axis, whose columns ONNX Runtime computes.

    y = R_h x R_wᵀ

(https://onnx.ai/onnx/operators/onnx__Resize.html.) Torch has some of the modes, and others only nearly.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch

from export.graph.attributes import attribute
from export.graph.serialized import serialize
from quantize.reconstruct.operators.operator import Given, Operator, Tensor, needed, present
from runtime.backends.onnxruntime import session_options

_LEFT_OUT = ("axes", "keep_aspect_ratio_policy")
_OPSET = 19  # which has all of the modes


def _resize(node: ir.Node, given: Given) -> Tensor:
    value, scales, sizes = needed(given), present(given, 2), present(given, 3)
    axes = list(attribute(node, "axes", range(value.ndim)))
    by_size = sizes is not None and sizes.numel() > 0
    asked = sizes if by_size else scales
    assert asked is not None
    described = serialize(_described(node))
    for axis, factor in zip(axes, asked.reshape(-1).tolist(), strict=True):
        if factor != (value.shape[axis] if by_size else 1):
            matrix = _matrix(described, value.shape[axis], factor)
            value = torch.movedim(torch.movedim(value, axis, -1) @ matrix, -1, axis)
    return value


def _described(node: ir.Node) -> onnx.NodeProto:
    """Return the same for one axis of a picture with as many channels as it has rows, `asked` being sizes or scales."""
    kept = [entry for entry in ir.to_proto(node).attribute if entry.name not in _LEFT_OUT]
    by_size = len(node.inputs) > 3 and node.inputs[3] is not None
    described = onnx.helper.make_node("Resize", ["x", "", "", "asked"] if by_size else ["x", "", "asked"], ["y"])
    described.attribute.extend(kept)
    return described


@lru_cache(maxsize=64)
def _matrix(node: bytes, size: int, factor: float) -> Tensor:
    """(size, new size): what becomes of each unit vector."""
    resize = onnx.NodeProto.FromString(node)
    by_size = len(resize.input) > 3
    sides = np.array([1, size, factor, 1], np.int64) if by_size else np.array([1, 1, factor, 1], np.float32)
    graph = onnx.helper.make_graph(
        [resize],
        "axis",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, size, size, 1])],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(sides, "asked")],
    )
    model = onnx.helper.make_model(graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", _OPSET)])
    session = ort.InferenceSession(model.SerializeToString(), session_options(spinning=False), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"x": np.eye(size, dtype=np.float32)[np.newaxis, :, :, np.newaxis]})
    return torch.from_numpy(made[0, :, :, 0])


def is_linear(node: ir.Node) -> bool:
    """Return whether it is a product with a matrix whose size `sizes` or `scales` say."""
    fills = attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    return not fills and attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"


OPERATORS: Mapping[str, Operator] = {"Resize": _resize}
