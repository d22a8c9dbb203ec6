"""Say, operator by operator, where a constant may stand for the size of the picture.

A tensor's axis varies where its extent is another at another size of the picture. What mixes or takes away a varying axis is right
at any size only where no constant stands for the count of what it mixes: a mean counts itself, a sum is divided by a constant
afterwards. What has no rule here is not known to be right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from export.foreign.shapes import Shapes, describe, ints_of, kernel_of
from export.graph.constants import constant

_TO_THE_END = 1 << 30  # of a Slice: exporters write the largest integer
_WIDE_WINDOW, _FEW_PLACES = 8, 8  # an average that leaves a handful of places is one over shares of the picture, adaptive pooling

_ELEMENTWISE = (
    *(
        "Relu",
        "LeakyRelu",
        "PRelu",
        "Elu",
        "Selu",
        "Celu",
        "ThresholdedRelu",
        "Clip",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Mish",
    ),
    *("Tanh", "Softplus", "Softsign", "Erf", "Gelu", "Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Sign"),
    *("Floor", "Ceil", "Round", "Not", "Cast", "Identity", "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean", "Where"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Mod"),
)
_RIGHT_AT_ANY_SIZE = (
    *_ELEMENTWISE,
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "LpNormalization"),
    *("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceMin", "Softmax", "LogSoftmax"),
    *("Transpose", "Squeeze", "Unsqueeze", "Flatten", "Concat", "DepthToSpace", "SpaceToDepth", "Reshape", "Pad"),
)


def find_burnt_in(graph: ir.Graph, shapes: Shapes) -> str:
    """Return the first operator that is not known to be right at any size, and why; "" where there is none."""
    for node in graph:
        if not all(shapes.known(output) for output in node.outputs):
            return f"{describe(node)} makes a tensor whose size is not known at other sizes"
        reason = _check(node, shapes)
        if reason:
            return f"{describe(node)} {reason}"
    return ""


def _check(node: ir.Node, shapes: Shapes) -> str:
    """Return why an operator is not known to be right at any size; "" where it is."""
    if not any(shapes.varying(value) for value in node.inputs):
        return ""
    rule = _RULES.get(node.op_type)
    if rule is not None:
        return rule(node, shapes)
    return "" if node.op_type in _RIGHT_AT_ANY_SIZE else "is not known to be right at other sizes"


def _check_window(node: ir.Node, shapes: Shapes) -> str:
    """Return a window as wide as the picture is a mean, or a sum, over all of it."""
    if "output_shape" in node.attributes:
        return "has a constant for its output's size"
    dims, varying = shapes.at_own(node.inputs[0]), shapes.varying(node.inputs[0])
    extents, strides = kernel_of(node), ints_of(node, "strides")
    for axis, extent in enumerate(extents):
        size = dims[axis + 2] or 0
        if axis + 2 not in varying or node.op_type == "ConvTranspose":
            continue
        if extent > 1 and extent >= size:
            return f"has a window of {extent}, all of the picture"
        places = shapes.at_own(node.outputs[0])[axis + 2] or 0
        pooled = node.op_type.endswith("Pool") and strides[axis : axis + 1] == (extent,)
        if pooled and extent > _WIDE_WINDOW and places <= _FEW_PLACES:
            return f"has a window of {extent}, a share of the picture"
    return ""


def _check_sum(node: ir.Node, shapes: Shapes) -> str:
    """Return a sum over the picture grows with it; what divides it by how many pixels there are is a constant here."""
    dims, given = shapes.at_own(node.inputs[0]), constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = ints_of(node, "axes") or (tuple(range(len(dims))) if given is None else tuple(np.atleast_1d(given).tolist()))
    summed = {axis % len(dims) for axis in axes} & shapes.varying(node.inputs[0])
    return "sums over the picture, whose size a constant then stands for" if summed else ""


def _check_resize(node: ir.Node, _: Shapes) -> str:
    given = node.inputs[3] if len(node.inputs) > 3 else None
    return "" if given is None else "has a constant for its output's size"


def _check_slice(node: ir.Node, shapes: Shapes) -> str:
    """Return a cut at a constant place is right where it counts from the end that it cuts at."""
    dims, varying = shapes.at_own(node.inputs[0]), shapes.varying(node.inputs[0])
    starts, ends = constant(node.inputs[1]), constant(node.inputs[2])
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else None
    if starts is None or ends is None:
        return "cuts at a place that is computed"
    cut = range(len(starts)) if axes is None else [int(axis) % len(dims) for axis in axes]
    for index, axis in enumerate(cut):
        backwards = steps is not None and steps[index] < 0
        if axis in varying and (backwards or 0 <= ends[index] < _TO_THE_END):
            return f"cuts at {int(ends[index])}, a place that may follow from the size"
    return ""


def _check_gather(node: ir.Node, shapes: Shapes) -> str:
    axis = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % max(len(shapes.at_own(node.inputs[0])), 1)
    return "picks constant places of the picture" if axis in shapes.varying(node.inputs[0]) else ""


def _check_repeats(node: ir.Node, shapes: Shapes) -> str:
    """Tile and Expand along other axes than the picture's."""
    given, varying = constant(node.inputs[1]), shapes.varying(node.inputs[0])
    if given is None or len(given) != len(shapes.at_own(node.inputs[0])) or any(given[axis] != 1 for axis in varying):
        return "has a constant for its output's size"
    return ""


def _check_split(node: ir.Node, shapes: Shapes) -> str:
    dims = shapes.at_own(node.inputs[0])
    axis = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % len(dims)
    return "splits the picture at constant places" if axis in shapes.varying(node.inputs[0]) else ""


def _check_product(node: ir.Node, shapes: Shapes) -> str:
    """Return a matrix product over the pixels sums over them; behind a Softmax over them it is a mean with weights."""
    first = node.inputs[0]
    dims = shapes.at_own(first)
    transposed = node.op_type == "Gemm" and "transA" in node.attributes and node.attributes["transA"].as_int() == 1
    contracted = len(dims) - 2 if transposed else len(dims) - 1
    maker = None if first is None else first.producer()
    if contracted not in shapes.varying(first) or (maker is not None and maker.op_type == "Softmax"):
        return ""
    return "sums over the picture, whose size a constant may then stand for"


_RULES: dict[str, Callable[[ir.Node, Shapes], str]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool"), _check_window),
    **dict.fromkeys(("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"), _check_sum),
    **dict.fromkeys(("MatMul", "Gemm"), _check_product),
    "Resize": _check_resize,
    "Slice": _check_slice,
    "Gather": _check_gather,
    **dict.fromkeys(("Tile", "Expand"), _check_repeats),
    "Split": _check_split,
}
