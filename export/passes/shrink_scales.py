"""Multiply the smallest factor of a product by a number, instead of the product: s (a b) = (s a) b.

Attention scales a picture's features by a few numbers a channel and then by a constant: the constant can scale those few numbers.
MDSR-BAM multiplies every feature by 0.1 in each of its blocks; here it multiplies 64 numbers.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from export.graph.constants import constant
from export.graph.editing import discard, hand_over, insert_node, producer
from export.passes.noted_shapes import note_shapes, noted_shape


def shrink_scales(model: ir.Model) -> tuple[ir.Model, str]:
    note_shapes(model)
    return model, f"{sum(_shrink(node) for node in list(model.graph))} moved to a smaller factor"


def _shrink(scaling: ir.Node) -> bool:
    """Move the constant of a product with a number to that product's smallest factor; whether there is a smaller one."""
    if scaling.op_type != "Mul":
        return False
    product, number = scaling.inputs if constant(scaling.inputs[1]) is not None else scaling.inputs[::-1]
    array = constant(number)
    if product is None or array is None or array.size != 1 or array.ndim > len(noted_shape(product) or ()):
        return False
    uses = _factors(product)
    if not uses:
        return False
    node, index = min(uses, key=lambda use: _size(use[0].inputs[use[1]]))
    factor = node.inputs[index]
    if factor is None or _size(factor) >= _size(product):
        return False
    node.replace_input_with(index, insert_node(node, "Mul", [factor, number], like=factor))
    hand_over(scaling.outputs[0], product)
    discard(scaling)
    return True


def _factors(product: ir.Value | None) -> list[tuple[ir.Node, int]]:
    """Return where the factors of a product, of products, enter it: (Mul, which of its inputs)."""
    node = producer(product, "Mul")
    if node is None:
        return []
    return [use for index in (0, 1) for use in (_factors(node.inputs[index]) or [(node, index)])]


def _size(value: ir.Value | None) -> float:
    shape = None if value is None else noted_shape(value)
    return math.inf if shape is None else math.prod(shape)
