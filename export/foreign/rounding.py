"""Bound how far a float16 file may be from its float32 form: as far as float16 rounds.

The file rounds what each operator gives to float16, u = 2⁻¹¹ of the value at most (2⁻⁸ of bfloat16); so does the float32 form with
a Cast to float16 and back behind each. With d the largest change that makes to a picture, the file's own change is another rounding
of the same size. Maxima of two such errors over some thousand pixels differ by less than a factor of two, and 4 d holds their
difference with as much to spare; what the ends round comes to it:

    tolerance = 4 d + u max(1, |y|)
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from export.foreign.original import Array
from runtime.backends.onnxruntime import run_as_written

KINDS = {"float16": (TensorProto.FLOAT16, 2.0**-11), "bfloat16": (TensorProto.BFLOAT16, 2.0**-8)}


def rounding_tolerance(model: ir.Model, picture: Array, kind: str) -> float:
    """Return the largest difference that rounding to `kind` explains, in the network's own values; infinite where it overflows."""
    element, unit = KINDS[kind]
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    exact = run_as_written(proto.SerializeToString(), picture)
    rounded = run_as_written(_rounded(proto, element).SerializeToString(), picture)
    with np.errstate(invalid="ignore"):
        change = float(np.abs(rounded - exact).max())
    return 4 * change + unit * max(1.0, float(np.abs(exact).max())) if np.isfinite(change) else float("inf")


def _rounded(proto: onnx.ModelProto, element: int) -> onnx.ModelProto:
    """Return `proto` with the picture and what each operator gives rounded to `element`."""
    graph = proto.graph
    floats = {value.name for value in (*graph.value_info, *graph.output) if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    picture, output = graph.input[0].name, graph.output[0].name
    floats -= {tensor.name for tensor in graph.initializer}  # weights are in the file as they are
    nodes = list(_round(picture, f"{picture}_rounded", element))
    for node in graph.node:
        inputs = [f"{name}_rounded" if name in floats | {picture} else name for name in node.input]
        del node.input[:]
        node.input.extend(inputs)
        nodes.append(node)
        for name in floats.intersection(node.output):
            nodes += _round(name, f"{name}_rounded", element)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.output[0].name = f"{output}_rounded"
    return proto


def _round(value: str, rounded: str, element: int) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    return (
        helper.make_node("Cast", [value], [f"{value}_narrow"], to=element),
        helper.make_node("Cast", [f"{value}_narrow"], [rounded], to=TensorProto.FLOAT),
    )
