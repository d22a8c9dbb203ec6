"""ONNX operators in torch, one module per family: what a node computes, differentiable where that means anything."""

from __future__ import annotations

from collections.abc import Mapping

from quantize.reconstruct.operators import elementwise, layout, normalization, pooling, products, resize
from quantize.reconstruct.operators.operator import Operator

__all__ = ["OPERATORS", "Operator"]

OPERATORS: Mapping[str, Operator] = {
    **elementwise.OPERATORS,
    **layout.OPERATORS,
    **normalization.OPERATORS,
    **pooling.OPERATORS,
    **products.OPERATORS,
    **resize.OPERATORS,
}
"""By name; those of ONNX's own domain."""
