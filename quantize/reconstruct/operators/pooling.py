"""ONNX's pools and reductions over axes in torch (https://onnx.ai/onnx/operators/)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
import torch

from export.graph.attributes import attribute
from quantize.reconstruct.operators.operator import Given, Operator, Tensor, integers, needed, present
from quantize.reconstruct.operators.products import pad_spatial, window_pads


def _windows(node: ir.Node, value: Tensor, fill: float) -> tuple[Tensor, Tensor]:
    """(N, C, sides of the output, taps) and, likewise but for N and C, 1 where a tap counts: in the picture, or its padding too."""
    kernel: Sequence[int] = attribute(node, "kernel_shape", [])
    axes = len(kernel)
    strides, dilations = attribute(node, "strides", [1] * axes), attribute(node, "dilations", [1] * axes)
    pads = window_pads(node, value.shape[2:], kernel)
    with_pad = attribute(node, "count_include_pad", 0)
    counted = torch.ones([1, 1, *value.shape[2:]])
    counted = pad_spatial(counted, pads, 1.0 if with_pad else 0.0)
    value = pad_spatial(value, pads, fill)
    beyond = [
        (0, _beyond(side, after, step=step, reach=dilation * (taps - 1) + 1) if attribute(node, "ceil_mode", 0) else 0)
        for side, taps, step, dilation, (_, after) in zip(value.shape[2:], kernel, strides, dilations, pads, strict=True)
    ]
    value, counted = pad_spatial(value, beyond, fill), pad_spatial(counted, beyond, 0.0)
    for axis, (taps, step, dilation) in enumerate(zip(kernel, strides, dilations, strict=True), start=2):
        reach = dilation * (taps - 1) + 1
        value = value.unfold(axis, reach, step)[..., ::dilation]
        counted = counted.unfold(axis, reach, step)[..., ::dilation]
    return value.flatten(2 + axes), counted.flatten(2 + axes)


def _beyond(padded: int, after: int, *, step: int, reach: int) -> int:
    """Return how far the last window of `ceil_mode` reaches beyond what is padded; one that begins in the padding is left out."""
    begins = -(-(padded - reach) // step) * step
    return max(begins + reach - padded, 0) if begins < padded - after else 0


def _max_pool(node: ir.Node, given: Given) -> Tensor:
    return _windows(node, needed(given), -math.inf)[0].amax(-1)


def _average_pool(node: ir.Node, given: Given) -> Tensor:
    values, counted = _windows(node, needed(given), 0.0)
    return values.sum(-1) / counted.sum(-1)


def _over_all(compute: Callable[[Tensor, list[int]], Tensor]) -> Operator:
    return lambda _, given: compute(needed(given), list(range(2, needed(given).ndim)))


def _reduce(compute: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    """Axes are an attribute in older opsets, an input in newer ones."""

    def reduce(node: ir.Node, given: Given) -> Tensor:
        value, tensor = needed(given), present(given, 1)
        axes = integers(tensor) if tensor is not None else list(attribute(node, "axes", []))
        if not axes and attribute(node, "noop_with_empty_axes", 0):
            return value
        return compute(value, axes or list(range(value.ndim)), bool(attribute(node, "keepdims", 1)))

    return reduce


def _product(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % value.ndim for axis in axes), reverse=True):
        value = value.prod(axis, keepdim=keep)
    return value


_REDUCTIONS: Mapping[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceL1": lambda value, axes, keep: value.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda value, axes, keep: value.square().sum(axes, keepdim=keep).sqrt(),
    "ReduceLogSum": lambda value, axes, keep: value.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda value, axes, keep: value.logsumexp(axes, keepdim=keep),
    "ReduceMax": lambda value, axes, keep: value.amax(axes, keepdim=keep),
    "ReduceMean": lambda value, axes, keep: value.mean(axes, keepdim=keep),
    "ReduceMin": lambda value, axes, keep: value.amin(axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceSum": lambda value, axes, keep: value.sum(axes, keepdim=keep),
    "ReduceSumSquare": lambda value, axes, keep: value.square().sum(axes, keepdim=keep),
}
OPERATORS: Mapping[str, Operator] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _over_all(lambda value, axes: value.mean(axes, keepdim=True)),
    "GlobalMaxPool": _over_all(lambda value, axes: value.amax(axes, keepdim=True)),
    "MaxPool": _max_pool,
    **{name: _reduce(compute) for name, compute in _REDUCTIONS.items()},
}
