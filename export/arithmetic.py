"""What a graph costs and how far it looks, read from the graph itself.

MACs of a convolution: output elements × input channels / groups × kernel area. Halo: the input pixels around a tile that reach
its output; a convolution adds k // 2 · dilation pixels of its own grid, which DepthToSpace of r makes r times finer and a
stride coarser.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import onnx
import onnx_ir as ir

from runtime.bundle import Layer
from runtime.errors import PipelineError

_SIDE = 128  # MACs are stated for one 128×128 input
_LOCAL = ("Relu", "Add", "Sub", "Mul", "Div", "Clip", "Cast", "Identity")
_MAC_OPERATORS = ("Conv",)
_FUSED = ("Add", "Relu")


def count_macs(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """Each operator with multiply-accumulates, for one 128×128 input, in graph order."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    del sized.graph.value_info[:]
    for output in sized.graph.output:
        output.type.tensor_type.ClearField("shape")
    dimensions = sized.graph.input[0].type.tensor_type.shape.dim
    for dimension, size in zip((dimensions[0], dimensions[2], dimensions[3]), (1, _SIDE, _SIDE), strict=True):
        dimension.dim_value = size
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(sized, strict_mode=True, data_prop=True)).graph
    return tuple(_layer(node) for node in graph if node.op_type in _MAC_OPERATORS)


def receptive_halo(graph: ir.Graph) -> int | Literal["global"]:
    """Input pixels around a tile that its output depends on; "global" where an operator looks at the whole picture."""
    halo: dict[str | None, Fraction] = {value.name: Fraction(0) for value in graph.inputs}
    density: dict[str | None, Fraction] = {value.name: Fraction(1) for value in graph.inputs}
    for node in graph:
        sources = [value.name for value in node.inputs if value is not None and value.name in halo]
        if not sources:
            continue
        reach = max(halo[source] for source in sources)
        grid = max(density[source] for source in sources)
        if node.op_type == "Conv":
            reach += Fraction(_kernel_reach(node)) / grid
            grid /= max(node.attributes["strides"].as_ints()) if "strides" in node.attributes else 1
        elif node.op_type == "DepthToSpace":
            grid *= node.attributes["blocksize"].as_int()
        elif node.op_type in ("GlobalAveragePool", "ReduceMean"):
            return "global"
        elif node.op_type not in _LOCAL:
            raise PipelineError(f"{node.op_type} {node.name}: how far this operator looks is not known here")
        halo.update({output.name: reach for output in node.outputs})
        density.update({output.name: grid for output in node.outputs})
    return max(math.ceil(halo[output.name]) for output in graph.outputs)


def _layer(node: ir.Node) -> Layer:
    weight, output = node.inputs[1], node.outputs[0].shape
    assert weight is not None
    assert weight.shape is not None
    assert output is not None
    assert node.name
    per_element = math.prod(weight.shape.numpy()[1:])  # already divided by groups
    macs = math.prod(output.numpy()) * per_element
    return Layer(name=node.name, op=node.op_type, macs=macs, aliases=_fused_names(node))


def _fused_names(node: ir.Node) -> tuple[str, ...]:
    """Its output's name, then nodes and outputs of the additions and activations that alone read on from it."""
    names = [node.outputs[0].name]
    readers = list(node.outputs[0].uses())
    while len(readers) == 1 and readers[0].node.op_type in _FUSED:
        follower = readers[0].node
        names += [follower.name, follower.outputs[0].name]
        readers = list(follower.outputs[0].uses())
    return tuple(dict.fromkeys(name for name in names if name and name != node.name))


def _kernel_reach(node: ir.Node) -> int:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    dilations = node.attributes["dilations"].as_ints() if "dilations" in node.attributes else (1, 1)
    sides = weight.shape.numpy()[2:]
    return max(side // 2 * dilation for side, dilation in zip(sides, dilations, strict=True))
