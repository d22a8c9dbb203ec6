"""What a graph costs and how far it looks, read from the graph itself.

MACs of a convolution: output elements × input channels / groups × kernel area. Halo: the input pixels around a tile that reach
its output; a convolution adds k // 2 · dilation pixels of its own grid, which DepthToSpace of r makes r times finer and a
stride coarser.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxsim
from numpy.typing import NDArray

from runtime.bundle import Layer

SIDE = 128  # MACs are stated for one 128×128 picture, or the one size that a graph takes
_MAC_OPERATORS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_FUSED = ("Add", "Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "Tanh")  # by onnxruntime, under their output's name
# What looks at nothing but a value's own place, whatever it does there.
_LOCAL = (
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Clip", "Sigmoid", "HardSigmoid", "Tanh"),
    *("Softplus", "Erf", "Gelu", "HardSwish", "Mish"),
    *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Sum", "Where"),
    *("Cast", "Identity", "BatchNormalization", "QuantizeLinear", "DequantizeLinear"),
)
_WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2")


def count_macs(model: onnx.ModelProto, *, side: int = SIDE) -> tuple[Layer, ...]:
    """Each operator with multiply-accumulates, for one side×side input, in graph order."""
    return tuple(
        Layer(name=str(node.name), op=node.op_type, macs=macs, aliases=_fused_names(node)) for node, macs in _costs(model, side)
    )


def total_macs(model: onnx.ModelProto, *, side: int = SIDE) -> int:
    """Multiply-accumulates of the whole graph for one side×side input."""
    return sum(macs for _, macs in _costs(model, side))


def receptive_halo(graph: ir.Graph) -> tuple[int | Literal["global"], str]:
    """Input pixels around a tile, on every side, that its output depends on.

    "global", with the operator that makes it so, where one looks at the whole picture or its reach is not known here; else that is
    empty.
    """
    halo: dict[str | None, Fraction] = {value.name: Fraction(0) for value in graph.inputs}
    density: dict[str | None, Fraction] = {value.name: Fraction(1) for value in graph.inputs}
    for node in graph:
        sources = [value.name for value in node.inputs if value is not None and value.name in halo]
        if not sources or node.op_type == "Shape":  # sizes are no pixels
            continue
        found = _reach(node)
        if found is None:
            return "global", f"{node.op_type} {node.name}"
        reach, finer = found
        grid = max(density[source] for source in sources)
        total = max(halo[source] for source in sources) + reach / grid
        halo.update({output.name: total for output in node.outputs})
        density.update({output.name: grid * finer for output in node.outputs})
    return max(math.ceil(halo[output.name]) for output in graph.outputs), ""


def _reach(node: ir.Node) -> tuple[Fraction, Fraction] | None:
    """How many pixels of its input's grid an operator looks to each side, and how much finer its output's grid is."""
    if node.op_type in _LOCAL:
        return Fraction(0), Fraction(1)
    if node.op_type in ("DepthToSpace", "SpaceToDepth"):
        factor = Fraction(node.attributes["blocksize"].as_int())
        return (Fraction(0), factor) if node.op_type == "DepthToSpace" else (factor - 1, 1 / factor)
    if node.op_type in ("Concat", "Split") and node.attributes["axis"].as_int() in (1, -3):
        return Fraction(0), Fraction(1)
    if node.op_type in _WINDOWS:
        return _window_reach(node)
    if node.op_type in _REDUCTIONS and _reduced_axes(node) == {1}:
        return Fraction(0), Fraction(1)
    if node.op_type == "Pad" and not _pads_at_the_front(node):
        return Fraction(0), Fraction(1)
    if node.op_type == "Resize":
        return _resize_reach(node)
    return None


def _window_reach(node: ir.Node) -> tuple[Fraction, Fraction]:
    sides = _kernel(node)
    dilations, strides = _ints(node, "dilations", (1, 1)), _ints(node, "strides", (1, 1))
    extents = [(side - 1) * dilation for side, dilation in zip(sides, dilations, strict=True)]
    widest = max(strides)
    if node.op_type == "ConvTranspose":  # a kernel of k on the finer grid
        return Fraction(max(extents), widest), Fraction(widest)
    pads = _ints(node, "pads", (0, 0, 0, 0))
    # Without "same" padding the window hangs over to one side, and so far does it look there.
    reach = max(max(front, extent - front, back) for front, back, extent in zip(pads[:2], pads[2:], extents, strict=True))
    return Fraction(reach if any(pads) else max(extents)), Fraction(1, widest)


def _resize_reach(node: ir.Node) -> tuple[Fraction, Fraction] | None:
    """An enlargement by constant scales; one to a constant size fixes the picture's size anyway."""
    scales = _constant(node, 2)
    if scales is None or len(scales) != 4 or scales[2] != scales[3]:
        return None
    factor = Fraction(float(scales[2])).limit_denominator(1000)
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "nearest"
    taps = {"nearest": 1, "linear": 1, "cubic": 2}.get(mode)
    return None if taps is None or factor < 1 else (Fraction(taps), factor)


