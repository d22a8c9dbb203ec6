"""Mix the channels of tensors that nothing nonlinear touches, exactly, so that storing them in 8 bits costs the picture less.

For an invertible A and convolutions, sums and moves alone between the writers W₁ and the readers W₂ of a tensor:

    W₂ (x + y) = (W₂ A⁻¹)(A x + A y),    x = W₁ u + b₁,    A x = (A W₁) u + A b₁

The residual stream of an EDSR or an RRDBNet is such a tensor: all of its blocks add to it, none has an activation on it. (Language
models' streams are rotated so: Ashkboos et al. 2024, arXiv 2404.00456; Liu et al. 2024, arXiv 2405.16406.)
`quantize/exact/choose_mixing.py` chooses A. Equalizing (`quantize/exact/equalize.py`) is the case of a diagonal A, which may also
pass a ReLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.constants import constant_input, replace_constant
from quantize.graph.operators import activations

Numbers = NDArray[np.float64]
Matrices = Mapping[str, tuple[tuple[float, ...], ...]]
"""A of each group of tied tensors, (C, C), by the name of the group's first tensor."""


@dataclass(frozen=True)
class Shuffle:
    """The DepthToSpace between a writer and the tensor: each of the writer's channels is one of the tensor's, at one pixel."""

    pixels: int = 1
    mode: str = "CRD"

    def expand(self, matrix: Numbers) -> Numbers:
        """Return `matrix` over the tensor's channels as one over the writer's."""
        same = np.eye(self.pixels)
        return np.asarray(np.kron(matrix, same) if self.mode == "CRD" else np.kron(same, matrix), np.float64)


@dataclass
class MixableGroup:
    """Tensors (N, C, H, W) whose channels are mixed by one matrix.

    Attributes:
        channels: C.
        tensors: those of the group.
        writers: convolutions that write one of them, and what lies between.
        readers: convolutions that read one of them, and its first channel among those that the convolution reads.
    """

    channels: int = 0
    tensors: list[ir.Value] = field(default_factory=list)
    writers: list[tuple[ir.Node, Shuffle]] = field(default_factory=list)
    readers: list[tuple[ir.Node, int]] = field(default_factory=list)


