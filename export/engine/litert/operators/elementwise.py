"""Write what works on each value by itself: sums and products, with constants, of two activations, and functions of one.

A constant of the channels, or of everything, is applied by a depthwise 1×1 convolution: a·x + b, with ±127 for a at scale |a|/127,
is exact in int8, where LiteRT's own ADD and MUL would round the constants to 8 bits together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.engine.litert.layout import Layout, arranged, as_in_onnx
from export.engine.litert.operators.padding import VALID
from export.engine.litert.reading import end_of, unsupported
from export.engine.litert.tflite import Codes, Tensor
from export.engine.litert.writer import Writer, onnx_order
from export.graph.attributes import attribute
from export.graph.constants import constant

_CODES = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV", "Max": "MAXIMUM", "Min": "MINIMUM", "Pow": "POW"}
_FUSING = ("Add", "Sub", "Mul", "Div")
_IN_INT8 = ("Add", "Sub", "Mul")
_FULL = 127
# The codes that LiteRT's 8-bit kernels write, whatever a graph would have.
_OWN_CODES = {"Sigmoid": Codes((1 / 256,), (-128,)), "Softmax": Codes((1 / 256,), (-128,)), "Tanh": Codes((1 / 128,), (0,))}
FUNCTIONS = {
    "Sigmoid": "LOGISTIC",
    "Tanh": "TANH",
    "HardSwish": "HARD_SWISH",
    "Exp": "EXP",
    "Sqrt": "SQRT",
    "Neg": "NEG",
    "Abs": "ABS",
    "Elu": "ELU",
    "Log": "LOG",
    "Sin": "SIN",
    "Cos": "COS",
    "Floor": "FLOOR",
    "Ceil": "CEIL",
    "Gelu": "GELU",
}
_ALSO_IN_INT8 = ("Sigmoid", "Tanh", "HardSwish")


def write_arithmetic(writer: Writer, node: ir.Node) -> None:
    """Two operands, at least one of them an activation."""
    if len(node.inputs) != 2:
        raise unsupported(node, f"it has {len(node.inputs)} operands, expected 2")
    numbers = [constant(value) for value in node.inputs]
    if all(array is None for array in numbers):
        _write_of_two(writer, node)
        return
    at = 0 if numbers[0] is None else 1
    array = numbers[1 - at]
    value = node.inputs[at]
    assert array is not None
    assert value is not None
    int8 = node.op_type in (*_IN_INT8, "Div") and runs_in_int8(writer, node, value)
    line = affine(node, array, first=at == 1) if int8 else None
    layout = writer.layout(value)
    of_channels = line is not None and len(layout) == 4 and layout[3] == 1 and is_of_channels(array, 1)
    if line is not None and of_channels:
        channels = _channels(writer, node, value)
        slope, shift = (np.broadcast_to(part.reshape(-1), (channels,)) for part in line)
        inputs = depthwise_inputs(writer, str(node.name), writer.read(value), slope, shift)
        writer.put(node, "DEPTHWISE_CONV_2D", inputs, layout=layout, int8=True, fuses=True, options=DEPTHWISE)
        return
    rank = max(array.ndim, len(layout))
    if rank != len(layout):
        raise unsupported(node, f"its constant has {array.ndim} axes where the activation has {len(layout)}")
    source = writer.read(value, as_float=not int8)
    wide = array.reshape([1] * (rank - array.ndim) + list(array.shape)).transpose(layout)
    operand = writer.constant(f"{node.name}.constant", wide) if not int8 else _rounded(writer, node, wide)
    operands = [source, operand] if at == 0 else [operand, source]
    writer.put(node, _CODES[node.op_type], operands, layout=layout, int8=int8, fuses=node.op_type in _FUSING)


def _write_of_two(writer: Writer, node: ir.Node) -> None:
    int8 = node.op_type in _IN_INT8 and runs_in_int8(writer, node, *node.inputs)
    layouts = [writer.layout(value) for value in node.inputs if value is not None]
    layout: Layout = layouts[0] if len(layouts[0]) == len(layouts[1]) else ()
    own = [layout or onnx_order(value, node) for value in node.inputs]
    operands = [writer.read(value, layout=one, as_float=not int8) for value, one in zip(node.inputs, own, strict=True)]
    made = layout or as_in_onnx(max(map(len, own)))
    writer.put(node, _CODES[node.op_type], operands, layout=made, int8=int8, fuses=node.op_type in _FUSING)


def affine(node: ir.Node, array: NDArray[Any], *, first: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return a and b of a·x + b for what `node` does with a constant, its first operand or its second."""
    number = array.astype(np.float64)
    one, zero = np.ones(1), np.zeros(1)
    if node.op_type == "Add":
        return one, number
    if node.op_type == "Sub":
        return (-one, number) if first else (one, -number)
    if node.op_type == "Mul":
        return number, zero
    return (1 / number, zero) if node.op_type == "Div" and not first and np.all(number) else None


