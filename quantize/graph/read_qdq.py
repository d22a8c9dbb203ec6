"""Read back what qdq.py wrote: which tensors an int8 graph stores, and what its layers' integers stand for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.attributes import attribute
from export.graph.constants import constant_input
from quantize.graph.input_correction import own_weight
from quantize.graph.layers import along
from quantize.graph.operators import activations
from quantize.graph.qdq import QuantizationParameters

_SUFFIX = ".quantize"
Constants = tuple[NDArray[np.float32] | None, ...]
"""What a layer reads beside activations, in the order of its inputs from the second on; None where it leaves one out."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is stored as integers: `value` names what goes into its quantizer."""

    value: str
    parameters: QuantizationParameters


def stored_tensors(graph: ir.Graph) -> dict[str, StoredTensor]:
    """Return the tensors that quantizers of `graph` store, by the name they have in the fp32 graph."""
    stored = {}
    for node in graph:
        if node.op_type != "QuantizeLinear" or not str(node.name).endswith(_SUFFIX):  # others store what the fp32 graph has not
            continue
        value, _, zero_point = node.inputs
        if value is None or zero_point is None or zero_point.const_value is None:
            continue
        code = zero_point.const_value.numpy()
        parameters = QuantizationParameters(float(constant_input(node, 1).item()), int(code.item()), code.dtype.name)
        stored[str(node.name).removesuffix(_SUFFIX)] = StoredTensor(str(value.name), parameters)
    return stored


def rounded_layers(graph: ir.Graph) -> dict[str, Constants]:
    """Return the weight and bias of every layer whose weight is stored as integers, as those are dequantized, by the layer's name.

    A corrected layer counts as reading its input alone, without the input's rounding error.
    """
    found = {}
    for node in graph:
        if len(node.inputs) > 1 and _is_dequantized_constant(node.inputs[1]) and not _is_dequantized_constant(node.inputs[0]):
            weight, *others = (_restore(value) for value in node.inputs[1:])
            assert weight is not None
            found[str(node.name)] = (own_weight(graph, str(node.name), weight), *others)
    return found


def stored_end(value: ir.Value, stored: Collection[str], layers: Collection[str]) -> ir.Value:
    """Return `value`, or what activations make of it that are its only readers, up to what is stored."""
    while value.name not in stored and not value.is_graph_output():
        readers = [use.node for use in value.uses()]
        if len(readers) != 1 or readers[0].name in layers or len(activations(readers[0])) != 1 or len(readers[0].outputs) != 1:
            break
        value = readers[0].outputs[0]
    return value


def _is_dequantized_constant(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    source = None if producer is None or producer.op_type != "DequantizeLinear" else producer.inputs[0]
    return source is not None and source.const_value is not None


def _restore(value: ir.Value | None) -> NDArray[np.float32] | None:
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy().astype(np.float32)
    node = value.producer()
    assert node is not None
    integers, scale = constant_input(node, 0), constant_input(node, 1)  # zero point 0: weights and biases are symmetric
    restored: NDArray[np.float32] = integers * along(scale, integers.ndim, attribute(node, "axis", 1))
    return restored
