"""Round a layer's weights without pictures: a float32 weight in, int8 codes and a scale per output channel out.

Each goes to its nearest step; those of a convolution to a step next to them, so that their errors cancel (`cancel.py`).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.attributes import attribute
from export.graph.constants import constant_input
from quantize.graph.layers import along, bias_gain, output_axis
from quantize.graph.qdq import LARGEST_BIAS, SMALLEST_SCALE, RoundedWeight, storable_scale
from quantize.weights.cancel import round_cancelling
from quantize.weights.correct import mean_error
from runtime.targets import Target

Number = TypeVar("Number", np.float32, np.float64)


def quantize_weight(
    weight: NDArray[np.float32], target: Target, *, axis: int = 0, smallest_scale: NDArray[np.float32] | float = SMALLEST_SCALE
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """float32 -> int8 of the same shape and a scale for each output channel, (O,) float32, which lie along `axis`; zero point 0.

    `smallest_scale`, of one value or one per channel, is what a channel of tiny weights gets instead of its own. Where `target` has
    one scale per tensor all channels get the coarsest.
    """
    largest = one_or_each(np.abs(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1).max(axis=1), target)
    finest = one_or_each(np.broadcast_to(np.asarray(smallest_scale, np.float32), largest.shape), target)
    without_weights = np.where(finest > SMALLEST_SCALE, finest, 1.0)  # a channel of nothing but its bias
    scale = storable_scale(np.where(largest > 0, np.maximum(largest / target.largest_weight, finest), without_weights), target)
    column = along(scale, weight.ndim, axis)
    return np.clip(np.rint(weight / column), -target.largest_weight, target.largest_weight).astype(np.int8), scale


def one_or_each(values: NDArray[Number], target: Target) -> NDArray[Number]:
    """(O,): a number of each output channel, or where `target` has one scale per weight tensor, of all the largest."""
    return values if target.weight_per_channel else np.full_like(values, values.max())


def round_unfitted(
    layer: ir.Node, target: Target, *, input_scale: float, channel_means: NDArray[np.float64] | None = None
) -> RoundedWeight:
    """Return a layer's weights rounded, its bias corrected where `channel_means`, (I,) of its input, are given."""
    weight, axis = constant_input(layer, 1), output_axis(layer)
    groups = attribute(layer, "group", 1) if layer.op_type == "ConvTranspose" else 1
    outputs = weight.shape[axis] * groups
    has_bias = len(layer.inputs) > 2 and layer.inputs[2] is not None
    bias = np.broadcast_to(constant_input(layer, 2).astype(np.float64).ravel(), outputs) if has_bias else np.zeros(outputs)
    finest = smallest_scale(np.abs(bias).reshape(groups, -1).max(axis=0), input_scale)
    integers, scale = quantize_weight(weight, target, axis=axis, smallest_scale=finest)
    if layer.op_type == "Conv":
        steps = (weight / along(scale, weight.ndim, axis)).astype(np.float64)
        cancelling = round_cancelling(steps.reshape(*weight.shape[:2], -1), largest=target.largest_weight)
        integers = cancelling.reshape(weight.shape).astype(np.int8)
    gain = bias_gain(layer)
    if channel_means is not None and gain:
        error = np.asarray(integers * along(scale, weight.ndim, axis).astype(np.float64) - weight, np.float64)
        bias = bias - mean_error(layer, error, channel_means) / gain
    return RoundedWeight(integers, scale, bias)


def smallest_scale(bias: NDArray[np.float64], input_scale: float) -> NDArray[np.float32]:
    """Return the least scale of each output channel's weights: a bias is stored in steps of it times `input_scale`, as an int32."""
    return np.maximum(np.abs(bias) / (input_scale * LARGEST_BIAS), SMALLEST_SCALE).astype(np.float32)
