"""Cancel pairs of Transposes that turn a picture and turn it back, as files from TensorFlow have them.

A function of each element alone commutes with a permutation P of the axes: f(P x) = P f(x), and f(P x, P y) = P f(x, y). So a
Transpose moves behind such operators; where the next one is its inverse, both go.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.constants import constant, new_constant
from export.graph.editing import discard, hand_over, insert_node, only_reader

_ALONE = (
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Softplus", "Erf", "Abs", "Neg", "Exp"),
    *("Sqrt", "Cast", "Round", "Floor", "Ceil", "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "PRelu"),
)


def join_transposes(model: ir.Model) -> ir.Model:
    """Return `model`, in place.

    Every Transpose of a picture as far behind as it goes, and none that turns back what one before turned.
    """
    moved = True
    while moved:
        moved = False
        for node in list(model.graph):
            if node.graph is not None and node.op_type == "Transpose" and (_cancel(node) or _move(node)):
                moved = True
    return model


def _permutation(node: ir.Node) -> tuple[int, ...] | None:
    return tuple(node.attributes["perm"].as_ints()) if "perm" in node.attributes else None


def _cancel(node: ir.Node) -> bool:
    """Take out a Transpose that does nothing, or undoes the one before it."""
    permutation, source = _permutation(node), node.inputs[0]
    if permutation is None or source is None:
        return False
    before, origin = source.producer(), source if permutation == tuple(range(len(permutation))) else None
    if origin is None and before is not None and before.op_type == "Transpose":
        first = _permutation(before)
        if first is not None and [first[axis] for axis in permutation] == list(range(len(first))):
            origin = before.inputs[0]
    if origin is None or (origin.is_graph_input() and node.outputs[0].is_graph_output()):
        return False
    hand_over(node.outputs[0], origin)
    discard(node)
    if (
        before is not None
        and before.op_type == "Transpose"
        and not before.outputs[0].uses()
        and not before.outputs[0].is_graph_output()
    ):
        discard(before)
    return True


def _move(node: ir.Node) -> bool:
    """Move a Transpose behind the one operator that reads it, where that treats each element alone."""
    permutation, reader = _permutation(node), only_reader(node.outputs[0])
    if permutation is None or reader is None or reader.op_type not in _ALONE or len(reader.outputs) != 1:
        return False
    inputs: list[ir.Value | None] = []
    for value in reader.inputs:
        turned = _turn_back(value, permutation, reader)
        if value is not None and turned is None:
            return False
        inputs.append(turned)
    old = reader.outputs[0]
    alone = insert_node(reader, reader.op_type, inputs, tuple(reader.attributes.values()), like=old)
    alone.shape = None
    if reader.name:
        maker = alone.producer()
        assert maker is not None
        maker.name = reader.name
    back = insert_node(reader, "Transpose", [alone], (ir.AttrInt64s("perm", permutation),), like=old)
    hand_over(old, back)
    sources = [value.producer() for value in reader.inputs if value is not None]
    discard(reader)
    for source in {id(one): one for one in sources if one is not None and one.op_type == "Transpose"}.values():
        if not source.outputs[0].uses() and not source.outputs[0].is_graph_output():
            discard(source)
    return True


def _turn_back(value: ir.Value | None, permutation: tuple[int, ...], reader: ir.Node) -> ir.Value | None:
    """Return what `value` is before the Transpose.

    Its source where it is such a Transpose's own, the constant turned; else None.
    """
    if value is None:
        return None
    maker = value.producer()
    if maker is not None and maker.op_type == "Transpose" and _permutation(maker) == permutation:
        return maker.inputs[0]
    array = constant(value)
    if array is None:
        return None
    if array.size == 1 and array.ndim <= 1:
        return value
    if array.ndim > len(permutation):
        return None
    whole = array.reshape((1,) * (len(permutation) - array.ndim) + array.shape)
    inverse = np.argsort(permutation)
    assert reader.graph is not None
    assert isinstance(reader.graph, ir.Graph)
    return new_constant(reader.graph, np.ascontiguousarray(whole.transpose(inverse)), name=value.name or "constant")
