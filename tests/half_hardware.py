"""What hardware makes of an fp16 graph: every tensor is rounded to float16, where ONNX Runtime on a CPU keeps float32 between."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quantize.graph.walk import open_node
from tests.graphs import Array

Tensor = NDArray[Any]


def run_as_half_hardware(model: onnx.ModelProto, picture: Array) -> Array:
    """The graph's output, node by node: float16 is read as it is, computed on in float32 and rounded to float16 again."""
    graph = ir.from_proto(model).graph
    held: dict[str, Tensor] = {str(graph.inputs[0].name): picture}
    for value in graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT16:
            wide = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(wide, dtype=ir.DataType.FLOAT, name=value.name)
    for node in graph:
        halves = [output.dtype == ir.DataType.FLOAT16 for output in node.outputs]
        if node.op_type == "Cast" and halves[0]:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
        read = [held[str(value.name)] for value in node.inputs if value is not None and value.const_value is None]
        made = open_node(node, read, opsets=graph.opset_imports)(read)
        for output, is_half, array in zip(node.outputs, halves, made, strict=True):
            if array is not None:
                with np.errstate(over="ignore"):
                    held[str(output.name)] = array.astype(np.float16).astype(np.float32) if is_half else array
    return held[str(graph.outputs[0].name)].astype(np.float32)
