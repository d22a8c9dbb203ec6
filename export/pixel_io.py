"""Raw frames in and out of a graph: (N, H, W, C) uint8 -> (N, H·scale, W·scale, C) uint8, for an app that has no float code.

What `runtime/pixels.py` does around a graph of floats, in ONNX operators. With x the picture and f the graph,

    y = uint8(round(255 · clip(transpose(f(transpose(float(x)) / 255)), 0, 1)))       round: to the nearest, ties to even

ONNX Runtime gives the runtime's own bytes. openvino multiplies by 1/255 instead of dividing, so that what lies on the middle
between two codes may fall to the other one.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_TO_PLANES, _TO_PIXELS = (0, 3, 1, 2), (0, 2, 3, 1)
_PREFIX = "pixels_"


def with_pixel_io(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, (N, C, H, W) float32 in [0, 1] in and out, as one that takes and gives pixels under the same names.

    Works on an fp32, fp16 or int8 graph alike: what is quantized stays as it is.
    """
    wrapped = onnx.ModelProto()
    wrapped.CopyFrom(model)
    graph = wrapped.graph
    (source,), (result,) = graph.input, graph.output
    planes_in, planes_out = f"{_PREFIX}planes_in", f"{_PREFIX}planes_out"
    for node in graph.node:
        _rename(node.input, source.name, planes_in)
        _rename(node.input, result.name, planes_out)
        _rename(node.output, result.name, planes_out)
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), f"{_PREFIX}{name}")
        for name, value in (("0", 0), ("1", 1), ("255", 255))
    )
    before = [
        _node("Transpose", [source.name], "nchw", perm=_TO_PLANES),
        _node("Cast", [f"{_PREFIX}nchw"], "float", to=TensorProto.FLOAT),
        _node("Div", [f"{_PREFIX}float", f"{_PREFIX}255"], "planes_in"),
    ]
    after = [
        _node("Clip", [planes_out, f"{_PREFIX}0", f"{_PREFIX}1"], "clipped"),
        _node("Mul", [f"{_PREFIX}clipped", f"{_PREFIX}255"], "levels"),
        _node("Round", [f"{_PREFIX}levels"], "rounded"),
        _node("Cast", [f"{_PREFIX}rounded"], "bytes", to=TensorProto.UINT8),
        helper.make_node("Transpose", [f"{_PREFIX}bytes"], [result.name], name=f"{_PREFIX}nhwc", perm=_TO_PIXELS),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (source, result):
        _make_pixels(value)
    onnx.checker.check_model(wrapped, full_check=True)
    return wrapped


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:  # noqa: ANN401 # as onnx has it
    return helper.make_node(operator, inputs, [f"{_PREFIX}{output}"], name=f"{_PREFIX}{output}", **attributes)


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new


def _make_pixels(value: onnx.ValueInfoProto) -> None:
    """Declares (N, C, H, W) of floats as (N, H, W, C) of bytes."""
    tensor = value.type.tensor_type
    dimensions = [tensor.shape.dim[axis] for axis in _TO_PIXELS]
    shape = onnx.TensorShapeProto(dim=dimensions)
    tensor.elem_type = TensorProto.UINT8
    tensor.shape.CopyFrom(shape)
