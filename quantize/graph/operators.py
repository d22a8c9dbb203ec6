"""Tell what an operator reads, and which row of a target's table is the operator's.

An activation is a tensor of floats, or of the codes of quantized ones, that depends on what the picture holds. Shapes, indices and
masks are none, nor is what is computed from the picture's size alone: they are the same for every picture, and never quantized.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
import onnx_ir as ir

from export.graph.attributes import attribute
from runtime.targets import Target
from runtime.targets.operators import Part, Row

_OTHER_TYPES = (
    ir.DataType.BOOL,
    ir.DataType.INT32,
    ir.DataType.INT64,
    ir.DataType.UINT32,
    ir.DataType.UINT64,
    ir.DataType.STRING,
)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_OF_SIZES = ("Shape", "Size")
_OF_OTHER_TYPES = ("ArgMax", "ArgMin", "NonZero", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or")
_OPSET_OF_DEFAULTS = 26  # the defaults of attributes do not change


def activations(node: ir.Node) -> list[ir.Value]:
    """Return the activations that a node reads."""
    return [value for value in node.inputs if value is not None and is_activation(value)]


def computed_inputs(node: ir.Node) -> list[ir.Value]:
    """Return what a node reads that is no constant: activations, and what is computed from the picture's size."""
    return [value for value in node.inputs if value is not None and value.const_value is None]


def is_activation(value: ir.Value) -> bool:
    """Return whether `value` depends on what the picture holds, and is of floats or their codes."""
    return value.const_value is None and value.dtype not in _OTHER_TYPES and _depends_on_picture(value)


def _depends_on_picture(value: ir.Value) -> bool:
    """Look back as far as the next layer, or the graph's input."""
    waiting, seen = [value], {value}
    while waiting:
        producer = waiting.pop().producer()
        if producer is None or (producer.op_type in _WEIGHTED and _has_constant(producer, 1)):
            return True
        if producer.op_type in _OF_SIZES or (producer.op_type in _OF_OTHER_TYPES and value.dtype is None):
            continue
        for read in producer.inputs:
            if read is not None and read.const_value is None and read not in seen:
                seen.add(read)
                waiting.append(read)
    return False


def row_of(node: ir.Node, target: Target) -> Row | None:
    """Return the row of the target's table that fits `node`; None where there is none, or where `node` reads no activation."""
    if node.domain != "" or not node.outputs or not is_activation(node.outputs[0]):
        return None
    return next((row for row in target.operators if row.operator == node.op_type and _fits(row, node)), None)


def part_of(node: ir.Node, target: Target) -> Part | None:
    """Return what `node` does in an int8 graph for `target`; None where it is in float."""
    row = row_of(node, target)
    return None if row is None else row.part


def is_moved(value: ir.Value, target: Target) -> bool:
    """Return whether an operator made `value` that only moves data, of one tensor."""
    producer = value.producer()
    return producer is not None and part_of(producer, target) is Part.MOVE and len(set(activations(producer))) == 1


def is_weighted(node: ir.Node) -> bool:
    """Return whether `node` multiplies what it reads by a constant weight."""
    return node.op_type in _WEIGHTED and _has_constant(node, 1) and bool(activations(node))


def _fits(row: Row, node: ir.Node) -> bool:
    read, first = activations(node), node.inputs[0]
    given = [value for value in node.inputs if value is not None and value not in read]
    if any(value.const_value is None and value.dtype in _FLOATS for value in given):
        return False  # numbers that are computed from the picture's size
    if any(_attribute(node, name) not in allowed for name, allowed in row.attributes):
        return False
    if row.part is Part.INSIDE:
        return fused_branch(node) is not None
    if row.part is Part.COMPUTE:
        return first in read and (row.constants or not any(_is_float_constant(value) for value in given))
    if row.part is Part.MOVE and row.joins:
        return True
    if len(read) != 1 or (first is not read[0] and row.part is not Part.BIAS):
        return False
    if row.part is Part.BIAS:
        producer = read[0].producer()
        return producer is not None and producer.op_type == "MatMul" and is_weighted(producer)
    return row.part is not Part.LAYER or (is_weighted(node) and _dimensions(node) in row.weight_dimensions)


def fused_branch(addition: ir.Node) -> ir.Value | None:
    """Return the side of an addition of two activations that a layer writes for it alone; of two, the first."""
    read = activations(addition)
    if addition.op_type != "Add" or len(read) != 2:
        return None
    for value in read:
        producer = value.producer()
        if producer is not None and is_weighted(producer) and len(list(value.uses())) == 1 and not value.is_graph_output():
            return value
    return None


def _dimensions(layer: ir.Node) -> int:
    weight = layer.inputs[1]
    return 0 if weight is None or weight.const_value is None else len(weight.const_value.shape)


def _is_float_constant(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.dtype in _FLOATS


def _has_constant(node: ir.Node, index: int) -> bool:
    value = node.inputs[index] if len(node.inputs) > index else None
    return value is not None and value.const_value is not None


def _attribute(node: ir.Node, name: str) -> Any:  # noqa: ANN401 # of whatever type ONNX gives it
    return attribute(node, name, _default(node.op_type, name))


@cache
def _default(operator: str, name: str) -> Any:  # noqa: ANN401 # of whatever type ONNX gives it
    schema = onnx.defs.get_schema(operator, _OPSET_OF_DEFAULTS)
    found = schema.attributes[name].default_value
    value = onnx.helper.get_attribute_value(found)
    return value.decode() if isinstance(value, bytes) else value
