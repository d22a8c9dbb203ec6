"""Fold multiplications and additions by constants into the weights of the convolution beside them.

Behind it, per output channel: s (W x + b) + t = (s W) x + (s b + t), exact at the borders too.
Ahead of it, per input channel: W (s x + t) + b = (W s) x + (b + Σ W t). The scale is always exact, since padding's zeros stay
zero; the offset only where the convolution pads nothing, because padding would have to become t. With padding it stays as it is.
Behind clips, activations and moves, numbers that are the same for all channels pass through to the convolution: `pass_back.py`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.attributes import groups, pads
from export.graph.constants import constant
from export.graph.editing import discard, hand_over, only_reader, producer, set_weights, weights
from export.passes.pass_back import pass_back

_OPERATORS = ("Mul", "Div", "Add", "Sub")
Numbers = NDArray[np.float64]


def fold_affine(model: ir.Model) -> tuple[ir.Model, str]:
    count = 0
    while (folded := next((node for node in model.graph if _fold_behind(node) or _fold_ahead(node)), None)) is not None:
        discard(folded)
        count += 1
    return model, f"{count} folded"


def _fold_behind(node: ir.Node) -> bool:
    """Into the convolution that makes its input, through a shuffle where all channels are treated alike."""
    found = _scale_and_offset(node)
    if found is None:
        return False
    value, scale, offset = found
    if scale.size == offset.size == 1 and pass_back(value, scale.item(), offset.item()):
        hand_over(node.outputs[0], value)
        return True
    maker = producer(value, "Conv", "DepthToSpace")
    if maker is not None and maker.op_type == "DepthToSpace" and scale.size == offset.size == 1:
        maker = producer(maker.inputs[0], "Conv")
    parameters = None if maker is None else weights(maker)
    if maker is None or parameters is None:
        return False
    weight, bias = parameters
    if scale.size not in (1, len(bias)) or offset.size not in (1, len(bias)):
        return False
    per_channel = np.broadcast_to(scale, bias.shape)
    set_weights(maker, weight * per_channel[:, None, None, None], bias * per_channel + offset)
    hand_over(node.outputs[0], value)
    return True


def _fold_ahead(node: ir.Node) -> bool:
    """Into the convolution that alone reads its output."""
    found = _scale_and_offset(node)
    convolution = only_reader(node.outputs[0])
    parameters = None if convolution is None else weights(convolution)
    if found is None or convolution is None or parameters is None or convolution.inputs[0] is not node.outputs[0]:
        return False
    (weight, bias), (value, scale, offset) = parameters, found
    channels = weight.shape[1]
    if groups(convolution) != 1 or scale.size not in (1, channels) or offset.size not in (1, channels):
        return False
    if offset.any() and pads(convolution):
        return False
    shift = np.einsum("oikl,i->o", weight.astype(np.float64), np.broadcast_to(offset, channels))
    set_weights(convolution, weight * np.broadcast_to(scale, channels)[None, :, None, None], bias + shift)
    convolution.replace_input_with(0, value)
    return True


def _scale_and_offset(node: ir.Node) -> tuple[ir.Value, Numbers, Numbers] | None:
    """(x, s, t) where the node computes s x + t; s and t are a number, or one per channel."""
    if node.op_type not in _OPERATORS:
        return None
    left, right = (constant(value) for value in node.inputs)
    value, array = (node.inputs[0], right) if left is None else (node.inputs[1], left)
    if value is None or array is None or (left is not None and right is not None):
        return None
    numbers = _per_channel(array, value)
    if numbers is None:
        return None
    none, one = np.zeros(1), np.ones(1)
    if node.op_type == "Add":
        return value, one, numbers
    if node.op_type == "Mul":
        return value, numbers, none
    if node.op_type == "Sub":
        return (value, one, -numbers) if left is None else (value, -one, numbers)
    return (value, 1 / numbers, none) if left is None and numbers.all() else None


def _per_channel(array: NDArray[np.generic], value: ir.Value) -> Numbers | None:
    """Return the constant as one number, or one per channel of (N, C, H, W).

    None where it varies over the picture or widens the result.
    """
    if value.shape is None or len(value.shape) != 4 or array.ndim > 4:
        return None
    shape = (1,) * (4 - array.ndim) + array.shape
    if array.size == 1:
        return array.astype(np.float64).reshape(1)
    per_channel = shape == (1, array.size, 1, 1) and value.shape[1] == array.size
    return array.astype(np.float64).reshape(-1) if per_channel else None
