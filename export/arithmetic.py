"""Count what a graph costs: an ONNX graph in, multiply-accumulates per operator out.

MACs of a convolution: output elements × input channels / groups × kernel area.
"""

from __future__ import annotations

import math

import onnx
import onnx_ir as ir

from export.fixed_size import fix_sizes, with_sizes
from runtime.bundle import Layer

SIDE = 128  # MACs are stated for one 128×128 picture, or the one size that a graph takes
_MAC_OPERATORS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_FUSED = ("Add", "Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "Tanh")  # by onnxruntime, under their output's name


def count_macs(model: onnx.ModelProto, *, side: int = SIDE) -> tuple[Layer, ...]:
    """Return each operator with multiply-accumulates, for one side×side input, in graph order."""
    return tuple(
        Layer(name=str(node.name), op=node.op_type, macs=macs, aliases=_fused_names(node)) for node, macs in _costs(model, side)
    )


def total_macs(model: onnx.ModelProto, *, side: int = SIDE) -> int:
    """Multiply-accumulates of the whole graph for one side×side input."""
    return sum(macs for _, macs in _costs(model, side))


def infer_sizes(model: onnx.ModelProto, shape: tuple[int, int, int]) -> ir.Graph:
    """Return the graph with every tensor's shape for an input of this (N, H, W).

    Raises:
        onnx.shape_inference.InferenceError: it does not take that shape.
    """
    sized = with_sizes(model, shape)
    for output in sized.graph.output:
        output.type.tensor_type.ClearField("shape")
    return ir.from_proto(onnx.shape_inference.infer_shapes(sized, strict_mode=True, data_prop=True)).graph


def _costs(model: onnx.ModelProto, side: int) -> list[tuple[ir.Node, int]]:
    try:
        graph = infer_sizes(model, (1, side, side))
    except onnx.shape_inference.InferenceError:  # sizes are burnt in: it costs what it costs at its own
        declared = model.graph.input[0].type.tensor_type.shape.dim
        graph = infer_sizes(model, (declared[0].dim_value or 1, declared[2].dim_value, declared[3].dim_value))
    nodes = [node for node in graph if node.op_type in _MAC_OPERATORS]
    if not all(_is_sized(node) for node in nodes):  # sizes that the graph itself computes, as one that pads and crops does
        sized = ir.to_proto(fix_sizes(model, (1, side, side)))
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
