"""Write a layer as products of matrices: which values make each of its outputs, and by which of its weights.

    Conv:           y[o, p] = Σ x[i, s p - pad + d k] · w[o, i, k]        a part for each group
    ConvTranspose:  y[o, p] = Σ x[i, (p + pad - d k) / s] · w[i, o, k]    a part for each phase (p + pad) mod s: other taps k
    Gemm, MatMul:   y[…, o] = Σ x[…, i] · w[i, o]                         one part

(https://onnx.ai/onnx/operators/.) Rounding weights for what a layer makes (`quantize/weights/rounding.py`) is a least-squares
problem for each part.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.attributes import attribute, has_own_pads
from export.graph.constants import constant_input
from quantize.graph.walk import Array

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Part:
    """One product: outputs = windows @ weight.

    Attributes:
        index: (K, O), which entries of the layer's flattened weight these are.
        outputs: (O,), the layer's output channels.
        channels: of the input, that it reads.
        taps: (rows, columns) of the kernel that it is of.
        phase: ConvTranspose: (p + pad) mod stride of the outputs it makes, rows and columns.
    """

    index: Indices
    outputs: Indices
    channels: slice
    taps: tuple[Sequence[int], Sequence[int]] = ((), ())
    phase: tuple[int, int] = (0, 0)


def layer_parts(node: ir.Node) -> list[Part] | None:
    """Return the parts of `node`, a layer with a constant weight; None where it is none of those above: of one dimension, or a
    ConvTranspose with groups or with padding that follows from a size.
    """
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None or weight.const_value is None:
        return None
    shape: tuple[int, ...] = weight.const_value.numpy().shape
    if node.op_type == "Conv" and len(shape) == 4:
        return list(_groups(node, shape))
    if node.op_type == "ConvTranspose" and len(shape) == 4:
        is_plain = has_own_pads(node) and attribute(node, "group", 1) == 1 and "output_shape" not in node.attributes
        return list(_phases(node, shape)) if is_plain else None
    places = np.arange(int(np.prod(shape)), dtype=np.intp).reshape(shape)
    if node.op_type == "MatMul" and len(shape) == 2 and node.inputs[0] is not None and node.inputs[0].const_value is None:
        return [Part(places, np.arange(shape[1]), slice(None))]
    if node.op_type == "Gemm" and not attribute(node, "transA", 0):
        own = places.T if attribute(node, "transB", 0) else places
        return [Part(own, np.arange(own.shape[1]), slice(None))] if _has_row_bias(node, own.shape[1]) else None
    return None


def windows_at(node: ir.Node, part: Part, given: Array, positions: Indices) -> Array:
    """(S, K): what `part` multiplies by its weights for each output at `positions`, which index the output's rows or pixels."""
    if node.op_type in ("Gemm", "MatMul"):
        rows = given.reshape(-1, given.shape[-1])[positions]
        gain = np.float32(attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0)
        scaled: Array = rows * gain
        return scaled
    width = output_size(node, given)[1]
    places = np.divmod(positions, width)
    steps, dilations, starts = _steps(node, given)
    read: list[Indices] = []
    for place, taps, step, dilation, start in zip(places, part.taps, steps, dilations, starts, strict=True):
        offsets = dilation * np.asarray(taps)
        if node.op_type == "Conv":
            read.append(step * place[:, np.newaxis] - start + offsets)
        else:
            read.append((place[:, np.newaxis] + start - offsets) // step)
    return _gather(given[0, part.channels], read[0], read[1]).reshape(len(positions), -1)


def positions_of(node: ir.Node, part: Part, given: Array) -> Indices:
    """Return where an output of `part` is: all rows of a matrix product, or pixels of the output."""
    if node.op_type in ("Gemm", "MatMul"):
        return np.arange(given.size // given.shape[-1])
    height, width = output_size(node, given)
    if node.op_type == "Conv":
        return np.arange(height * width)
    (step_y, step_x), _, (top, left) = _steps(node, given)
    rows = np.flatnonzero((np.arange(height) + top) % step_y == part.phase[0])
    columns = np.flatnonzero((np.arange(width) + left) % step_x == part.phase[1])
    places: Indices = (rows[:, np.newaxis] * width + columns).ravel()
    return places


def outputs_at(node: ir.Node, part: Part, made: Array, positions: Indices) -> Array:
    """(S, O): what the layer made, `made`, of the channels of `part` at `positions`."""
    if node.op_type in ("Gemm", "MatMul"):
        return made.reshape(-1, made.shape[-1])[positions]
    pixels = made[0].reshape(made.shape[1], -1)
    return np.asarray(pixels[np.ix_(part.outputs, positions)].T)


def output_size(node: ir.Node, given: Array) -> tuple[int, int]:
    """(H, W) of what a convolution makes of `given`."""
    steps, dilations, starts = _steps(node, given)
    ends, extra = _pads(node, given)[2:], attribute(node, "output_padding", (0, 0))
    kernel = constant_input(node, 1).shape[2:]
    sizes = []
    for side, step, dilation, start, end, more, taps in zip(
        given.shape[2:], steps, dilations, starts, ends, extra, kernel, strict=True
    ):
        reach = dilation * (taps - 1) + 1
        if node.op_type == "Conv":
            sizes.append((side + start + end - reach) // step + 1)
        else:
            sizes.append(step * (side - 1) + more + reach - start - end)
    return sizes[0], sizes[1]


def _groups(node: ir.Node, shape: Sequence[int]) -> Iterator[Part]:
    groups, (outputs, inputs, height, width) = attribute(node, "group", 1), shape
    places = np.arange(int(np.prod(shape)), dtype=np.intp).reshape(outputs, -1)
    for group in range(groups):
        own = np.arange(outputs // groups) + group * (outputs // groups)
        channels = slice(group * inputs, (group + 1) * inputs)
        yield Part(places[own].T, own, channels, (range(height), range(width)))


def _phases(node: ir.Node, shape: Sequence[int]) -> Iterator[Part]:
    steps, dilations = attribute(node, "strides", (1, 1)), attribute(node, "dilations", (1, 1))
    places = np.arange(int(np.prod(shape)), dtype=np.intp).reshape(shape)
    for phase in itertools.product(*map(range, steps)):
        taps = [
            [tap for tap in range(size) if (dilation * tap - own) % step == 0]
            for size, own, step, dilation in zip(shape[2:], phase, steps, dilations, strict=True)
        ]
        if not all(taps):
            continue  # nothing but the bias
        own_places = places[:, :, taps[0]][:, :, :, taps[1]].transpose(0, 2, 3, 1).reshape(-1, shape[1])
        yield Part(own_places, np.arange(shape[1]), slice(None), (taps[0], taps[1]), (phase[0], phase[1]))


def _gather(values: Array, rows: Indices, columns: Indices) -> Array:
    """(C, H, W), (S, kH), (S, kW) -> (S, C, kH, kW), 0 outside the picture."""
    _, height, width = values.shape
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    rows, columns = np.clip(rows + 1, 0, height + 1), np.clip(columns + 1, 0, width + 1)
    windows: Array = np.moveaxis(padded[:, rows[:, :, np.newaxis], columns[:, np.newaxis, :]], 0, 1)
    return windows


def _steps(node: ir.Node, given: Array) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Strides, dilations, and padding before: rows and columns."""
    return attribute(node, "strides", (1, 1)), attribute(node, "dilations", (1, 1)), _pads(node, given)[:2]


def _pads(node: ir.Node, given: Array) -> Sequence[int]:
    """Top, left, bottom, right, around `given`."""
    auto_pad = attribute(node, "auto_pad", "NOTSET")
    if auto_pad in ("NOTSET", "VALID"):
        return tuple(attribute(node, "pads", (0, 0, 0, 0))) if auto_pad == "NOTSET" else (0, 0, 0, 0)
    steps, dilations = attribute(node, "strides", (1, 1)), attribute(node, "dilations", (1, 1))
    starts, ends = [], []
    for side, step, dilation, taps in zip(given.shape[2:], steps, dilations, constant_input(node, 1).shape[2:], strict=True):
        total = max((-(-side // step) - 1) * step + dilation * (taps - 1) + 1 - side, 0)
        start = (total + (auto_pad == "SAME_LOWER")) // 2  # an odd one goes to the end, or to the start
        starts.append(start)
        ends.append(total - start)
    return (*starts, *ends)


def _has_row_bias(node: ir.Node, outputs: int) -> bool:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return bias is None or (bias.const_value is not None and bias.const_value.size in (1, outputs))
