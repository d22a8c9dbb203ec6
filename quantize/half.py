"""fp32 graph -> fp16 or bf16 graph: weights and arithmetic in half precision, float32 at the graph's input and output."""

from __future__ import annotations

from typing import Literal

import onnx
import onnx_ir as ir

from quantize.opset import raise_opset
from quantize.validity import check_graph

Half = Literal["fp16", "bf16"]
_TYPES: dict[Half, ir.DataType] = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_BFLOAT16_OPSET = 22  # the first at which Conv takes bfloat16
_KEPT = {"Resize": (1, 2)}  # inputs that stay float32 whatever the others are


def convert_to_half(model: onnx.ModelProto, precision: Half) -> onnx.ModelProto:
    """A half-precision copy of `model`; its contract (float32 in, float32 out) stays. A bf16 graph has opset 22 or more.

    Raises:
        PipelineError: the result is not a valid graph.
    """
    half = ir.from_proto(raise_opset(model, _BFLOAT16_OPSET) if precision == "bf16" else model)
    for value in list(half.graph.initializers.values()):
        _convert_initializer(value, _TYPES[precision])
    for node in half.graph:
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                value.type = ir.TensorType(_TYPES[precision])
    for value in half.graph.inputs:
        _cast_input(half.graph, value, _TYPES[precision])
    for index, value in enumerate(half.graph.outputs):
        _cast_output(half.graph, index, value)
    half.graph.sort()
    return check_graph(ir.to_proto(half), what=precision)


def _convert_initializer(value: ir.Value, to: ir.DataType) -> None:
    kept = any(use.idx in _KEPT.get(use.node.op_type, ()) for use in value.uses())
    if value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT or kept:
        return
    value.const_value = ir.tensor(value.const_value.numpy().astype(to.numpy()), dtype=to, name=value.name)
    value.type = ir.TensorType(to)


def _cast_input(graph: ir.Graph, value: ir.Value, to: ir.DataType) -> None:
    cast = ir.node("Cast", [value], {"to": to}, name="to_half")
    cast.outputs[0].name = f"{value.name}_half"
    readers = [use for use in value.uses() if use.node is not cast]
    graph.insert_before(graph[0], cast)
    for use in readers:
        use.node.replace_input_with(use.idx, cast.outputs[0])


def _cast_output(graph: ir.Graph, index: int, value: ir.Value) -> None:
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name="from_half")
    producer = value.producer()
    assert producer is not None
    cast.outputs[0].name, value.name = value.name, producer.name  # by which the runtime knows the layer
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), value.shape
    graph.append(cast)
    graph.outputs[index] = cast.outputs[0]
