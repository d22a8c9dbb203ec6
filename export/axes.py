"""Rename the axes of somebody's ONNX file: a file may name sizes the same that are not, and then fixes them.

ONNX Runtime takes axes of one name for axes of one size and gives their tensors one piece of memory; a file that calls the sides of
its input and of its larger output by the same names then fails while it runs. What a file says of any tensor but the picture that
goes in follows from the graph, so it is forgotten, and inferred again by whoever needs it.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

NAMES = ("batch", "", "height", "width")


def rename_axes(proto: onnx.ModelProto) -> None:
    """Name the free sizes of the (N, C, H, W) input "batch", "height" and "width", in place, and forgets all other shapes."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    for graph in _graphs(proto.graph):
        del graph.value_info[:]
    for value in proto.graph.output:
        dimensions = value.type.tensor_type.shape.dim
        rank = len(dimensions) or len(NAMES)
        del dimensions[:]
        for _ in range(rank):
            dimensions.add()
    for value in proto.graph.input:
        dimensions = value.type.tensor_type.shape.dim
        if value.name in weights or len(dimensions) != len(NAMES):
            continue
        for dimension, name in zip(dimensions, NAMES, strict=True):
            if name and dimension.dim_value <= 0:
                dimension.Clear()
                dimension.dim_param = name


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield `graph` and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                for value in inner.output:
                    value.type.tensor_type.ClearField("shape")
                yield from _graphs(inner)
