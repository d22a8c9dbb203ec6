"""Where a constant of a graph may stand for the size of the picture, operator by operator.

A tensor's axis varies where its extent is another at another size of the picture. What mixes or takes away a varying axis is right at
any size only where it needs no count of what it mixes: a mean does, a sum that a constant divides afterwards does not. What has no
rule here is not known to be right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.passes.editing import constant

Dims = tuple[int | None, ...]
_TO_THE_END = 1 << 30  # of a Slice: exporters write the largest integer
_WIDE_WINDOW, _FEW_PLACES = 8, 8  # an average that leaves a handful of places is one over shares of the picture, adaptive pooling

_ELEMENTWISE = (
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Mish"),
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
_MIXES_ALL = ("GlobalAveragePool", "GlobalMaxPool")


@dataclass(frozen=True)
class Shapes:
    """Of every tensor by name at several sizes (H, W) of the picture, the file's own first."""

    sizes: tuple[tuple[int, int], ...]
    by_name: list[dict[str, Dims]]

    def at_own(self, value: ir.Value | None) -> Dims:
        return () if value is None else self.by_name[0].get(str(value.name), ())

    def known(self, value: ir.Value) -> bool:
        """Whether every extent is known at every size, and as many."""
        found = [shapes.get(str(value.name)) for shapes in self.by_name]
        return all(dims is not None and None not in dims for dims in found) and len({len(dims or ()) for dims in found}) == 1

    def varying(self, value: ir.Value | None) -> set[int]:
        """Axes whose extent follows from the picture's size."""
        if value is None or str(value.name) not in self.by_name[0]:
            return set()
        all_dims = [shapes[str(value.name)] for shapes in self.by_name]
        return {axis for axis in range(len(all_dims[0])) if len({dims[axis] for dims in all_dims}) > 1}


def find_burnt_in(graph: ir.Graph, shapes: Shapes) -> str:
    """The first operator that is not known to be right at any size, and why; "" where there is none."""
    for node in graph:
        if not all(shapes.known(output) for output in node.outputs):
            return f"{_named(node)} makes a tensor whose size is not known at other sizes"
        reason = _check(node, shapes)
        if reason:
            return f"{_named(node)} {reason}"
    return _find_count(graph, shapes)


def find_reduction(graph: ir.Graph, shapes: Shapes) -> int:
    """The largest number of pixels along a side that become one place inside: sizes are multiples of it."""
    found = 1
    for node in graph:
        for output in node.outputs:
            for axis in shapes.varying(output):
                for side in (0, 1):
                    ratios = {size[side] / (dims[str(output.name)][axis] or 1) for size, dims in zip(shapes.sizes, shapes.by_name, strict=True)}
                    if len(ratios) == 1 and (ratio := ratios.pop()) > 1 and ratio.is_integer():
                        found = math.lcm(found, int(ratio))
    return found


def _named(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or node.outputs[0].name}"


def _check(node: ir.Node, shapes: Shapes) -> str:
    """Why an operator is not known to be right at any size; "" where it is."""
    if not any(shapes.varying(value) for value in node.inputs):
        return ""
    rule = _RULES.get(node.op_type)
    if rule is not None:
        return rule(node, shapes)
    return "" if node.op_type in _RIGHT_AT_ANY_SIZE else "is not known to be right at other sizes"


def _check_window(node: ir.Node, shapes: Shapes) -> str:
    """A window as wide as the picture is a mean, or a sum, over all of it."""
    if "output_shape" in node.attributes:
        return "has a constant for its output's size"
    dims, varying = shapes.at_own(node.inputs[0]), shapes.varying(node.inputs[0])
    extents, strides = _kernel(node), _ints(node, "strides")
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


def _kernel(node: ir.Node) -> tuple[int, ...]:
    if "kernel_shape" in node.attributes:
        return _ints(node, "kernel_shape")
    weight = node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    return tuple(weight.shape.numpy()[2:])


def _ints(node: ir.Node, name: str) -> tuple[int, ...]:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else ()


def _check_sum(node: ir.Node, shapes: Shapes) -> str:
    """A sum over the picture grows with it; what divides it by how many pixels there are is a constant here."""
    dims, given = shapes.at_own(node.inputs[0]), constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = _ints(node, "axes") or (tuple(range(len(dims))) if given is None else tuple(np.atleast_1d(given).tolist()))
    summed = {axis % len(dims) for axis in axes} & shapes.varying(node.inputs[0])
    return "sums over the picture, whose size a constant then stands for" if summed else ""


def _check_resize(node: ir.Node, shapes: Shapes) -> str:
    given = node.inputs[3] if len(node.inputs) > 3 else None
    return "" if given is None else "has a constant for its output's size"


def _check_slice(node: ir.Node, shapes: Shapes) -> str:
    """A cut at a constant place is right where it counts from the end that it cuts at."""
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


def _check_split(node: ir.Node, shapes: Shapes) -> str:
    dims = shapes.at_own(node.inputs[0])
    axis = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % len(dims)
    return "splits the picture at constant places" if axis in shapes.varying(node.inputs[0]) else ""


def _check_product(node: ir.Node, shapes: Shapes) -> str:
    """A matrix product over the pixels sums over them; behind a Softmax over them it is a mean with weights."""
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
    "Split": _check_split,
}


def _find_count(graph: ir.Graph, shapes: Shapes) -> str:
    """The first constant that is a count of pixels, or made of one, and meets what was gathered over the picture; "" where none is."""
    gathered = set[str]()
    for node in graph:
        mixes = node.op_type in _MIXES_ALL or (node.op_type.startswith("Reduce") and shapes.varying(node.inputs[0]))
        if not mixes and not any(value is not None and value.name in gathered for value in node.inputs):
            continue
        if any(shapes.varying(output) for output in node.outputs):
            continue
        gathered.update(str(output.name) for output in node.outputs)
        for value in () if mixes else node.inputs:
            array = constant(value) if node.op_type in ("Mul", "Div", "Add", "Sub") else None
            if array is not None and array.size == 1 and _is_count(float(array.reshape(-1)[0]), shapes):
                return f"{_named(node)} has {float(array.reshape(-1)[0]):g}, which may be made of the number of pixels"
    return ""


def _is_count(number: float, shapes: Shapes) -> bool:
    extents = {side for dims in shapes.by_name[0].values() if len(dims) == 4 for side in _spatial(dims)}
    return any(math.isclose(abs(number), count, rel_tol=1e-6) for extent in extents for count in _counts(extent))


def _spatial(dims: Dims) -> tuple[int, ...]:
    height, width = dims[2] or 1, dims[3] or 1
    return tuple(size for size in (height, width, height * width) if size > 1)


def _counts(pixels: int) -> Iterator[float]:
    """What is made of a number of pixels: itself, one less (an unbiased variance), their quotient, and of each the double, the inverse
    and the root."""
    for number in (pixels, pixels - 1, pixels / max(pixels - 1, 1)):
        if number > 0:
            for part in (number, 2 * number, number / 2):
                yield from (part, 1 / part, math.sqrt(part), 1 / math.sqrt(part))
