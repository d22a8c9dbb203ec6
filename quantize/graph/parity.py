"""Tell whether a tensor's height and width are even, whatever size the picture has: a value of a graph in, what is known out.

A network that ends behind an upsampling by 2 or 4 makes even sizes of any picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.graph.attributes import attribute, has_own_pads
from export.graph.channel_blocks import stored_parameter
from export.graph.constants import constant

Parity = tuple[int, int]
"""Height and width modulo 2."""
_KEEP_SIZES = (
    *("Relu", "PRelu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Identity", "Cast"),
    *("QuantizeLinear", "DequantizeLinear"),
)


def sizes_modulo_two(value: ir.Value | None) -> Parity | None:
    """Return height and width of `value`, (N, C, H, W), modulo 2; None where they depend on the picture's size."""
    if value is None or value.is_graph_input():
        return None
    if value.shape is not None and len(value.shape) == 4 and all(isinstance(side, int) for side in list(value.shape)[2:]):
        height, width = (int(str(side)) % 2 for side in list(value.shape)[2:])
        return height, width
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "DepthToSpace" and node.attributes["blocksize"].as_int() % 2 == 0:
        return 0, 0
    if node.op_type in _KEEP_SIZES:
        return sizes_modulo_two(node.inputs[0])
    if node.op_type == "Add":  # its sides may be stretched, of one row or column, only where the other knows better
        return next((found for found in map(sizes_modulo_two, node.inputs) if found is not None), None)
    grown = _grown(node)
    before = None if grown is None else sizes_modulo_two(node.inputs[0])
    return None if before is None or grown is None else ((before[0] + grown[0]) % 2, (before[1] + grown[1]) % 2)


def _grown(node: ir.Node) -> Sequence[int] | None:
    """Return how many rows and columns more `node` makes than it reads; None where that is not so many for every size."""
    if node.op_type == "Conv" and has_own_pads(node) and set(attribute(node, "strides", (1, 1))) == {1}:
        kernel = stored_parameter(node, 1)
        if kernel is None or kernel.ndim != 4:
            return None
        sides = kernel.shape[2:]
        pads, dilations = attribute(node, "pads", (0, 0, 0, 0)), attribute(node, "dilations", (1, 1))
        return [pads[axis] + pads[axis + 2] - dilations[axis] * (sides[axis] - 1) for axis in (0, 1)]
    amounts = constant(node.inputs[1]) if node.op_type == "Pad" and len(node.inputs) < 4 else None
    if amounts is None or amounts.size != 8:
        return None
    flat = amounts.astype(np.int64).tolist()
    return [flat[axis] + flat[axis + 4] for axis in (2, 3)]
