"""Write a ConvTranspose as Conv and DepthToSpace, the same function: every backend has int8 kernels for these two.

ONNX Runtime 1.x has no ConvTranspose in int8, and openvino 2026.4 none whose input has a zero point. A transposed convolution of
stride s adds w[k] x[i] to output y = s·i + k - p. With y + c = s·m + r, 0 ≤ r < s, and j = m - i,

    out[s·m + r - c] = Σ_j w[s·j + r + p - c] x[m - j]

which is a convolution of stride 1 for each r (phase), and the phases side by side are DepthToSpace (Shi et al. 2016, arXiv
1609.07009), behind the activation, which backends compute inside the convolution. The crop c, 0 ≤ c < s, is the one that leaves the
fewest taps j; what is made outside the output is sliced off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.attributes import attribute
from export.graph.constants import constant_input, new_constant

SHUFFLED = ".shuffled"
"""Ends the name of what such a pair makes; the convolution writes the tensor of the ConvTranspose's name, in another order."""
_ACTIVATIONS = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu")  # of no parameter a channel
_TO_THE_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Axis:
    """One axis of a transposed convolution: phases of taps `first` to `last`, and what is cropped in front and behind."""

    stride: int
    offset: int
    first: int
    last: int
    crop: int
    surplus: int
    pads: tuple[int, int]

    @property
    def taps(self) -> int:
        return self.last - self.first + 1

    def indices(self, phase: int) -> NDArray[np.int64]:
        """(taps,): which element of the kernel each tap of `phase` is, in the order of a Conv's kernel; some lie outside it."""
        return self.stride * np.arange(self.last, self.first - 1, -1) + phase + self.offset


def write_subpixel(graph: ir.Graph) -> None:
    """Rewrite each ConvTranspose in place whose kernel is constant and undilated and whose strides are alike.

    Nodes keep their names. The convolution writes the tensor of the old name, so that ranges which were measured hold for it; the
    graph's output keeps its name too.
    """
    found = [node for node in graph if node.op_type == "ConvTranspose" and _is_plain(node)]
    for node in found:
        shape = constant_input(node, 1).shape[2:]
        strides, pads = attribute(node, "strides", (1, 1)), attribute(node, "pads", (0, 0, 0, 0))
        more = attribute(node, "output_padding", (0, 0))
        axes = [_axis(shape[a], strides[a], begin=pads[a], end=pads[a + 2], more=more[a]) for a in (0, 1)]
        _rewrite(graph, node, axes)
    if found:
        graph.sort()


def _is_plain(node: ir.Node) -> bool:
    parameters = list(node.inputs[1:])
    if not parameters or parameters[0] is None or any(value is not None and value.const_value is None for value in parameters):
        return False
    return (
        constant_input(node, 1).ndim == 4
        and len(set(attribute(node, "strides", (1, 1)))) == 1
        and set(attribute(node, "dilations", (1, 1))) == {1}
        and attribute(node, "auto_pad", "NOTSET") == "NOTSET"
        and "output_shape" not in node.attributes
    )


def _axis(kernel: int, stride: int, *, begin: int, end: int, more: int) -> _Axis:
    """Return the crop with the fewest taps; of several the one with the least to slice off."""
    found = []
    for crop in range(stride):
        offset = begin - crop
        made = -(-(crop + kernel - begin - end + more - stride) // stride)  # rows of phases more than the input has rows
        surplus = stride * made - (crop + kernel - begin - end + more - stride)
        first, last = min(-((offset + stride - 1) // stride), made), max((kernel - 1 - offset) // stride, 0)
        found.append(_Axis(stride, offset, first, last, crop, surplus, (last, made - first)))
    return min(found, key=lambda axis: (axis.taps, axis.crop + axis.surplus))


def _rewrite(graph: ir.Graph, node: ir.Node, axes: list[_Axis]) -> None:
    groups, stride = attribute(node, "group", 1), axes[0].stride
    kernel = _phases(constant_input(node, 1), axes, groups)
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    node.op_type = "Conv"
    bias = np.repeat(constant_input(node, 2), stride**2) if has_bias else None
    node.replace_input_with(1, new_constant(graph, kernel, name=f"{node.name}.weight.phases"))
    if bias is not None:
        node.replace_input_with(2, new_constant(graph, bias, name=f"{node.name}.bias.phases"))
    (top, bottom), (left, right) = (axis.pads for axis in axes)
    node.attributes.clear()
    node.attributes["pads"] = ir.AttrInt64s("pads", [top, left, bottom, right])
    node.attributes["group"] = ir.AttrInt64("group", groups)
    written = _through_activations(node.outputs[0])
    made, moves = written[-1], []
    if stride > 1:
        moves.append(ir.node("DepthToSpace", [made], {"blocksize": stride, "mode": "CRD"}, name=f"{node.name}.shuffle"))
    if any(axis.crop or axis.surplus for axis in axes):
        ends = [-axis.surplus if axis.surplus else _TO_THE_END for axis in axes]
        bounds = {"starts": [axis.crop for axis in axes], "ends": ends, "axes": [2, 3]}
        given = [new_constant(graph, np.array(of, np.int64), name=f"{node.name}.crop.{name}") for name, of in bounds.items()]
        moves.append(ir.node("Slice", [moves[-1].outputs[0] if moves else made, *given], name=f"{node.name}.crop"))
    if moves:
        _put_behind(graph, made, moves)
        for value in written:
            value.shape = None  # in phases it has another


def _through_activations(value: ir.Value) -> list[ir.Value]:
    """Return `value`, and what activations make of it that alone read it.

    They change each number by itself, in whatever order it lies.
    """
    readers = [use.node for use in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or readers[0].op_type not in _ACTIVATIONS:
        return [value]
    return [value, *_through_activations(readers[0].outputs[0])]


def _put_behind(graph: ir.Graph, made: ir.Value, moves: list[ir.Node]) -> None:
    """Let all that reads `made` read what the last of `moves` makes of it."""
    name, end = str(made.name), moves[-1].outputs[0]
    end.type, end.shape, end.name = made.type, made.shape, f"{name}{SHUFFLED}"
    for move in moves[:-1]:
        move.outputs[0].name, move.outputs[0].type = f"{name}.uncropped", made.type
    for use in [use for use in made.uses() if use.node is not moves[0]]:
        use.node.replace_input_with(use.idx, end)
    graph.extend(moves)
    if made.is_graph_output():
        made.name, end.name = f"{name}.phases", name
        graph.outputs[graph.outputs.index(made)] = end


def _phases(weight: NDArray[np.float32], axes: list[_Axis], groups: int) -> NDArray[np.float32]:
    """(I, O/g, kH, kW) of a ConvTranspose -> (O·s², I/g, taps, taps) of a Conv, phases innermost as DepthToSpace's CRD has them."""
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    stride = axes[0].stride
    kernel = np.zeros((groups, outputs, stride, stride, inputs, axes[0].taps, axes[1].taps), np.float32)
    grouped = weight.reshape(groups, inputs, outputs, *weight.shape[2:]).swapaxes(1, 2)
    for row in range(stride):
        for column in range(stride):
            rows, columns = axes[0].indices(row), axes[1].indices(column)
            in_rows, in_columns = ((at >= 0) & (at < size) for at, size in zip((rows, columns), weight.shape[2:], strict=True))
            taken = grouped[..., rows[in_rows], :][..., columns[in_columns]]
            kernel[:, :, row, column][..., np.flatnonzero(in_rows)[:, np.newaxis], np.flatnonzero(in_columns)] = taken
    return kernel.reshape(-1, inputs, axes[0].taps, axes[1].taps)
