"""Strip a graph of its weights: what is left decides the plan, apart from numbers that a refit can exchange.

Weights are the initializers that are read where TensorRT takes a layer's weights, and nowhere else. What other operators read,
bounds and shapes and pads, may decide how the engine is built, and stays.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from export.graph.serialized import serialize
from runtime.bundle import sha256_bytes

# Inputs by their index.
_WEIGHTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (1,),
    "PRelu": (1,),
    "QuantizeLinear": (0, 1),
    "DequantizeLinear": (0, 1),
}
_KEPT_FIELDS = ("name", "dims", "data_type")


def weight_names(model: onnx.ModelProto) -> frozenset[str]:
    """Return the initializers of `model` that are weights."""
    read = list(_read(model.graph))
    elsewhere = {name for name, is_weight in read if not is_weight} | {value.name for value in model.graph.output}
    return frozenset({tensor.name for tensor in model.graph.initializer} & {name for name, _ in read} - elsewhere)


def structure_digest(model: onnx.ModelProto) -> str:
    """sha256 of `model` without the values of its weights; their names, shapes and types are part of it."""
    weights = weight_names(model)
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        if tensor.name in weights:
            for field, _ in tensor.ListFields():
                if field.name not in _KEPT_FIELDS:
                    tensor.ClearField(field.name)
    return sha256_bytes(serialize(bare))


def _read(graph: onnx.GraphProto) -> Iterator[tuple[str, bool]]:
    """Yield each input of each node, and whether it is read as weights there; what a subgraph reads is not."""
    for node in graph.node:
        places = _WEIGHTS.get(node.op_type, ())
        yield from ((name, index in places) for index, name in enumerate(node.input))
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from ((name, False) for name, _ in _read(inner))
