"""Writes QuantizeLinear/DequantizeLinear pairs into an fp32 graph.

    q = clip(round(x / scale) + zero_point, q_min, q_max),   dq = (q - zero_point) · scale

https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html; the placement of pairs around operators is the one that graph optimisers
recognise (Jacob et al. 2018, arXiv 1712.05877, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from quantize.placement import Placement
from runtime.targets import Target

ActivationRange = tuple[float, float]
_SMALLEST_SCALE = 2.0**-100  # its product with another scale is still a normal float32, or nearly
_LARGEST_BIAS = 1 << 30  # half of what int32 holds: the other half is the accumulator's


@dataclass(frozen=True)
class QuantizationParameters:
    """One tensor's scale (a float32 value) and zero point in `dtype`."""

    scale: float
    zero_point: int
    dtype: str


def activation_parameters(activation_range: ActivationRange, target: Target) -> QuantizationParameters:
    """Scale and zero point that cover `activation_range`, widened to contain 0 so that padding is exact."""
    low, high = min(activation_range[0], 0.0), max(activation_range[1], 0.0)
    limits = np.iinfo(target.activation_dtype)
    if target.activation_symmetric:
        middle = (int(limits.max) + int(limits.min) + 1) // 2
        scale = max(-low, high) / (int(limits.max) - middle)
        return QuantizationParameters(_float32(scale), middle, target.activation_dtype)
    scale = _float32((high - low) / (int(limits.max) - int(limits.min)))
    zero_point = int(np.clip(round(int(limits.min) - low / scale), limits.min, limits.max))
    return QuantizationParameters(scale, zero_point, target.activation_dtype)


