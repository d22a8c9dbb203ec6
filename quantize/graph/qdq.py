"""Write QuantizeLinear/DequantizeLinear pairs: an fp32 graph, scales and rounded weights in, the int8 graph out.

    q = clip(round(x / scale) + zero_point, q_min, q_max),   dq = (q - zero_point) · scale

https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html; the placement of pairs around operators is the one that graph optimisers
recognise (Jacob et al. 2018, arXiv 1712.05877, section 3).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.constants import constant_input, new_constant
from quantize.graph.layers import bias_gain, output_axis
from quantize.graph.operators import activations, is_moved, row_of
from runtime.targets import Target
from runtime.targets.operators import Part

ActivationRange = tuple[float, float]
SMALLEST_SCALE = 2.0**-100  # its product with another scale is still a normal float32, or nearly
_POWER_TOLERANCE = 1e-4  # of an exponent: a range that misses a power of two by rounding is not doubled for it
_BEFORE_OUTPUT = ".float"  # ends the name of what the quantizer of the graph's output reads
_RESTORED = ".dequantized"  # ends the name of what a quantized tensor's readers read
LARGEST_BIAS = 1 << 30  # half of what int32 holds: the other half is the accumulator's


@dataclass(frozen=True)
class QuantizationParameters:
    """One tensor's scale (a float32 value) and zero point in `dtype`."""

    scale: float
    zero_point: int
    dtype: str


