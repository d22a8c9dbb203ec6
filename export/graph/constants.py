"""Read, add and replace the constants of an ONNX graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return the array that `value` always holds; None unless `value` is an initializer and no input of the graph."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def constant_input(node: ir.Node, index: int) -> NDArray[np.float32]:
    """Return the values of a node's input, which must be constant, as float32."""
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float32)


def new_constant(graph: ir.Graph, array: NDArray[np.generic], *, name: str) -> ir.Value:
    """Register an initializer under `name`, or `name` and a number where the graph has that name already."""
    unique, count = name, 1
    while unique in graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    tensor = ir.tensor(array, name=unique)
    value = ir.Value(name=unique, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def replace_constant(node: ir.Node, index: int, array: NDArray[np.floating]) -> None:
    """Give a node's constant input, which no other node may read, other values under the same name."""
    before = node.inputs[index]
    assert before is not None
    assert before.const_value is not None
    before.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=before.name)
    before.shape = ir.Shape(array.shape)
