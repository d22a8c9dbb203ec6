"""Make float16, bfloat16 and float64 float32: weights, constants, casts and ends of a graph.

float32 holds every float16 and bfloat16 exactly, so that the float32 graph computes what the file means, and the file itself what
is left of it after its own rounding. A float64 is rounded, by 6e-8 of its value.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_OTHER = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16", TensorProto.DOUBLE: "float64"}
_TYPE_ATTRIBUTES = ("to", "dtype")


def widen_floats(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Make every float of `proto` a float32, in place; which others there were: float16, bfloat16, float64."""
    found = set[int]()
    for graph in _graphs(proto.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in _OTHER:
                found.add(value.type.tensor_type.elem_type)
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for tensor in graph.initializer:
            _widen(tensor, found)
        for node in graph.node:
            for attribute in node.attribute:
                for tensor in (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors):
                    _widen(tensor, found)
                if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _OTHER:
                    found.add(attribute.i)
                    attribute.i = TensorProto.FLOAT
    return tuple(name for kind, name in _OTHER.items() if kind in found)


def _widen(tensor: onnx.TensorProto, found: set[int]) -> None:
    if tensor.data_type not in _OTHER:
        return
    found.add(tensor.data_type)
    with np.errstate(over="ignore"):  # a bound beyond float32, as of a Clip that clips nothing, is infinite there
        array = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield `graph` and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _graphs(inner)
