"""A transposed convolution as a convolution and a shuffle, for targets that have the one in int8 and not the other.

ConvTranspose with stride s, kernel k, padding p that makes s·H of H rows: its row q·s + r, 0 <= r < s, is

    y[q s + r] = Σ_t w[t s + r + p] x[q - t],    0 <= t s + r + p < k

so that y of each r is a convolution of x, s² of them in two directions, and DepthToSpace puts them where they belong. Kernels have
ceil-many taps, zero where t s + r + p lies outside k: up to 2.25 times the multiply-accumulates of a 4×4 kernel of stride 2, in int8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quantize.layers import attribute
from quantize.operators import is_weighted
from quantize.qdq import constant, new_constant

_PHASES = ".phases"


@dataclass(frozen=True)
class _Axis:
    """One direction: taps t from -`after` to `before`."""

    kernel: int
    pad: int
    before: int
    after: int

    @property
    def taps(self) -> int:
        return self.before + self.after + 1


def shuffle_convolutions(graph: ir.Graph) -> None:
    """Rewrites in place each ConvTranspose of constant weights that makes a tensor a whole number of times larger."""
    for node in [node for node in graph if node.op_type == "ConvTranspose" and is_weighted(node)]:
        stride = _stride(node)
        axes = None if stride is None else _axes(node, stride)
        if stride is not None and axes is not None:
            _rewrite(graph, node, stride, axes)


def _stride(node: ir.Node) -> int | None:
    """That of both directions, where there is one and nothing else is unusual."""
    strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    plain = attribute(node, "auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in node.attributes and not any(
        value is not None and value.const_value is None for value in node.inputs[1:]
    )
    same = len(strides) == 2 and strides[0] == strides[1] > 1 and set(dilations) == {1}
    return int(strides[0]) if plain and same else None


def _axes(node: ir.Node, stride: int) -> list[_Axis] | None:
    kernels = constant(node, 1).shape[2:]
    pads, extra = attribute(node, "pads", [0] * 4), attribute(node, "output_padding", [0, 0])
    axes = []
    for axis, kernel in enumerate(kernels):
        pad = pads[axis]
        if kernel + extra[axis] - pad - pads[axis + 2] != stride:
            return None
        before, after = (kernel - 1 - pad) // stride, (stride - 1 + pad) // stride
        if before < 0:
            return None
        axes.append(_Axis(kernel, pad, before, after))
    return axes


def _rewrite(graph: ir.Graph, node: ir.Node, stride: int, axes: list[_Axis]) -> None:
    groups = attribute(node, "group", 1)
    weight = new_constant(graph, f"{node.name}.weight{_PHASES}", _phases(constant(node, 1), groups, stride, axes))
    inputs = [node.inputs[0], weight]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        inputs.append(new_constant(graph, f"{node.name}.bias{_PHASES}", np.repeat(constant(node, 2), stride**2)))
    pads = [*(axis.before for axis in axes), *(axis.after for axis in axes)]
    attributes = {"pads": pads, "group": groups, "kernel_shape": [axis.taps for axis in axes]}
    convolution = ir.node("Conv", inputs, attributes, name=node.name)
    shuffle = ir.node(
        "DepthToSpace", convolution.outputs, {"blocksize": stride, "mode": "CRD"}, name=f"{node.name}.shuffle"
    )
    made, phases, result = node.outputs[0], convolution.outputs[0], shuffle.outputs[0]
    result.type, result.shape, phases.type = made.type, made.shape, made.type
    graph.insert_before(node, [convolution, shuffle])
    for use in list(made.uses()):
        use.node.replace_input_with(use.idx, result)
    name, is_output = str(made.name), made.is_graph_output()
    if is_output:
        graph.outputs[graph.outputs.index(made)] = result
    graph.remove(node, safe=True)
    # Calibration measured what is now shuffled: the same values in other places, and the same range.
    phases.name, result.name = (f"{name}{_PHASES}", name) if is_output else (name, f"{name}.shuffled")


def _phases(weight: NDArray[np.float32], groups: int, stride: int, axes: list[_Axis]) -> NDArray[np.float32]:
    """(I, O/g, kH, kW) -> (O·s², I/g, tH, tW)."""
    inputs, outputs = weight.shape[:2]
    grouped = weight.reshape(groups, inputs // groups, outputs, *weight.shape[2:]).swapaxes(1, 2)
    grouped = grouped.reshape(groups * outputs, inputs // groups, *weight.shape[2:])
    phases = np.zeros((groups * outputs, stride, stride, inputs // groups, axes[0].taps, axes[1].taps), np.float32)
    rows, columns = (_taps(axis, stride) for axis in axes)
    for row_phase, row, source_row in rows:
        for column_phase, column, source_column in columns:
            phases[:, row_phase, column_phase, :, row, column] = grouped[:, :, source_row, source_column]
    return phases.reshape(-1, inputs // groups, axes[0].taps, axes[1].taps)


def _taps(axis: _Axis, stride: int) -> list[tuple[int, int, int]]:
    """Which phase, at which tap of its kernel, has which of the transposed kernel's."""
    found = []
    for phase in range(stride):
        for tap in range(axis.taps):
            source = (axis.before - tap) * stride + phase + axis.pad  # x[q + tap - before]: t = before - tap
            if 0 <= source < axis.kernel:
                found.append((phase, tap, source))
    return found
