"""Pass a factor s > 0 and an offset t back through the operators that make a value, into the convolutions before them.

s clip(x, low, high) + t = clip(s x + t, s low + t, s high + t);  s relu(x) = relu(s x), and so of the leaky ones;  what only moves
values passes both on. Nothing is changed unless all of the way ends in convolutions that nothing else reads.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.constants import constant, new_constant
from export.graph.editing import producer, set_weights, weights

_MOVES = ("DepthToSpace", "SpaceToDepth", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze")
_HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
_BOUNDS = ("Clip", "Min", "Max")


def pass_back(value: ir.Value | None, scale: float, offset: float) -> bool:
    """Make `value` scale · value + offset, in place; whether that could be done."""
    way = _way(value, offset) if scale > 0 else None
    if way is None:
        return False
    *bounded, convolution = way
    for node in bounded:
        _rescale_bounds(node, scale, offset)
    parameters = weights(convolution)
    assert parameters is not None
    weight, bias = parameters
    set_weights(convolution, weight * np.float64(scale), bias * np.float64(scale) + offset)
    return True


def _way(value: ir.Value | None, offset: float) -> list[ir.Node] | None:
    """Return what is to be changed: operators with bounds, and at last the convolution."""
    found: list[ir.Node] = []
    while (maker := producer(value, "Conv", *_MOVES, *_HOMOGENEOUS, *_BOUNDS)) is not None:
        if maker.op_type == "Conv":
            return [*found, maker] if weights(maker) is not None else None
        if maker.op_type in _HOMOGENEOUS and offset:
            return None
        value = maker.inputs[0]
        if maker.op_type in _BOUNDS:
            fixed = [number for number in maker.inputs if number is not None and constant(number) is not None]
            free = [number for number in maker.inputs if number is not None and constant(number) is None]
            if len(free) != 1 or any(number.const_value is None or number.const_value.size != 1 for number in fixed):
                return None
            value = free[0]
            found.append(maker)
    return None


def _rescale_bounds(node: ir.Node, scale: float, offset: float) -> None:
    assert node.graph is not None
    for index, number in enumerate(node.inputs):
        array = constant(number)
        if number is not None and array is not None:
            moved = array.astype(np.float64) * scale + offset
            finite = np.finfo(np.float32)  # which some write for no bound at all
            moved = np.clip(moved, finite.min, finite.max).astype(np.float32)
            node.replace_input_with(index, new_constant(node.graph, moved, name=str(number.name)))
