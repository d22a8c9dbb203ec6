"""Name the constant that ties a graph to one size, for the error where the graph does not run at another."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.foreign.shapes import describe, kernel_of
from export.graph.constants import constant

_SAYS_SIZE = ("Resize", "Reshape", "Expand", "Tile", "Slice", "Split")
_WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "BatchNormalization", "LayerNormalization")


def find_size_constant(graph: ir.Graph) -> str:
    """Return the first operator of a graph of one size whose constant says, or has, the size of its output; "" where none is found.

    That tells why a graph does not run with other sizes; it proves nothing.
    """
    for node in graph:
        if _covers(node):
            return f"{describe(node)} has a window of all of the picture"
        shape = node.outputs[0].shape
        sides = set() if shape is None else {side for side in tuple(shape)[-2:] if isinstance(side, int) and side > 1}
        sides |= {int(np.prod(list(sides)))} if len(sides) == 2 else set()
        for index, value in enumerate(node.inputs):
            array = constant(value)
            if array is None or node.op_type in _WEIGHTED:
                continue
            says = (
                index > 0
                and array.dtype == np.int64
                and node.op_type in _SAYS_SIZE
                and sides & {int(number) for number in array.reshape(-1)}
            )
            last = array.shape[1] if node.op_type == "GridSample" and array.ndim == 4 else array.shape[-1] if array.ndim else 0
            if says or (last in sides and array.dtype != np.int64):
                return f"{describe(node)} has a constant of the picture's size"
    return ""


def _covers(node: ir.Node) -> bool:
    """Return whether a window is as wide as what it is on."""
    if node.op_type not in ("Conv", "AveragePool", "MaxPool", "LpPool") or node.inputs[0] is None or node.inputs[0].shape is None:
        return False
    sides = tuple(node.inputs[0].shape)[2:]
    return any(isinstance(side, int) and side > 1 and extent >= side for side, extent in zip(sides, kernel_of(node), strict=False))