@dataclass(frozen=True)
class RoundedWeight:
    """A layer's int8 weight as the fp32 one lies, its scale for each output channel (O,), and its bias (O,), not rounded.

    A target with one scale per weight tensor has that same scale in all channels.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float64]


def activation_parameters(activation_range: ActivationRange, target: Target, *, signed: bool = False) -> QuantizationParameters:
    """Return the scale and zero point that cover `activation_range`, widened to contain 0 so that padding is exact.

    Args:
        signed: codes of int8 with zero point 0, whatever 8-bit codes `target` has: a product of two activations needs them.
    """
    low, high = min(activation_range[0], 0.0), max(activation_range[1], 0.0)
    dtype = "int8" if signed and not target.has_wide_codes else target.activation_dtype
    limits = np.iinfo(dtype)
    if signed or target.activation_symmetric:
        middle = (int(limits.max) + int(limits.min) + 1) // 2
        scale = max(high / (int(limits.max) - middle), -low / (middle - int(limits.min)))
        return QuantizationParameters(float(storable_scale(scale, target)), middle, dtype)
    scale = float(storable_scale((high - low) / (int(limits.max) - int(limits.min)), target))
    zero_point = int(np.clip(round(int(limits.min) - low / scale), limits.min, limits.max))
    return QuantizationParameters(scale, zero_point, dtype)


def fake_quantize(array: NDArray[np.float32], parameters: QuantizationParameters) -> NDArray[np.float32]:
    """Return what QuantizeLinear and DequantizeLinear make of `array`."""
    return dequantize(quantize(array, parameters), parameters)


def quantize(array: NDArray[np.float32], parameters: QuantizationParameters) -> NDArray[np.integer]:
    """Return the codes, in `parameters.dtype`, that QuantizeLinear makes of `array`."""
    limits = np.iinfo(parameters.dtype)
    codes = array / np.float32(parameters.scale)
    np.rint(codes, out=codes)
    codes += parameters.zero_point
    return np.clip(codes, limits.min, limits.max, out=codes).astype(parameters.dtype)


def dequantize(codes: NDArray[np.integer], parameters: QuantizationParameters) -> NDArray[np.float32]:
    """Return what DequantizeLinear makes of `codes`."""
    restored = codes.astype(np.float32)
    restored -= parameters.zero_point
    restored *= np.float32(parameters.scale)
    return restored


def storable_scale(scale: NDArray[np.floating] | float, target: Target) -> NDArray[np.float32]:
    """Return `scale` as `target` stores it: the next power of two where it must be one, else the nearest value of its type."""
    if target.power_of_two_scales:
        exponent = np.ceil(np.log2(np.maximum(scale, SMALLEST_SCALE)) - _POWER_TOLERANCE)
        return np.exp2(exponent).astype(np.float32)
    if target.float_dtype == "float16":
        limits = np.finfo(np.float16)
        return np.clip(scale, limits.tiny, limits.max).astype(np.float16).astype(np.float32)
    return np.maximum(scale, SMALLEST_SCALE).astype(np.float32)


def write_qdq(
    model: ir.Model,
    *,
    parameters: Mapping[str, QuantizationParameters],
    rounded: Mapping[str, RoundedWeight],
    target: Target,
    float_readers: Collection[str] = (),
) -> None:
    """Add quantizers to `model` in place: `parameters` for each quantized tensor and `rounded` weights for each layer, by name.

    `float_readers`, by name, go on reading what a tensor was, where an operator made it that does not only move data.
    """
    writer = _Writer(model.graph, target)
    values = {value.name: value for value in model.graph.inputs}
    values |= {output.name: output for node in model.graph for output in node.outputs}
    for layer in [node for node in model.graph if node.name in rounded]:
        assert layer.inputs[0] is not None
        input_scale = parameters[str(layer.inputs[0].name)].scale
        writer.quantize_parameters(layer, rounded[str(layer.name)], input_scale=input_scale)
    for name, quantization in parameters.items():
        readers = () if is_moved(values[name], target) else float_readers
        writer.quantize_activation(values[name], quantization, float_readers=readers)
    if target.moves_integers:
        _move_integers(model.graph, target, parameters, float_readers=float_readers)
    model.graph.sort()
    for weight in [value for value in model.graph.initializers.values() if not value.uses()]:
        del model.graph.initializers[str(weight.name)]  # the fp32 weights that integers replaced


def _move_integers(
    graph: ir.Graph, target: Target, parameters: Mapping[str, QuantizationParameters], *, float_readers: Collection[str]
) -> None:
    """DequantizeLinear, a move, QuantizeLinear of one scale and zero point, in a row, are the move of the integers themselves."""
    for node in [node for node in graph if node.name not in float_readers and _may_move_integers(node, target, parameters)]:
        dequantize = node.inputs[0].producer() if node.inputs[0] is not None else None
        assert dequantize is not None
        integers, dtype = dequantize.inputs[0], parameters[_restored_name(node.inputs[0])].dtype
        assert integers is not None
        if node.op_type == "Pad":
            _quantize_fill(graph, node, parameters[_fp32_name(node.outputs[0])])
        node.replace_input_with(0, integers)
        spares = [dequantize]
        for output in node.outputs:
            output.type = ir.TensorType(ir.DataType[dtype.upper()])
            for quantize in [use.node for use in output.uses()]:
                spares.append(quantize)
                for use in list(quantize.outputs[0].uses()):
                    use.node.replace_input_with(use.idx, output)
        for spare in spares:
            if not spare.outputs[0].uses():
                graph.remove(spare, safe=True)


def _may_move_integers(node: ir.Node, target: Target, parameters: Mapping[str, QuantizationParameters]) -> bool:
    """Return whether `node` moves what was stored as integers and all it writes is stored so, at one scale and zero point."""
    row = row_of(node, target)
    if row is None or row.part is not Part.MOVE or not row.integers or node.inputs[0] is None or len(set(activations(node))) != 1:
        return False
    dequantize = node.inputs[0].producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return False
    stored = {parameters.get(_restored_name(node.inputs[0]))}
    for output in node.outputs:
        readers = [use.node.op_type for use in output.uses()]
        if readers not in ([], ["QuantizeLinear"]) or output.is_graph_output():
            return False
        stored |= {parameters.get(_fp32_name(output))} if readers else set()
    (one, *others) = stored
    # openvino 2026.4 loses a product of two activations to float where their integers are moved, and int8 of uint8 is for products.
    return one is not None and not others and one.dtype == target.activation_dtype


def _restored_name(value: ir.Value | None) -> str:
    return "" if value is None else str(value.name).removesuffix(_RESTORED)


def _fp32_name(value: ir.Value) -> str:
    return str(value.name).removesuffix(_BEFORE_OUTPUT)


def _quantize_fill(graph: ir.Graph, pad: ir.Node, parameters: QuantizationParameters) -> None:
    """The constant that a Pad of integers pads with: the code of what it padded with, 0 where it named none."""
    mode = pad.attributes["mode"].as_string() if "mode" in pad.attributes else "constant"
    if mode != "constant":
        return
    has_fill = len(pad.inputs) > 2 and pad.inputs[2] is not None
    fill = float(constant_input(pad, 2).item()) if has_fill else 0.0
    limits = np.iinfo(parameters.dtype)
    code = int(np.clip(round(fill / parameters.scale) + parameters.zero_point, limits.min, limits.max))
    if not has_fill:
        pad.resize_inputs(max(len(pad.inputs), 3))
    pad.replace_input_with(2, new_constant(graph, np.array(code, parameters.dtype), name=f"{pad.name}.fill.quantized"))


class _Writer:
    """Holds the graph, and the weights quantized already: layers that share one go on sharing it."""

    def __init__(self, graph: ir.Graph, target: Target) -> None:
        self._graph = graph
        self._target = target
        self._weights: dict[tuple[int, tuple[int, ...], bytes], ir.Value] = {}

    def quantize_parameters(self, layer: ir.Node, rounded: RoundedWeight, *, input_scale: float) -> None:
        """Replace the weight, and the bias where the target wants it, by DequantizeLinear of integers."""
        axis = output_axis(layer) % rounded.weight.ndim
        key = axis, rounded.weight.shape, rounded.weight.tobytes() + rounded.scale.tobytes()
        if key not in self._weights:
            scale = rounded.scale if self._target.weight_per_channel else rounded.scale.max()
            zero_point = np.zeros_like(scale, np.int8)
            self._weights[key] = self._dequantize(f"{layer.name}.weight", rounded.weight, scale, zero_point, axis=axis)
        layer.replace_input_with(1, self._weights[key])
        if (not rounded.bias.any() and len(layer.inputs) < 3) or not bias_gain(layer):
            return
        if len(layer.inputs) < 3:
            layer.resize_inputs(3)
        if self._target.bias_dtype == "float":
            layer.replace_input_with(2, self._initializer(f"{layer.name}.bias.rounded", rounded.bias.astype(np.float32)))
            return
        scale = np.tile(rounded.scale, len(rounded.bias) // len(rounded.scale))  # ConvTranspose: every group's channels have one
        bias_scale = (scale * np.float32(input_scale)).astype(np.float32)
        integers = np.rint(rounded.bias / bias_scale.astype(np.float64)).astype(np.int32)
        layer.replace_input_with(2, self._dequantize(f"{layer.name}.bias", integers, bias_scale, None))

    def quantize_activation(self, value: ir.Value, parameters: QuantizationParameters, *, float_readers: Collection[str]) -> None:
        """Put QuantizeLinear and DequantizeLinear between `value` and all that read it, but for `float_readers`."""
        readers = [use for use in value.uses() if use.node.name not in float_readers]
        name = value.name
        scale = self._initializer(f"{name}.scale", np.array(parameters.scale, np.float32))
        zero_point = self._initializer(f"{name}.zero_point", np.array(parameters.zero_point, parameters.dtype))
        quantize = ir.node("QuantizeLinear", [value, scale, zero_point], name=f"{name}.quantize")
        dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero_point], name=f"{name}.dequantize")
        quantize.outputs[0].name = f"{name}.quantized"
        restored = dequantize.outputs[0]
        restored.name = f"{name}{_RESTORED}"
        restored.type, restored.shape = value.type, value.shape
        self._graph.extend([quantize, dequantize])
        for reader in readers:
            reader.node.replace_input_with(reader.idx, restored)
        if value.is_graph_output():
            index = self._graph.outputs.index(value)
            restored.name, value.name = value.name, f"{name}{_BEFORE_OUTPUT}"
            self._graph.outputs[index] = restored

    def _dequantize(
        self,
        prefix: str,
        integers: NDArray[np.int8] | NDArray[np.int32],
        scale: NDArray[np.float32],
        zero_point: NDArray[np.int8] | None,
        *,
        axis: int = 0,
    ) -> ir.Value:
        inputs = [
            self._initializer(f"{prefix}.quantized", integers),
            self._initializer(f"{prefix}.scale", scale),
            *([] if zero_point is None else [self._initializer(f"{prefix}.zero_point", zero_point)]),
        ]
        node = ir.node("DequantizeLinear", inputs, attributes={"axis": axis}, name=f"{prefix}.dequantize")
        node.outputs[0].name = f"{prefix}.dequantized"
        self._graph.append(node)
        return node.outputs[0]

    def _initializer(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        return new_constant(self._graph, array, name=name)
