"""ONNX's normalizations and softmax in torch (https://onnx.ai/onnx/operators/)."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812 # the field's name for it

from export.graph.attributes import attribute
from quantize.reconstruct.operators.operator import Given, Operator, Tensor, needed, present

_EPSILON = 1e-5


def _batch(node: ir.Node, given: Given) -> Tensor:
    """Not in training: with the means and variances that it was given."""
    value, scale, bias, mean, variance = (needed(given, index) for index in range(5))
    return F.batch_norm(value, mean, variance, scale, bias, eps=attribute(node, "epsilon", _EPSILON))


def _instance(node: ir.Node, given: Given) -> Tensor:
    value, scale, bias = (needed(given, index) for index in range(3))
    axes = list(range(2, value.ndim))
    return _normalized(value, axes, attribute(node, "epsilon", _EPSILON)) * _on_channels(scale, value) + _on_channels(bias, value)


def _group(node: ir.Node, given: Given) -> Tensor:
    """Scale and bias are for each group before opset 21, for each channel since."""
    value, scale, bias = (needed(given, index) for index in range(3))
    groups, channels = attribute(node, "num_groups", 1), value.shape[1]
    scale, bias = (each if len(each) == channels else each.repeat_interleave(channels // groups) for each in (scale, bias))
    return F.group_norm(value, groups, scale, bias, attribute(node, "epsilon", _EPSILON))


def _layer(node: ir.Node, given: Given) -> Tensor:
    value, scale, bias = needed(given, 0), needed(given, 1), present(given, 2)
    axes = list(range(attribute(node, "axis", -1) % value.ndim, value.ndim))
    made = _normalized(value, axes, attribute(node, "epsilon", _EPSILON)) * scale
    return made if bias is None else made + bias


def _rms(node: ir.Node, given: Given) -> Tensor:
    value = needed(given)
    axes = list(range(attribute(node, "axis", -1) % value.ndim, value.ndim))
    return value * torch.rsqrt(value.square().mean(axes, keepdim=True) + attribute(node, "epsilon", _EPSILON)) * needed(given, 1)


def _to_length_one(node: ir.Node, given: Given) -> Tensor:
    """Return what is 0 stays 0."""
    value = needed(given)
    length = value.norm(p=attribute(node, "p", 2), dim=attribute(node, "axis", -1), keepdim=True)
    return torch.where(length > 0, value / length, 0.0)


def _softmax(node: ir.Node, given: Given) -> Tensor:
    return needed(given).softmax(attribute(node, "axis", -1))


def _log_softmax(node: ir.Node, given: Given) -> Tensor:
    return needed(given).log_softmax(attribute(node, "axis", -1))


def _normalized(value: Tensor, axes: list[int], epsilon: float) -> Tensor:
    centred = value - value.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)


def _on_channels(each: Tensor, value: Tensor) -> Tensor:
    return each.reshape(-1, *[1] * (value.ndim - 2))


OPERATORS: Mapping[str, Operator] = {
    "BatchNormalization": _batch,
    "GroupNormalization": _group,
    "InstanceNormalization": _instance,
    "LayerNormalization": _layer,
    "LogSoftmax": _log_softmax,
    "LpNormalization": _to_length_one,
    "RMSNormalization": _rms,
    "Softmax": _softmax,
}
"""Softmax as since opset 13, the lowest that an int8 graph has."""