def mixable_groups(graph: ir.Graph) -> dict[str, MixableGroup]:
    """Return the groups of `graph` that can be mixed, by the name of their first tensor, in the order they run."""
    leaders: dict[ir.Value, ir.Value] = {}

    def lead(value: ir.Value) -> ir.Value:
        while leaders.setdefault(value, value) is not value:
            value = leaders[value]
        return value

    for node in graph:
        if _hands_on(node):
            for value in activations(node):
                leaders[lead(value)] = lead(node.outputs[0])
    groups: dict[ir.Value, MixableGroup] = {}
    fixed = {lead(value) for value in (*graph.inputs, *graph.outputs)}
    for node in graph:
        for value in node.outputs:
            group = groups.setdefault(lead(value), MixableGroup())
            group.tensors.append(value)
            writer = _writer(value)
            if writer is not None:
                group.writers.append(writer)
            elif not _hands_on(node):
                fixed.add(lead(value))
        for value in dict.fromkeys(activations(node)):
            if _hands_on(node):
                continue
            reading = _readings(node, value)
            if reading is None:
                fixed.add(lead(value))
            else:
                groups.setdefault(lead(value), MixableGroup()).readers += reading
    found = {}
    for leader, group in groups.items():
        counts = {constant_input(node, 1).shape[0] // shuffle.pixels for node, shuffle in group.writers}
        if leader not in fixed and group.readers and len(counts) == 1:
            group.channels = counts.pop()
            found[str(group.tensors[0].name)] = group
    return found


def mix_channels(graph: ir.Graph, matrices: Matrices) -> None:
    """Mix the weights of `graph` in place; its output stays what it was, up to rounding.

    Raises:
        KeyError: `matrices` are of another graph.
    """
    groups = mixable_groups(graph)
    for name, rows in matrices.items():
        matrix = np.asarray(rows, np.float64)
        inverse = np.linalg.inv(matrix)
        for writer, shuffle in groups[name].writers:
            expanded = shuffle.expand(matrix)
            replace_constant(writer, 1, np.einsum("po,oihw->pihw", expanded, constant_input(writer, 1)))
            if len(writer.inputs) > 2 and writer.inputs[2] is not None:
                replace_constant(writer, 2, expanded @ constant_input(writer, 2))
        for reader, first in groups[name].readers:
            weight = constant_input(reader, 1).astype(np.float64)
            own = slice(first, first + len(matrix))
            weight[:, own] = np.einsum("oihw,ij->ojhw", weight[:, own], inverse)
            replace_constant(reader, 1, weight)


def _hands_on(node: ir.Node) -> bool:
    """Return whether what `node` makes is linear in what it reads, each channel in the same one, and nothing is added to it."""
    read = activations(node)
    if node.op_type in ("Add", "Sub"):
        return len(read) == 2 and len(node.inputs) == 2
    if node.op_type in ("Mul", "Div"):  # a residual scaled by a number
        by = node.inputs[1] if read == [node.inputs[0]] else None
        return by is not None and by.const_value is not None and by.const_value.size == 1
    mode = node.attributes.get("coordinate_transformation_mode")
    fills = mode is not None and mode.as_string() == "tf_crop_and_resize"  # what lies outside, with a number
    return node.op_type in ("Identity", "AveragePool", "GlobalAveragePool", "Resize") and len(read) == 1 and not fills


def _writer(value: ir.Value) -> tuple[ir.Node, Shuffle] | None:
    """Return the convolution that writes `value`, directly or for a DepthToSpace alone."""
    node, shuffle = value.producer(), Shuffle()
    if node is not None and node.op_type == "DepthToSpace":
        between = node.inputs[0]
        if between is None or between.is_graph_output() or len(list(between.uses())) != 1:
            return None
        mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "DCR"
        shuffle = Shuffle(node.attributes["blocksize"].as_int() ** 2, mode)
        node = between.producer()
    return (node, shuffle) if node is not None and _is_own(node) else None


def _readings(node: ir.Node, value: ir.Value) -> list[tuple[ir.Node, int]] | None:
    """Return the convolutions by which `node` reads `value`, itself or those behind a Concat; None where others read it too."""
    if node.op_type == "DepthToSpace" and _writer(node.outputs[0]) is not None:
        return []  # what it reads is no tensor of a group, but inside a writer
    if node.inputs[0] is value and _is_own(node):
        return [(node, 0)]
    if node.op_type != "Concat" or node.attributes["axis"].as_int() != 1 or node.outputs[0].is_graph_output():
        return None
    readers = [use.node for use in node.outputs[0].uses()]
    widths = [_channels(read) for read in node.inputs]
    if None in widths or not all(_is_own(reader) and reader.inputs[0] is node.outputs[0] for reader in readers):
        return None
    firsts = np.cumsum([0, *(width or 0 for width in widths)])
    return [(reader, int(firsts[index])) for reader in readers for index, read in enumerate(node.inputs) if read is value]


def _channels(value: ir.Value | None) -> int | None:
    """C of a tensor (N, C, H, W), where its shape says so."""
    shape = None if value is None else value.shape
    return shape[1] if shape is not None and len(shape) == 4 and isinstance(shape[1], int) else None


def _is_own(node: ir.Node) -> bool:
    """Return whether `node` is a convolution of pictures without groups, with weights that no other node reads."""
    parameters = [value for value in node.inputs[1:] if value is not None]
    grouped = "group" in node.attributes and node.attributes["group"].as_int() != 1
    return (
        node.op_type == "Conv"
        and not grouped
        and all(value.const_value is not None and len(list(value.uses())) == 1 for value in parameters)
        and len(parameters[0].const_value.shape if parameters and parameters[0].const_value is not None else ()) == 4
    )
