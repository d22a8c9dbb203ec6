"""Merge two convolutions that have nothing between them, where one of them multiplies less than the two.

    W₂ (W₁ x + b₁) + b₂ = (W₂ W₁) x + (W₂ b₁ + b₂)

with a 1×1 convolution on either side. Exact at the borders where the second pads nothing, or where it pads and the first has no
bias (its output is then zero wherever its input is padding). A mean shift ahead of a padded convolution has a bias: it stays.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.attributes import groups, pads
from export.graph.editing import Array, discard, hand_over, producer, set_weights, weights


def merge_convolutions(model: ir.Model) -> tuple[ir.Model, str]:
    count = 0
    for second in list(model.graph):
        first = producer(second.inputs[0], "Conv") if second.op_type == "Conv" else None
        if first is not None and _merge(first, second):
            discard(second)
            count += 1
    return model, f"{count} pairs merged"


def _merge(first: ir.Node, second: ir.Node) -> bool:
    """Make `first` do the work of both; whether that is exact and cheaper."""
    before, after = weights(first), weights(second)
    if before is None or after is None or not (_is_plain(first) and _is_plain(second)):
        return False
    (weight1, bias1), (weight2, bias2) = before, after
    exact_behind = _is_pointwise(second, weight2)
    exact_ahead = _is_pointwise(first, weight1) and not (pads(second) and bias1.any())
    if not (exact_behind or exact_ahead):
        return False
    window = first if exact_behind else second  # whose kernel the merged convolution has
    multiply = "om,mikl->oikl" if exact_behind else "omkl,mi->oikl"
    factors = (_matrix(weight2), weight1) if exact_behind else (weight2, _matrix(weight1))
    merged = np.einsum(multiply, *(factor.astype(np.float64) for factor in factors))
    if merged.size >= weight1.size + weight2.size:
        return False
    set_weights(first, merged, np.einsum("omkl,m->o", weight2.astype(np.float64), bias1) + bias2)
    for name in ("kernel_shape", "pads", "auto_pad", "dilations"):
        if name in window.attributes:
            first.attributes[name] = window.attributes[name]
        else:
            first.attributes.pop(name, None)
    hand_over(second.outputs[0], first.outputs[0])
    return True


def _is_pointwise(node: ir.Node, weight: Array) -> bool:
    return weight.shape[2:] == (1, 1) and not pads(node)


def _matrix(weight: Array) -> Array:
    return weight[:, :, 0, 0]


def _is_plain(node: ir.Node) -> bool:
    """Return one group, no stride."""
    strides = node.attributes["strides"].as_ints() if "strides" in node.attributes else (1, 1)
    return groups(node) == 1 and set(strides) == {1}
