"""Bring an int8 graph into the form that QNN compiles to integers: an operator between quantizers of its own.

QNN computes an operator on integers where a DequantizeLinear is before each of its inputs and a QuantizeLinear behind it; any other
runs in float. With Q(x) the code of x, which grows with x, and D(q) what a code stands for,

    Q(clip(x, low, high)) = clip(Q(x), Q(low), Q(high)) = Q(clip(D(Q(x)), low, high))

so a Relu or Clip has a pair of its own quantizer put before it, and where Q(low) and Q(high) are the first and the last code, it is
left out. Both are exact. Constants are rounded to codes of their own; one number for all is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.constants import constant, new_constant
from export.graph.editing import only_reader

_CLAMPS = ("Relu", "Clip")
_WITH_CONSTANTS = ("Add", "Sub", "Mul", "PRelu")


def bring_into_htp_form(model: ir.Model) -> tuple[str, ...]:
    """Rewrite `model` in place; return the nodes whose constant was rounded."""
    graph = model.graph
    for node in [node for node in graph if node.op_type in _CLAMPS]:
        quantizer = only_reader(node.outputs[0])
        if quantizer is not None and quantizer.op_type == "QuantizeLinear" and not _is_restored(node.inputs[0]):
            _separate(graph, node, quantizer)
    for node in [node for node in graph if node.op_type == "Mul"]:
        _keep_apart(graph, node)
    rounded = [name for node in list(graph) if node.op_type in _WITH_CONSTANTS and (name := _quantize_constant(graph, node))]
    graph.sort()
    return tuple(rounded)


def _separate(graph: ir.Graph, clamp: ir.Node, quantizer: ir.Node) -> None:
    """Put a pair before `clamp`; of 16 bits write it as Max and Min, since the HTP drops a clamp of those behind a layer."""
    zero_point = constant(quantizer.inputs[2])
    source = clamp.inputs[0]
    assert zero_point is not None
    assert source is not None
    bounds = _bounds(clamp, quantizer)
    if bounds and zero_point.dtype == np.uint8:
        clamp.replace_input_with(0, _requantized(graph, source, quantizer, before=clamp, name=str(clamp.name)))
        return
    for operator, code in bounds:
        name = f"{clamp.name}.{operator.lower()}"
        restored = _requantized(graph, source, quantizer, before=clamp, name=name)
        source = _bounded(graph, restored, quantizer, operator, code, before=clamp, name=name)
    quantizer.replace_input_with(0, source)
    graph.remove(clamp, safe=True)


def _keep_apart(graph: ir.Graph, product: ir.Node) -> None:
    """Put a Max that changes nothing behind a Sigmoid of 16 bits: the HTP makes something else of x·sigmoid(x)."""
    for index, value in enumerate(product.inputs):
        restored = _made_by(value, "DequantizeLinear")
        quantizer = None if restored is None else _made_by(restored.inputs[0], "QuantizeLinear")
        if value is None or quantizer is None or _made_by(quantizer.inputs[0], "Sigmoid") is None:
            continue
        zero_point = constant(quantizer.inputs[2])
        if zero_point is not None and zero_point.dtype == np.uint16:
            name = f"{product.name}.gate"
            bounded = _bounded(graph, value, quantizer, "Max", 0, before=product, name=name)
            product.replace_input_with(index, _requantized(graph, bounded, quantizer, before=product, name=name))


def _bounded(
    graph: ir.Graph, source: ir.Value, quantizer: ir.Node, operator: str, code: float, *, before: ir.Node, name: str
) -> ir.Value:
    """Return the Max or Min, as `operator` says, of `source` and a code of `quantizer`'s."""
    zero_point = constant(quantizer.inputs[2])
    assert zero_point is not None
    codes = new_constant(graph, np.array(code).astype(zero_point.dtype), name=f"{name}.bound.quantized")
    bound = ir.node("DequantizeLinear", [codes, *quantizer.inputs[1:]], name=f"{name}.bound.dequantize")
    bounded = ir.node(operator, [source, bound.outputs[0]], name=name)
    bound.outputs[0].name, bounded.outputs[0].name = f"{name}.bound", name
    graph.insert_before(before, [bound, bounded])
    return bounded.outputs[0]


