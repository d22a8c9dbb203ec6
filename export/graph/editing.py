"""Edit an ONNX graph: read and set a convolution's weights, insert a node, hand a value's readers to another value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.constants import constant, new_constant

Array = NDArray[np.float32]


def weights(node: ir.Node) -> tuple[Array, Array] | None:
    """(weight, bias) of a Conv whose parameters are constant, zeros for a bias that is not there; else None."""
    if node.op_type != "Conv":
        return None
    weight = constant(node.inputs[1])
    if weight is None:
        return None
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = np.zeros(weight.shape[0], np.float32) if given is None else constant(given)
    return None if bias is None else (weight.astype(np.float32, copy=False), bias.astype(np.float32, copy=False))


def set_weights(node: ir.Node, weight: NDArray[np.floating], bias: NDArray[np.floating]) -> None:
    """Give a Conv these parameters in place, under the names they had; no bias where it is all zero and there was none."""
    weight_name = str(node.inputs[1].name) if node.inputs[1] is not None else "weight"
    _set_constant(node, 1, weight, name=weight_name)
    if bias.any() or len(node.inputs) > 2:
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        _set_constant(node, 2, bias, name=weight_name.removesuffix("weight") + "bias")


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads `value`, if it is one, reads it once, and the value is no output of the graph."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """Return the node that makes `value`, if it is of one of these operators and nothing else reads what it makes."""
    node = None if value is None else value.producer()
    if node is None or node.op_type not in operators or only_reader(node.outputs[0]) is None:
        return None
    return node


def hand_over(old: ir.Value, new: ir.Value) -> None:
    """Whatever read `old` reads `new`; as an output of the graph, `new` takes its place and its name."""
    was_output, name = old.is_graph_output(), old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if was_output:
        old.name = None
        new.name = name
    new.shape, new.type = old.shape, old.type


def discard(node: ir.Node) -> None:
    """Take out a node whose output nothing reads any more; what it read has one reader less."""
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def insert_node(
    before: ir.Node, operator: str, inputs: Sequence[ir.Value | None], attributes: Sequence[ir.Attr] = (), *, like: ir.Value
) -> ir.Value:
    """Return a new node ahead of `before`; its output, with the type and shape of `like`."""
    made = ir.Node("", operator, inputs, attributes)
    made.outputs[0].shape, made.outputs[0].type = like.shape, like.type
    made.outputs[0].meta.update(like.meta)
    assert before.graph is not None
    before.graph.insert_before(before, made)
    return made.outputs[0]


def _set_constant(node: ir.Node, index: int, array: NDArray[np.floating], *, name: str) -> None:
    before = node.inputs[index]
    assert node.graph is not None
    if before is not None and len(list(before.uses())) == 1:
        name = str(before.name)
        del node.graph.initializers[name]
    value = new_constant(node.graph, array.astype(np.float32), name=name)
    node.replace_input_with(index, value)
