"""Tell which int8 layers can read their input's rounding error, which of a graph do, and what that costs in MACs."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from export.graph.constants import constant_input
from quantize.graph.operators import activations
from quantize.graph.placement import moved_chain
from quantize.graph.walk import Array
from runtime.bundle import AddedMacs, Manifest
from runtime.targets import Target

RANK = 4  # R; with eight, LESRCNN x2 gains a seventh more for twice the arithmetic


def is_correctable(layer: ir.Node, target: Target) -> bool:
    """Return whether `layer`, a convolution of an fp32 graph that is to be in int8, can read its input's rounding error."""
    groups = layer.attributes["group"].as_int() if "group" in layer.attributes else 1
    if not target.writes_floats or groups != 1 or constant_input(layer, 1).shape[1] <= extra_channels(target):
        return False
    source, *moved = (reading.tensor for reading in readings_of_input(layer, target))
    return not source.is_graph_input() and all(len(list(value.uses())) == 1 and not value.is_graph_output() for value in moved)


def extra_channels(target: Target) -> int:
    """R; twice that where integers may stand for nothing below zero: then there is one for what lies to either side of it."""
    return RANK if target.activation_symmetric else 2 * RANK


def added_macs(graph: ir.Graph, layers: Collection[str], manifest: Manifest, target: Target) -> AddedMacs:
    """Return what `layers` of the fp32 `graph` then have beside their own."""
    more, int8, in_float = extra_channels(target), 0, 0
    macs = {layer.name: layer.macs for layer in manifest.layers}
    for node in [node for node in graph if node.name in layers]:
        outputs, channels, *kernel = constant_input(node, 1).shape
        int8 += macs[str(node.name)] * more // channels
        in_float += macs[str(node.name)] * more // (outputs * math.prod(kernel))
    return AddedMacs(int8=int8, in_float=in_float)


@dataclass(frozen=True)
class Reading:
    """A tensor, and who reads it."""

    tensor: ir.Value
    reader: ir.Node


def readings_of_input(layer: ir.Node, target: Target) -> list[Reading]:
    """Return the tensors from the one that `layer` of an fp32 graph is given, through operators that move it, to what `layer`
    reads.
    """
    source, *moved = reversed(moved_chain(activations(layer)[0], target))
    return [Reading(*both) for both in zip((source, *moved), (*map(producer_of, moved), layer), strict=True)]


def corrected_layers(graph: ir.Graph) -> frozenset[str]:
    """Return those of an int8 graph."""
    names = [str(node.name) for node in graph]
    return frozenset(name for name in names if directions_name(name) in graph.initializers)


def own_weight(graph: ir.Graph, layer: str, weight: Array) -> Array:
    """Return the weight that `layer` of an int8 graph had before it was widened."""
    directions = graph.initializers.get(directions_name(layer))
    if directions is None or directions.const_value is None:
        return weight
    return weight[:, : directions.const_value.shape[1]]


def directions_name(layer: str) -> str:
    return f"{layer}.input.directions"


def producer_of(value: ir.Value | None) -> ir.Node:
    node = None if value is None else value.producer()
    assert node is not None
    return node
