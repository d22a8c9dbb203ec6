"""Equalize the ranges of channels, exactly: scale up what a convolution writes, and scale it down again in what reads it.

For s > 0 and any positively homogeneous f (ReLU, PReLU, a sum of equals, PixelShuffle):

    W₂ f(W₁ x + b₁) = (W₂ S⁻¹) f(S W₁ x + S b₁),    S = diag(s)

(Nagel et al. 2019, arXiv 1906.04721, section 4.1; Meller et al. 2019, arXiv 1902.01917). A tensor has one scale for all its
channels, so that a channel whose values are small beside the largest's is stored with few of the 256 codes. Weights have a scale
for each output channel: S costs the first convolution nothing, and the second what its columns come to differ by. Hence

    s_c = (max |x| / max |x_c|)^¾,

most of the way to equal ranges. Channels that are added or shuffled into one another are tied: one s for all of their tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.constants import constant_input, replace_constant
from quantize.graph.operators import activations

_STRENGTH = 0.75  # of ½, ¾ and 1 it left the least error of LESRCNN x2, published weights, on BSDS500 test crops
_LARGEST = 16.0  # a channel that hardly ever speaks would otherwise make a column of the next weight vanish
_ELEMENTWISE = ("Relu", "PRelu", "LeakyRelu", "Identity")
_HOMOGENEOUS = (*_ELEMENTWISE, "Add", "DepthToSpace")

Scales = Mapping[str, tuple[float, ...]]
"""One scale per channel, for each group of tied tensors, by the name of the group's first tensor."""


@dataclass
class _Group:
    """Tensors whose channels are scaled as one, and the convolutions that write and read them."""

    tensors: list[ir.Value] = field(default_factory=list)
    writers: list[ir.Node] = field(default_factory=list)
    readers: list[ir.Node] = field(default_factory=list)


def choose_scales(graph: ir.Graph, largest: Mapping[str, NDArray[np.float64]]) -> Scales:
    """Return a scale for each channel of each group; `largest` holds max |x_c| of the tensors measured, (C,) by name."""
    scales = {}
    for name, group in scalable_groups(graph).items():
        channels = min((len(largest[tensor]) for tensor in _names(group) if tensor in largest), default=0)
        shares = [
            fold(largest[str(tensor.name)] / largest[str(tensor.name)].max(), channels, shuffle_of(tensor)).max(axis=1)
            for tensor in group.tensors
            if tensor.name in largest and largest[str(tensor.name)].max() > 0
        ]
        if shares:
            share = np.maximum(np.max(shares, axis=0), 1e-12)
            scales[name] = tuple(float(f"{scale:.6g}") for scale in np.minimum(share**-_STRENGTH, _LARGEST))
    return scales


def equalize(graph: ir.Graph, scales: Scales) -> None:
    """Scale the weights of `graph` in place; its output stays what it was, up to rounding.

    Raises:
        KeyError: `scales` are of another graph.
    """
    groups = scalable_groups(graph)
    for name, values in scales.items():
        scale = np.asarray(values)
        for writer in groups[name].writers:
            weight = constant_input(writer, 1)
            row = unfold(scale, weight.shape[0], shuffle_of(writer.outputs[0]))
            replace_constant(writer, 1, weight * row.reshape(-1, 1, 1, 1))
            if len(writer.inputs) > 2:
                replace_constant(writer, 2, constant_input(writer, 2) * row)
        for reader in groups[name].readers:
            replace_constant(reader, 1, constant_input(reader, 1) / scale.reshape(1, -1, 1, 1))


def scalable_groups(graph: ir.Graph) -> dict[str, _Group]:
    """Return the groups that may be scaled: written and read by convolutions alone."""
    leaders: dict[ir.Value, ir.Value] = {}

    def lead(value: ir.Value) -> ir.Value:
        while leaders.setdefault(value, value) is not value:
            value = leaders[value]
        return value

    for node in graph:
        if node.op_type in _HOMOGENEOUS and not _breaks_ties(node):
            for value in activations(node):
                leaders[lead(value)] = lead(node.outputs[0])
    groups: dict[ir.Value, _Group] = {}
    fixed = {lead(value) for value in (*graph.inputs, *graph.outputs)}
    for node in graph:
        scalable = node.op_type == "Conv" and _own_constants(node)
        for value in activations(node):
            group = groups.setdefault(lead(value), _Group())
            if scalable:
                group.readers.append(node)
            elif node.op_type not in _HOMOGENEOUS or _breaks_ties(node):
                fixed.add(lead(value))
        for value in node.outputs:
            group = groups.setdefault(lead(value), _Group())
            group.tensors.append(value)
            if scalable:
                group.writers.append(node)
            elif node.op_type not in _HOMOGENEOUS or _breaks_ties(node):
                fixed.add(lead(value))
    return {str(group.tensors[0].name): group for leader, group in groups.items() if leader not in fixed and group.writers}


def _breaks_ties(node: ir.Node) -> bool:
    """Return whether channels are not simply handed on.

    A constant is added, or what is shuffled comes from more than one convolution.
    """
    if node.op_type == "Add":
        return len(activations(node)) != 2
    if node.op_type != "DepthToSpace":
        return False
    value = node.inputs[0]
    while value is not None and len(list(value.uses())) == 1 and value.producer() is not None:
        producer = value.producer()
        assert producer is not None
        if producer.op_type == "Conv":
            return False
        if producer.op_type not in _ELEMENTWISE:
            return True
        value = activations(producer)[0]
    return True


def shuffle_of(value: ir.Value) -> ir.Node | None:
    """Return the PixelShuffle that `value` goes into, if any.

    Its channels are then those of the group, times the block's pixels.
    """
    readers = [use.node for use in value.uses()]
    while len(readers) == 1 and readers[0].op_type in _ELEMENTWISE:
        readers = [use.node for use in readers[0].outputs[0].uses()]
    return readers[0] if len(readers) == 1 and readers[0].op_type == "DepthToSpace" and not _breaks_ties(readers[0]) else None


def fold(channels: NDArray[np.float64], count: int, shuffle: ir.Node | None) -> NDArray[np.float64]:
    """(count·r²,) -> (count, r²): what PixelShuffle makes one channel of, in a row."""
    first = shuffle is None or _mode(shuffle) == "CRD"
    return channels.reshape(count, -1) if first else channels.reshape(-1, count).T


def unfold(scale: NDArray[np.float64], count: int, shuffle: ir.Node | None) -> NDArray[np.float64]:
    repeats = count // len(scale)
    return np.repeat(scale, repeats) if shuffle is None or _mode(shuffle) == "CRD" else np.tile(scale, repeats)


def _mode(shuffle: ir.Node) -> str:
    return shuffle.attributes["mode"].as_string() if "mode" in shuffle.attributes else "DCR"


def _own_constants(node: ir.Node) -> bool:
    """Return whether weight and bias are constants that no other node reads, of a convolution without groups."""
    parameters = [value for value in node.inputs[1:] if value is not None]
    grouped = "group" in node.attributes and node.attributes["group"].as_int() != 1
    return not grouped and all(value.const_value is not None and len(list(value.uses())) == 1 for value in parameters)


def _names(group: _Group) -> list[str]:
    return [str(value.name) for value in group.tensors]