def _reduced_axes(node: ir.Node) -> set[int]:
    given = _constant(node, 1)
    axes = _ints(node, "axes", (0, 1, 2, 3)) if given is None else np.atleast_1d(given).tolist()
    return {axis % 4 for axis in axes}


def _pads_at_the_front(node: ir.Node) -> bool:
    """Padding above or to the left moves every pixel; what is tiled then would have to know by how much."""
    amounts = _constant(node, 1)
    return amounts is None or bool(amounts[: len(amounts) // 2].any())


def infer_sizes(model: onnx.ModelProto, shape: tuple[int, int, int]) -> ir.Graph:
    """The graph with every tensor's shape for an input of this (N, H, W).

    Raises:
        onnx.shape_inference.InferenceError: it does not take that shape.
    """
    sized = _with_sizes(model, shape)
    for output in sized.graph.output:
        output.type.tensor_type.ClearField("shape")
    return ir.from_proto(onnx.shape_inference.infer_shapes(sized, strict_mode=True, data_prop=True)).graph


def _with_sizes(model: onnx.ModelProto, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """A copy for an input of this (N, H, W) that says no other size."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    del sized.graph.value_info[:]
    for output in sized.graph.output:
        rank = len(output.type.tensor_type.shape.dim) or 4
        output.type.tensor_type.ClearField("shape")
        for _ in range(rank):
            output.type.tensor_type.shape.dim.add()
    dimensions = sized.graph.input[0].type.tensor_type.shape.dim
    for dimension, size in zip((dimensions[0], dimensions[2], dimensions[3]), shape, strict=True):
        dimension.dim_value = size
    return sized


def _costs(model: onnx.ModelProto, side: int) -> list[tuple[ir.Node, int]]:
    try:
        graph = infer_sizes(model, (1, side, side))
    except onnx.shape_inference.InferenceError:  # sizes are burnt in: it costs what it costs at its own
        declared = model.graph.input[0].type.tensor_type.shape.dim
        graph = infer_sizes(model, (declared[0].dim_value or 1, declared[2].dim_value, declared[3].dim_value))
    nodes = [node for node in graph if node.op_type in _MAC_OPERATORS]
    if not all(_is_sized(node) for node in nodes):  # sizes that the graph itself computes, as one that pads and crops does
        sized, _ = onnxsim.simplify(_with_sizes(model, (1, side, side)))
        nodes = [node for node in infer_sizes(sized, (1, side, side)) if node.op_type in _MAC_OPERATORS]
    return [(node, _macs(node)) for node in nodes]


def _is_sized(node: ir.Node) -> bool:
    values = (node.inputs[0], node.inputs[1], node.outputs[0])
    return all(value is not None and value.shape is not None and value.shape.is_static() for value in values)


def _macs(node: ir.Node) -> int:
    source, weight, output = node.inputs[0], node.inputs[1], node.outputs[0].shape
    assert source is not None
    assert source.shape is not None
    assert weight is not None
    assert weight.shape is not None
    assert output is not None
    if node.op_type == "ConvTranspose":  # each input element meets every weight of its channel
        return math.prod(source.shape.numpy()) * math.prod(weight.shape.numpy()[1:])
    if node.op_type == "Conv":
        return math.prod(output.numpy()) * math.prod(weight.shape.numpy()[1:])  # already divided by groups
    transposed = node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int() == 1
    return math.prod(output.numpy()) * weight.shape.numpy()[-1 if transposed else -2]


def _fused_names(node: ir.Node) -> tuple[str, ...]:
    """Its output's name, then nodes and outputs of the additions and activations that alone read on from it."""
    names = [node.outputs[0].name]
    readers = list(node.outputs[0].uses())
    while len(readers) == 1 and readers[0].node.op_type in _FUSED:
        follower = readers[0].node
        names += [follower.name, follower.outputs[0].name]
        readers = list(follower.outputs[0].uses())
    return tuple(dict.fromkeys(name for name in names if name and name != node.name))


def _kernel(node: ir.Node) -> tuple[int, ...]:
    if "kernel_shape" in node.attributes:
        return tuple(node.attributes["kernel_shape"].as_ints())
    weight = node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    return tuple(weight.shape.numpy()[2:])


def _constant(node: ir.Node, index: int) -> NDArray[np.generic] | None:
    """The array given as that input, where there is one and it is the same for every picture."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _ints(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else default
