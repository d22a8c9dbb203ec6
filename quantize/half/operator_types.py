"""Tell which tensors an operator takes and gives in half precision, from ONNX's own schemas: there is no list to maintain.

A schema names each input's and output's type by a variable (T, T1) with the types that it allows, or by one fixed type. Where an
operator runs in half precision, every variable that stands for float32 stands for the half type instead, constants included; an
input of fixed type stays what it is (the scales of Resize). An operator is left in float32 where a variable does not allow the
half type at this opset, where its output's type is set by an attribute (Cast, EyeLike) and where it has subgraphs or no schema.
https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx.defs import OpSchema

_FLOAT = ir.DataType.FLOAT
_ONNX_NAMES = {ir.DataType.FLOAT16: "tensor(float16)", ir.DataType.BFLOAT16: "tensor(bfloat16)"}


@dataclass(frozen=True)
class HalfPositions:
    """The inputs and outputs of one operator that are in half precision where the operator is, by index."""

    inputs: frozenset[int]
    outputs: frozenset[int]


def half_positions(node: ir.Node, *, opset: int, to: ir.DataType) -> HalfPositions | None:
    """Return what `node` reads and writes as `to`; None where it stays as it is: it touches no floats, or cannot run so.

    The types of what it reads and writes are known, as shape inference finds them.
    """
    schema = _schema(node, opset)
    if schema is None or any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
        return None
    reads = {index: _variable(schema.inputs, index) for index, value in enumerate(node.inputs) if _is_float(value)}
    writes = {index: _variable(schema.outputs, index) for index, value in enumerate(node.outputs) if _is_float(value)}
    if node.op_type == "DequantizeLinear" and "output_dtype" not in node.attributes:
        writes = dict.fromkeys(writes, _variable(schema.inputs, 1))  # "the output has the type of x_scale", says its text
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    bound = {name for name in reads.values() if name in allowed}
    if not bound or not set(writes.values()) <= bound or not all(_ONNX_NAMES[to] in allowed[name] for name in bound):
        return None
    return HalfPositions(
        frozenset(index for index, name in reads.items() if name in bound),
        frozenset(index for index, name in writes.items() if name in bound),
    )


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _schema(node: ir.Node, opset: int) -> OpSchema | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _variable(formal: Sequence[OpSchema.FormalParameter], index: int) -> str:
    """Return the type variable of a parameter; the last formal one stands for all that follow it."""
    return str(formal[min(index, len(formal) - 1)].type_str)


def _is_float(value: ir.Value | None) -> bool:
    if value is None:
        return False
    return (value.dtype if value.const_value is None else value.const_value.dtype) == _FLOAT