def is_of_channels(array: NDArray[Any], axis: int) -> bool:
    """Return whether a constant has one number for everything, or for each place along `axis` of four."""
    shape = [1] * (4 - array.ndim) + list(array.shape)
    return all(size == 1 for at, size in enumerate(shape) if at != axis)


def depthwise_inputs(
    writer: Writer, name: str, source: Tensor, slope: NDArray[np.float64], shift: NDArray[np.float64]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a depthwise convolution reads that makes slope·x + shift, (C,) each, of a tensor (N, H, W, C) in codes."""
    assert source.codes is not None
    scales = np.where(slope == 0, 1.0, np.abs(slope)).astype(np.float32) / np.float32(_FULL)
    weight = (np.sign(slope) * _FULL).astype(np.int8).reshape(1, 1, 1, -1)
    bias_scales = scales * np.float32(source.codes.scale)
    bias = np.rint(shift / bias_scales.astype(np.float64)).astype(np.int32)
    zeros = (0,) * len(scales)
    return (
        source,
        writer.constant(f"{name}.factor", weight, codes=Codes(tuple(map(float, scales)), zeros, axis=3)),
        writer.constant(f"{name}.shift", bias, codes=Codes(tuple(map(float, bias_scales)), zeros)),
    )


DEPTHWISE: Mapping[str, Any] = {"padding": VALID, "strideH": 1, "strideW": 1, "depthMultiplier": 1}
"""Options of a 1×1 depthwise convolution."""


def _channels(writer: Writer, node: ir.Node, value: ir.Value) -> int:
    channels = writer.stored(value)[0].shape[3]
    if channels is None:
        raise unsupported(node, "how many channels there are is not known", hint="--window HxW")
    return channels


def _rounded(writer: Writer, node: ir.Node, array: NDArray[Any]) -> Tensor:
    """Return a constant in codes of its own; noted, since the graph has it in float."""
    low, high = min(float(array.min()), 0.0), max(float(array.max()), 0.0)
    scale = float(np.float32(max(high - low, 1e-30) / 255))
    codes = Codes((scale,), (round(-128 - low / scale),))
    writer.notes.append(f"{node.name}: its constant is rounded to 8 bits")
    integers = np.clip(np.rint(array / np.float32(scale)) + codes.zero_point, -128, 127).astype(np.int8)
    return writer.constant(f"{node.name}.constant", integers, codes=codes)


def runs_in_int8(writer: Writer, node: ir.Node, *values: ir.Value | None) -> bool:
    """Return whether what `node` reads is stored in codes, and what it writes is to be."""
    return end_of(node.outputs[0]).codes is not None and all(writer.codes(value) is not None for value in values)


def write_function(writer: Writer, node: ir.Node) -> None:
    """Of one activation."""
    value = node.inputs[0]
    int8 = node.op_type in _ALSO_IN_INT8 and runs_in_int8(writer, node, value)
    if node.op_type == "Elu" and float(attribute(node, "alpha", 1.0)) != 1.0:
        raise unsupported(node, "its alpha is not 1")
    options = {"approximate": attribute(node, "approximate", "none") == "tanh"} if node.op_type == "Gelu" else {}
    source = writer.read(value, as_float=not int8)
    assert value is not None
    put_in_own_codes(writer, node, FUNCTIONS[node.op_type], [source], layout=writer.layout(value), int8=int8, options=options)


def write_softmax(writer: Writer, node: ir.Node) -> None:
    """LiteRT's is along the last axis."""
    value = node.inputs[0]
    rank = len(onnx_order(value, node))
    axis = attribute(node, "axis", -1) % rank
    assert value is not None
    found = writer.layout(value)
    layout = found if found[-1] == axis else (*(at for at in range(rank) if at != axis), axis)
    int8 = runs_in_int8(writer, node, value)
    source = writer.read(value, layout=layout, as_float=not int8)
    put_in_own_codes(writer, node, "SOFTMAX", [source], layout=layout, int8=int8, options={"beta": 1.0})


def put_in_own_codes(
    writer: Writer,
    node: ir.Node,
    code: str,
    inputs: Sequence[Tensor],
    *,
    layout: Layout,
    int8: bool,
    options: Mapping[str, Any],
) -> None:
    """As `Writer.put`; in int8 behind the codes that the kernel writes come those that the graph has, where they are others."""
    own = _OWN_CODES.get(node.op_type)
    end = end_of(node.outputs[0])
    if not int8 or own is None or end.codes == own:
        writer.put(node, code, inputs, layout=layout, int8=int8, options=options)
        return
    assert end.codes is not None
    made = writer.emit(str(node.name), code, inputs, arranged(inputs[0].shape, as_in_onnx(len(layout))), codes=own, options=options)
    made = writer.recoded(made, end.codes)
    writer.store(end.value, made if end.clip is None else writer.clipped(made, end.clip), layout)
