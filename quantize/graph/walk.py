"""Run a graph one operator at a time: what a layer is given and what it makes can be read and changed on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.backends.onnxruntime import session_options

Array = NDArray[np.float32]
"""Floats that depend on the picture; tensors of indices and sizes are of other types."""
_IR_VERSION = 10


def run_node(
    node: ir.Node, inputs: Sequence[Sequence[Array]], *, opsets: Mapping[str, int], crops: int
) -> list[list[Array] | None]:
    """Return what `node` makes, each output crop by crop, None for one that it leaves out.

    Args:
        inputs: crop by crop, what it reads that is no constant, in that order.
        opsets: version by domain, of the graph that the node is from.
        crops: how many there are.
    """
    proto = ir.to_proto(node)
    constants: dict[str, onnx.TensorProto] = {}
    declared: dict[str, Sequence[Array]] = {}
    arrays = iter(inputs)
    for value in node.inputs:
        if value is not None and value.const_value is not None:
            constants[str(value.name)] = onnx.numpy_helper.from_array(value.const_value.numpy(), value.name)
        elif value is not None:
            read = next(arrays)
            declared.setdefault(str(value.name), read)
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(given[0].dtype), None)
            for name, given in declared.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in proto.output if name],
        list(constants.values()),
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=imports)
    session = ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
    made = [session.run(None, {name: given[index] for name, given in declared.items()}) for index in range(crops)]
    outputs = iter(zip(*made, strict=True))
    return [list(next(outputs)) if name else None for name in proto.output]
