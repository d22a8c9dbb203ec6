"""Rewrite (tanh(x) + 1) / 2 as σ(2x): one operator for three, and the 2 folds into the convolution before it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.constants import constant, new_constant
from export.graph.editing import hand_over, insert_node, producer


def replace_tanh(model: ir.Model) -> tuple[ir.Model, str]:
    count = 0
    for halving in list(model.graph):
        factor = {"Mul": 0.5, "Div": 2.0}.get(halving.op_type)
        adding = producer(_other_than(halving, factor), "Add") if factor else None
        tanh = producer(_other_than(adding, 1.0), "Tanh") if adding else None
        if tanh is None or tanh.inputs[0] is None or (halving.op_type == "Div" and constant(halving.inputs[0]) is not None):
            continue
        two = new_constant(model.graph, np.array(2, np.float32), name="two")
        doubled = insert_node(tanh, "Mul", [tanh.inputs[0], two], like=tanh.inputs[0])
        hand_over(halving.outputs[0], insert_node(tanh, "Sigmoid", [doubled], like=tanh.outputs[0]))
        count += 1
    return model, f"{count} replaced"


def _other_than(node: ir.Node, number: float | None) -> ir.Value | None:
    """Return the input of a node that is not the constant `number`, if the other input is."""
    for value, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        found = constant(value)
        if found is not None and found.size == 1 and found.item() == number:
            return other
    return None