def quantize_weight(
    weight: NDArray[np.float32], *, smallest_scale: NDArray[np.float32] | float = _SMALLEST_SCALE
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(O, I, kH, kW) float32 -> int8 of the same shape and one scale an output channel, (O,) float32; zero point 0.

    `smallest_scale`, of one value or one a channel, is what a channel of tiny weights gets instead of its own.
    """
    largest = np.abs(weight).reshape(weight.shape[0], -1).max(axis=1)
    finest = np.broadcast_to(np.asarray(smallest_scale, np.float32), largest.shape)
    without_weights = np.where(finest > _SMALLEST_SCALE, finest, 1.0)  # a channel of nothing but its bias
    scale = np.where(largest > 0, np.maximum(largest / 127, finest), without_weights).astype(np.float32)
    column = scale.reshape(-1, *([1] * (weight.ndim - 1)))
    return np.clip(np.rint(weight / column), -127, 127).astype(np.int8), scale


def write_qdq(
    model: ir.Model, *, placement: Placement, ranges: Mapping[str, ActivationRange], target: Target
) -> dict[str, QuantizationParameters]:
    """Adds the quantizers of `placement` to `model` in place; returns the parameters of each quantized tensor by name.

    `ranges` holds (low, high) for each tensor that a quantizer takes its range from.
    """
    writer = _Writer(model.graph, target)
    layers = [node for node in model.graph if node.name in placement.int8_layers]
    parameters = {
        name: activation_parameters(ranges[quantizer.range_of], target) for name, quantizer in placement.quantizers.items()
    }
    values = {value.name: value for value in model.graph.inputs}
    values |= {output.name: output for node in model.graph for output in node.outputs}
    for layer in layers:
        input_name = layer.inputs[0].name if layer.inputs[0] is not None else None
        assert input_name is not None
        writer.quantize_parameters(layer, input_scale=parameters[input_name].scale)
    for name, quantization in parameters.items():
        writer.quantize_activation(values[name], quantization)
    _move_integers(model.graph, target)
    model.graph.sort()
    for weight in [value for value in model.graph.initializers.values() if not value.uses()]:
        del model.graph.initializers[str(weight.name)]  # the fp32 weights that integers replaced
    return parameters


def _move_integers(graph: ir.Graph, target: Target) -> None:
    """DequantizeLinear, a move, QuantizeLinear of one scale and zero point, in a row, are the move of the integers themselves."""
    for node in list(graph):
        if node.op_type not in target.moving_ops or node.inputs[0] is None:
            continue
        dequantize, (reader, *others) = node.inputs[0].producer(), [use.node for use in node.outputs[0].uses()]
        assert dequantize is not None
        assert (dequantize.op_type, reader.op_type, others) == ("DequantizeLinear", "QuantizeLinear", [])
        integers = dequantize.inputs[0]
        assert integers is not None
        node.replace_input_with(0, integers)
        node.outputs[0].type = ir.TensorType(ir.DataType[target.activation_dtype.upper()])
        for use in list(reader.outputs[0].uses()):
            use.node.replace_input_with(use.idx, node.outputs[0])
        for spare in (reader, dequantize):
            if not spare.outputs[0].uses():
                graph.remove(spare, safe=True)


class _Writer:
    """Holds the graph, and the weights quantized already: layers that share one go on sharing it."""

    def __init__(self, graph: ir.Graph, target: Target) -> None:
        self._graph = graph
        self._target = target
        self._weights: dict[tuple[str | None, bytes], ir.Value] = {}

    def quantize_parameters(self, layer: ir.Node, *, input_scale: float) -> None:
        """Replaces the weight, and the bias where the target wants it, by DequantizeLinear of integers."""
        has_bias = len(layer.inputs) > 2 and layer.inputs[2] is not None and self._target.bias_dtype == "int32"
        bias = constant(layer, 2).astype(np.float64) if has_bias else np.zeros(1)
        # A bias is stored in steps of input scale · weight scale: the weight's scale must leave it room in an int32.
        room = np.abs(bias) / (input_scale * _LARGEST_BIAS)
        smallest_scale = np.maximum(room, _SMALLEST_SCALE).astype(np.float32)
        quantized, scale = quantize_weight(constant(layer, 1), smallest_scale=smallest_scale)
        weight = layer.inputs[1]
        key = (weight.name if weight is not None else None, scale.tobytes())
        if key not in self._weights:
            zero_point = np.zeros_like(scale, np.int8)
            self._weights[key] = self._dequantize(f"{layer.name}.weight", quantized, scale, zero_point)
        layer.replace_input_with(1, self._weights[key])
        if has_bias:
            bias_scale = (scale * np.float32(input_scale)).astype(np.float32)
            integers = np.rint(bias / bias_scale.astype(np.float64)).astype(np.int32)
            layer.replace_input_with(2, self._dequantize(f"{layer.name}.bias", integers, bias_scale, None))

    def quantize_activation(self, value: ir.Value, parameters: QuantizationParameters) -> None:
        """Puts QuantizeLinear and DequantizeLinear between `value` and all that read it."""
        readers = list(value.uses())
        name = value.name
        scale = self._initializer(f"{name}.scale", np.array(parameters.scale, np.float32))
        zero_point = self._initializer(f"{name}.zero_point", np.array(parameters.zero_point, parameters.dtype))
        quantize = ir.node("QuantizeLinear", [value, scale, zero_point], name=f"{name}.quantize")
        dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero_point], name=f"{name}.dequantize")
        quantize.outputs[0].name = f"{name}.quantized"
        restored = dequantize.outputs[0]
        restored.name = f"{name}.dequantized"
        restored.type, restored.shape = value.type, value.shape
        self._graph.extend([quantize, dequantize])
        for reader in readers:
            reader.node.replace_input_with(reader.idx, restored)
        if value.is_graph_output():
            index = self._graph.outputs.index(value)
            restored.name, value.name = value.name, f"{name}.float"
            self._graph.outputs[index] = restored

    def _dequantize(
        self,
        prefix: str,
        integers: NDArray[np.int8] | NDArray[np.int32],
        scale: NDArray[np.float32],
        zero_point: NDArray[np.int8] | None,
    ) -> ir.Value:
        inputs = [
            self._initializer(f"{prefix}.quantized", integers),
            self._initializer(f"{prefix}.scale", scale),
            *([] if zero_point is None else [self._initializer(f"{prefix}.zero_point", zero_point)]),
        ]
        node = ir.node("DequantizeLinear", inputs, attributes={"axis": 0}, name=f"{prefix}.dequantize")
        node.outputs[0].name = f"{prefix}.dequantized"
        self._graph.append(node)
        return node.outputs[0]

    def _initializer(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        self._graph.register_initializer(value)
        return value


def constant(node: ir.Node, index: int) -> NDArray[np.float32]:
    """The values of a node's constant input."""
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float32)


def _float32(scale: float) -> float:
    return float(np.float32(max(scale, _SMALLEST_SCALE)))
