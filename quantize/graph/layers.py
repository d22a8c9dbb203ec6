"""Tell what a layer's weight means: the axis of its output channels, and what the layer multiplies its bias by.

Conv (O, I/g, kH, kW) · ConvTranspose (I, O/g, kH, kW) · Gemm (I, O), or (O, I) with transB · MatMul (…, I, O)
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.attributes import attribute


def output_axis(node: ir.Node) -> int:
    """Return the axis of a layer's weight along which its output channels lie."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"ConvTranspose": 1, "MatMul": -1}.get(node.op_type, 0)


def bias_gain(node: ir.Node) -> float:
    """Return what a layer multiplies its bias by; 0 where it can have none."""
    if node.op_type == "Gemm":
        return float(attribute(node, "beta", 1.0))
    return 0.0 if node.op_type == "MatMul" else 1.0


def along(values: NDArray[Any], dimensions: int, axis: int) -> NDArray[Any]:
    """(O,), as it lies along `axis` of an array of so many dimensions."""
    return values.reshape([-1 if index == axis % dimensions else 1 for index in range(dimensions)])