def _requantized(graph: ir.Graph, source: ir.Value, quantizer: ir.Node, *, before: ir.Node, name: str) -> ir.Value:
    """Return `source` behind a pair of `quantizer`'s scale and zero point."""
    codes = ir.node("QuantizeLinear", [source, *quantizer.inputs[1:]], name=f"{name}.before.quantize")
    floats = ir.node("DequantizeLinear", [codes.outputs[0], *quantizer.inputs[1:]], name=f"{name}.before.dequantize")
    codes.outputs[0].name, floats.outputs[0].name = f"{name}.before.quantized", f"{name}.before"
    graph.insert_before(before, [codes, floats])
    return floats.outputs[0]


def _bounds(clamp: ir.Node, quantizer: ir.Node) -> list[tuple[str, float]]:
    """Return the codes that `clamp` keeps within, each with its operator; none where the quantizer does not go beyond."""
    scale, zero_point = constant(quantizer.inputs[1]), constant(quantizer.inputs[2])
    assert scale is not None
    assert zero_point is not None
    given = [constant(value) for value in clamp.inputs[1:]]
    low, high = (float(value.item()) if value is not None else None for value in (*given, None, None)[:2])
    low = 0.0 if clamp.op_type == "Relu" else low
    limits = np.iinfo(zero_point.dtype.name)
    bounds = []
    for operator, value, end in (("Max", low, limits.min), ("Min", high, limits.max)):
        if value is not None:
            code = float(np.clip(np.rint(value / float(scale.item())) + float(zero_point.item()), limits.min, limits.max))
            bounds += [(operator, code)] if code != end else []
    return bounds


def _quantize_constant(graph: ir.Graph, node: ir.Node) -> str:
    """Return the node's name where codes are not what its constant was, else ""."""
    for index, value in enumerate(node.inputs):
        array, other = constant(value), node.inputs[1 - index]
        if array is None or array.dtype != np.float32 or not _is_restored(other):
            continue
        assert other is not None
        restored = other.producer()
        assert restored is not None
        zero_point = constant(restored.inputs[2])
        assert zero_point is not None
        codes, scale, zero = _codes(array.astype(np.float64), zero_point.dtype)
        stem = f"{node.name}.constant"
        inputs = [
            new_constant(graph, array_, name=f"{stem}.{name}")
            for name, array_ in (("quantized", codes), ("scale", scale), ("zero_point", zero))
        ]
        floats = ir.node("DequantizeLinear", inputs, name=f"{stem}.dequantize")
        floats.outputs[0].name = stem
        graph.insert_before(node, floats)
        node.replace_input_with(index, floats.outputs[0])
        return "" if array.min() == array.max() else str(node.name)
    return ""


def _codes(array: NDArray[np.float64], dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the codes of `array`, their scale and zero point, which cover it and 0."""
    limits = np.iinfo(dtype.name)
    low, high = min(float(array.min()), 0.0), max(float(array.max()), 0.0)
    scale = np.float32((high - low) / (int(limits.max) - int(limits.min)) or 1.0)
    zero = np.clip(np.rint(limits.min - low / scale), limits.min, limits.max)
    codes = np.clip(np.rint(array / scale) + zero, limits.min, limits.max)
    return codes.astype(dtype), np.asarray(scale), np.asarray(zero).astype(dtype)


def _is_restored(value: ir.Value | None) -> bool:
    return _made_by(value, "DequantizeLinear") is not None


def _made_by(value: ir.Value | None, operator: str) -> ir.Node | None:
    """Return the node that makes `value`, if it is of this operator, whatever else reads it."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == operator else None
