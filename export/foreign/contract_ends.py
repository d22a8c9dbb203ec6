"""Add operators at a network's ends that bring its values to [0, 1] and its channels to RGB.

Its own range and channel order become x (high - low) + low on the way in and the inverse on the way out, and a 1×1 convolution that
turns BGR round; the passes then fold them into the network as far as that is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from export.foreign.original import Array
from export.graph.constants import new_constant
from export.onnx_export import INPUT, OUTPUT

Order = Literal["RGB", "BGR", "Y"]
ORDERS: tuple[Order, ...] = ("RGB", "BGR", "Y")
CHANNELS: dict[int, tuple[Order, ...]] = {1: ("Y",), 3: ("RGB", "BGR")}


def convert_ends(model: ir.Model, order: Order, low: float, high: float) -> None:
    """Name both ends as this project does, and put operators there for a range other than [0, 1] and for BGR."""
    graph = model.graph
    _name_end(graph, graph.inputs[0], INPUT)
    _name_end(graph, graph.outputs[0], OUTPUT)
    picture, result = graph.inputs[0], graph.outputs[0]
    turn = [("Conv", np.eye(3, dtype=np.float32)[::-1].reshape(3, 3, 1, 1).copy())] if order == "BGR" else []
    span = high - low
    steps: list[tuple[str, Array]] = [("Mul", _number(span))] * (span != 1) + [("Add", _number(low))] * (low != 0)
    back: list[tuple[str, Array]] = [("Sub", _number(low))] * (low != 0) + [("Div", _number(span))] * (span != 1)
    readers = list(picture.uses())
    if before := _chain(graph, picture, [*turn, *steps]):
        graph.insert_before(graph[0], before)
        for use in readers:
            use.node.replace_input_with(use.idx, before[-1].outputs[0])
    if after := _chain(graph, result, [*back, *turn]):
        graph.extend(after)
        result.name = "network_output"
        graph.outputs[0] = after[-1].outputs[0]
        graph.outputs[0].name = OUTPUT


def _name_end(graph: ir.Graph, end: ir.Value, name: str) -> None:
    """Give an end its name; whatever else has it already is called otherwise."""
    for value in (*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)):
        if value.name == name and value is not end:
            value.name = f"{name}_inside"
    end.name = name


def _chain(graph: ir.Graph, value: ir.Value, steps: Sequence[tuple[str, Array]]) -> list[ir.Node]:
    """Nodes that apply `steps`, operators with a constant, to `value` one after the other; not yet in the graph."""
    nodes: list[ir.Node] = []
    for operator, number in steps:
        last = nodes[-1].outputs[0] if nodes else value
        node = ir.node(operator, [last, new_constant(graph, number, name="contract")])
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        nodes.append(node)
    return nodes


def _number(value: float) -> Array:
    return np.array(value, np.float32)
