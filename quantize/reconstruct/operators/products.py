"""ONNX's convolutions and matrix products in torch (https://onnx.ai/onnx/operators/)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812 # the field's name for it

from export.graph.attributes import attribute
from quantize.reconstruct.operators.operator import Given, Operator, Tensor, needed, present

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def window_pads(node: ir.Node, sides: Sequence[int], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis for an operator with windows, by `pads` or by `auto_pad`."""
    mode, axes = attribute(node, "auto_pad", "NOTSET"), len(kernel)
    if mode == "NOTSET":
        pads = attribute(node, "pads", [0] * 2 * axes)
        return list(zip(pads[:axes], pads[axes:], strict=True))
    if mode == "VALID":
        return [(0, 0)] * axes
    strides, dilations = attribute(node, "strides", [1] * axes), attribute(node, "dilations", [1] * axes)
    found = []
    for side, taps, step, dilation in zip(sides, kernel, strides, dilations, strict=True):
        total = max((-(-side // step) - 1) * step + dilation * (taps - 1) + 1 - side, 0)
        before = (total + (mode == "SAME_LOWER")) // 2
        found.append((before, total - before))
    return found


def pad_spatial(value: Tensor, pads: Sequence[tuple[int, int]], fill: float = 0.0) -> Tensor:
    """Return `value` padded on its last axes."""
    return F.pad(value, list(itertools.chain(*reversed(pads))), value=fill) if any(map(any, pads)) else value


def _convolve(node: ir.Node, given: Given) -> Tensor:
    value, weight = needed(given, 0), needed(given, 1)
    axes = weight.ndim - 2
    padded = pad_spatial(value, window_pads(node, value.shape[2:], weight.shape[2:]))
    made: Tensor = _CONVOLUTIONS[axes](
        padded,
        weight,
        present(given, 2),
        stride=tuple(attribute(node, "strides", [1] * axes)),
        dilation=tuple(attribute(node, "dilations", [1] * axes)),
        groups=attribute(node, "group", 1),
    )
    return made


def _convolve_transposed(node: ir.Node, given: Given) -> Tensor:
    """Computed without padding, and then cropped."""
    value, weight = needed(given, 0), needed(given, 1)
    axes = weight.ndim - 2
    strides, dilations = attribute(node, "strides", [1] * axes), attribute(node, "dilations", [1] * axes)
    extra = attribute(node, "output_padding", [0] * axes)
    made: Tensor = _TRANSPOSED[axes](
        value, weight, stride=tuple(strides), dilation=tuple(dilations), groups=attribute(node, "group", 1)
    )
    made = pad_spatial(made, [(0, more) for more in extra])
    pads = _transposed_pads(node, value.shape[2:], made.shape[2:], strides)
    made = pad_spatial(made, [(-before, -after) for before, after in pads])
    bias = present(given, 2)
    return made if bias is None else made + bias.reshape(-1, *[1] * axes)


def _transposed_pads(node: ir.Node, sides: Sequence[int], full: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return what is cropped of each axis, whose size is `full` without."""
    axes, mode = len(sides), attribute(node, "auto_pad", "NOTSET")
    wanted = attribute(node, "output_shape", None)
    if wanted is None and mode in ("NOTSET", "VALID"):
        pads = attribute(node, "pads", [0] * 2 * axes) if mode == "NOTSET" else [0] * 2 * axes
        return list(zip(pads[:axes], pads[axes:], strict=True))
    wanted = wanted or [side * step for side, step in zip(sides, strides, strict=True)]
    totals = [max(have - want, 0) for have, want in zip(full, wanted, strict=True)]
    starts = [total // 2 if mode == "SAME_UPPER" else total - total // 2 for total in totals]
    return [(start, total - start) for start, total in zip(starts, totals, strict=True)]


def _gemm(node: ir.Node, given: Given) -> Tensor:
    one, other, bias = needed(given, 0), needed(given, 1), present(given, 2)
    one = one.T if attribute(node, "transA", 0) else one
    other = other.T if attribute(node, "transB", 0) else other
    made: Tensor = attribute(node, "alpha", 1.0) * (one @ other)
    return made if bias is None else torch.add(made, bias, alpha=attribute(node, "beta", 1.0))


def _einsum(node: ir.Node, given: Given) -> Tensor:
    made: Tensor = torch.einsum(attribute(node, "equation", ""), *(needed(given, index) for index in range(len(given))))
    return made


OPERATORS: Mapping[str, Operator] = {
    "Conv": _convolve,
    "ConvTranspose": _convolve_transposed,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": lambda _, given: torch.matmul(needed(given, 0), needed(given, 1)),
}
