"""Put the channels before a DepthToSpace in DCR order: a graph in, the same function out, which kernels compute sooner.

In CRD order (channel c·r² + i·r + j) a DepthToSpace gathers each pixel's channels from places r² apart. Backends keep channels
last; in DCR order ((i·r + j)·C + c) it copies C neighbours at a time, and LiteRT has no other. The convolution before writes
that order once its output channels are permuted; operators between the two treat every channel alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.attributes import attribute, groups
from export.graph.constants import constant, new_constant
from export.graph.editing import only_reader

_ALIKE = (
    "Relu",
    "PRelu",
    "LeakyRelu",
    "Clip",
    "Sigmoid",
    "Tanh",
    "HardSigmoid",
    "HardSwish",
    "Elu",
    "QuantizeLinear",
    "DequantizeLinear",
)

Change = Callable[[NDArray[Any]], NDArray[Any]]


def blocks_of_channels(graph: ir.Graph) -> None:
    """Give each DepthToSpace behind a convolution its channels in DCR order."""
    for shuffle in [node for node in graph if node.op_type == "DepthToSpace" and attribute(node, "mode", "DCR") == "CRD"]:
        layer = convolution_before(shuffle.inputs[0])
        if layer is None:
            continue
        change_outputs(graph, layer, partial(_by_blocks, square=shuffle.attributes["blocksize"].as_int() ** 2))
        shuffle.attributes["mode"] = ir.AttrString("mode", "DCR")
    graph.sort()


def change_outputs(graph: ir.Graph, layer: ir.Node, change: Change, *, kernel: Change | None = None) -> None:
    """Replace what `layer` has one of for each output channel by what `change` makes of it, and its weight by `kernel`'s."""
    for index, value in list(enumerate(layer.inputs))[1:]:
        if value is None:
            continue
        of_values = kernel if index == 1 and kernel is not None else change
        restored = value.producer()
        if restored is None:
            _replace(graph, layer, index, of_values)
            continue
        if len(list(value.uses())) > 1:  # layers that share a weight
            name = f"{layer.name}.{restored.name}"
            restored = ir.Node("", restored.op_type, list(restored.inputs), list(restored.attributes.values()), name=name)
            restored.outputs[0].name, restored.outputs[0].type = f"{layer.name}.{value.name}", value.type
            graph.insert_before(layer, restored)
            layer.replace_input_with(index, restored.outputs[0])
        restored.outputs[0].shape = None
        for part in range(len(restored.inputs)):
            _replace(graph, restored, part, of_values if part == 0 else change)


def convolution_before(value: ir.Value | None) -> ir.Node | None:
    """Return the convolution that alone writes `value`, with nothing between but operators that treat every channel alike."""
    while value is not None and only_reader(value) is not None:
        node = value.producer()
        if node is None or node.op_type == "Conv":
            return node if node is not None and groups(node) == 1 and stored_parameter(node, 1) is not None else None
        if not treats_alike(node):
            return None
        value = node.inputs[0]
    return None


def treats_alike(node: ir.Node) -> bool:
    """Return whether `node` does the same to all channels; a quantizer of one scale does."""
    return node.op_type in _ALIKE and all(
        value is None or (value.const_value is not None and value.const_value.size == 1) for value in node.inputs[1:]
    )


def stored_parameter(layer: ir.Node, index: int) -> NDArray[Any] | None:
    """Return a layer's weight or bias as a graph stores it: in float, or the integers that a DequantizeLinear restores it from."""
    value = layer.inputs[index] if len(layer.inputs) > index else None
    restored = None if value is None else value.producer()
    return constant(restored.inputs[0] if restored is not None and restored.op_type == "DequantizeLinear" else value)


def _by_blocks(array: NDArray[Any], *, square: int) -> NDArray[Any]:
    """(C·square, …) in CRD order -> the same in DCR order."""
    return array.reshape(-1, square, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def _replace(graph: ir.Graph, node: ir.Node, index: int, change: Change) -> None:
    """Give the constant that `node` reads there other values, under the name it has where no other node reads it."""
    value = node.inputs[index]
    array = constant(value)
    if value is None or array is None or array.ndim == 0:
        return
    if len(list(value.uses())) == 1:
        del graph.initializers[str(value.name)]
    node.replace_input_with(index, new_constant(graph, np.ascontiguousarray(change(array)), name=str(value.name)))
