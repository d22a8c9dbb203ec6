"""Runs a graph one operator at a time, so that what a layer is given and what it makes can be looked at and changed on the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.backends.onnxruntime import session_options

Array = NDArray[np.float32]
_OPSET = 18  # of the one-operator models; the operators of these networks mean the same from 13 on


def run_node(node: ir.Node, inputs: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """What `node` makes, each output crop by crop, of `inputs`: crop by crop, those that are not constants, in their order."""
    proto = ir.to_proto(node)
    constants, declared = {}, {}
    arrays = iter(inputs)
    for name, value in zip(proto.input, node.inputs, strict=True):
        if value is not None and value.const_value is not None:
            constants[name] = onnx.numpy_helper.from_array(value.const_value.numpy(), name)
        elif value is not None:
            declared[name] = next(arrays)
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(crops[0].dtype), None)
            for name, crops in declared.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in proto.output],
        list(constants.values()),
    )
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", _OPSET)])
    session = ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
    made = [session.run(None, dict(zip(declared, crop, strict=True))) for crop in zip(*declared.values(), strict=True)]
    return [list(output) for output in zip(*made, strict=True)]
