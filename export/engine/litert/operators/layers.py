"""Write what multiplies by constant weights: Conv, ConvTranspose, Gemm and MatMul.

LiteRT has a convolution's weight as (O, kH, kW, I), a depthwise one's as (1, kH, kW, O) and a matrix as (O, I); int8 weights have a
scale for each output channel and the bias, int32, that scale times the input's.
https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.engine.litert.layout import CHANNELS_LAST
from export.engine.litert.operators.padding import VALID, amounts_of, padded, window_of
from export.engine.litert.reading import Parameter, end_of, parameter, unsupported
from export.engine.litert.tflite import Codes, Tensor
from export.engine.litert.writer import Writer, onnx_order
from export.graph.attributes import attribute, groups
from export.graph.constants import constant
from export.graph.editing import only_reader

_DEPTHWISE = (1, 2, 3, 0)
_OF_PICTURES = (0, 2, 3, 1)


def write_convolution(writer: Writer, node: ir.Node) -> None:
    weight = _weight(node)
    outputs, inputs, *kernel = weight.array.shape
    window = window_of(node, kernel)
    int8 = _runs_in_int8(writer, node, weight)
    source = writer.read(node.inputs[0], layout=CHANNELS_LAST, as_float=not int8)
    source, padding = padded(writer, source, amounts_of(node, window, source.shape[1:3]), window)
    depthwise = inputs == 1 and groups(node) == source.shape[3] and groups(node) > 1
    tensors = _parameters(writer, node, weight, _bias(node, outputs), source, order=_DEPTHWISE if depthwise else _OF_PICTURES)
    writer.put(
        node,
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
        [source, *tensors],
        layout=CHANNELS_LAST,
        int8=int8,
        fuses=True,
        options={
            "padding": padding,
            "strideH": window.strides[0],
            "strideW": window.strides[1],
            "dilationHFactor": window.dilations[0],
            "dilationWFactor": window.dilations[1],
            **({"depthMultiplier": outputs // groups(node)} if depthwise else {}),
        },
    )


def write_transposed(writer: Writer, node: ir.Node) -> None:
    """As TRANSPOSE_CONV without padding; what ONNX's pads leave out is cut off behind it."""
    weight = _weight(node)
    _, outputs, *kernel = weight.array.shape
    window = window_of(node, kernel)
    if groups(node) != 1 or window.dilations != (1, 1):
        raise unsupported(node, f"it has {groups(node)} groups and dilations {window.dilations}, expected 1 and (1, 1)")
    int8 = _runs_in_int8(writer, node, weight)
    source = writer.read(node.inputs[0], layout=CHANNELS_LAST, as_float=not int8)
    cut = _cut(node)
    sides = [
        None if side is None else (side - 1) * stride + size + max(-after, 0)
        for side, stride, size, (_, after) in zip(source.shape[1:3], window.strides, window.kernel, cut, strict=True)
    ]
    if None in sides or source.shape[0] is None:
        raise unsupported(node, "LiteRT wants the size of its result as a constant", hint="--window HxW")
    turned = Parameter(weight.array.swapaxes(0, 1), None if weight.scales is None else _turned(weight.scales))
    matrix, bias = _parameters(writer, node, turned, _bias(node, outputs), source, order=_OF_PICTURES)
    end = end_of(node.outputs[0])
    shape = (source.shape[0], *sides, outputs)
    made = writer.emit(
        str(node.name),
        "TRANSPOSE_CONV",
        [writer.constant(f"{node.name}.shape", np.array(shape, np.int32)), matrix, source, bias],
        shape,
        codes=end.codes if int8 else None,
        options={"padding": VALID, "strideH": window.strides[0], "strideW": window.strides[1]},
    )
    made = _cut_off(writer, made, [(0, 0), *((before, max(after, 0)) for before, after in cut), (0, 0)])
    writer.store(end.value, made if end.clip is None else writer.clipped(made, end.clip), CHANNELS_LAST)


def write_gemm(writer: Writer, node: ir.Node) -> None:
    alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
    weight = _weight(node)
    if attribute(node, "transA", 0) or (weight.scales is not None and (alpha, beta) != (1.0, 1.0)):
        raise unsupported(node, f"it has transA, alpha {alpha} or beta {beta}")
    outputs = weight.array.shape[0 if attribute(node, "transB", 0) else 1]
    bias = _bias(node, outputs)
    if (alpha, beta) != (1.0, 1.0):
        weight, bias = (
            Parameter(np.asarray(weight.floats * np.asarray(alpha, weight.floats.dtype))),
            np.asarray(bias.astype(np.float32) * np.float32(beta)),
        )
    order = (0, 1) if attribute(node, "transB", 0) else (1, 0)
    _write_matrix(writer, node, weight, bias, order=order)


def write_matmul(writer: Writer, node: ir.Node) -> None:
    weight = parameter(node, 1)
    if weight is None:
        _write_product(writer, node)
        return
    if weight.array.ndim != 2:
        raise unsupported(node, f"its weight has {weight.array.ndim} axes, expected 2")
    outputs = weight.array.shape[1]
    reader = only_reader(node.outputs[0])
    added = None if reader is None or reader.op_type != "Add" else _constant_side(reader)
    if added is None or added.size not in (1, outputs) or (added.ndim and added.shape[-1] != added.size):
        _write_matrix(writer, node, weight, np.zeros(outputs, np.float32), order=(1, 0))
        return
    assert reader is not None
    _write_matrix(writer, node, weight, np.broadcast_to(added.reshape(-1), (outputs,)), order=(1, 0), end=reader)


def _write_matrix(
    writer: Writer, node: ir.Node, weight: Parameter, bias: NDArray[np.generic], *, order: Sequence[int], end: ir.Node | None = None
) -> None:
    last = end or node
    int8 = _runs_in_int8(writer, node, weight, end=last)
    source = writer.read(node.inputs[0], layout=onnx_order(node.inputs[0], node), as_float=not int8)
    tensors = _parameters(writer, node, weight, bias, source, order=order)
    writer.put(
        node,
        "FULLY_CONNECTED",
        [source, *tensors],
        layout=onnx_order(node.outputs[0], node),
        int8=int8,
        fuses=True,
        last=last,
        options={"keepNumDims": len(source.shape) > 2},
    )


def _write_product(writer: Writer, node: ir.Node) -> None:
    """Of two activations."""
    int8 = end_of(node.outputs[0]).codes is not None and all(writer.codes(value) is not None for value in node.inputs)
    sides = [writer.read(value, layout=onnx_order(value, node), as_float=not int8) for value in node.inputs]
    writer.put(node, "BATCH_MATMUL", sides, layout=onnx_order(node.outputs[0], node), int8=int8)


def _weight(node: ir.Node) -> Parameter:
    weight = parameter(node, 1)
    if weight is None:
        raise unsupported(node, "its weight is computed, expected a constant")
    return weight


def _bias(node: ir.Node, outputs: int) -> NDArray[np.generic]:
    """Return the bias, as integers or floats, (O,): zeros where there is none."""
    bias = parameter(node, 2)
    if bias is None:
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            raise unsupported(node, "its bias is computed, expected a constant")
        return np.zeros(outputs, np.float32)
    return np.broadcast_to(bias.array.reshape(-1), (outputs,))


def _runs_in_int8(writer: Writer, node: ir.Node, weight: Parameter, *, end: ir.Node | None = None) -> bool:
    stored = end_of((end or node).outputs[0]).codes is not None
    return stored and weight.scales is not None and writer.codes(node.inputs[0]) is not None


def _parameters(
    writer: Writer,
    node: ir.Node,
    weight: Parameter,
    bias: NDArray[np.generic],
    source: Tensor,
    *,
    order: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the weight, its axes in that order, and the bias, as the operator that reads `source` takes them."""
    name = str(node.name)
    if source.codes is None:
        floats = weight.array if weight.scales is None else weight.array.astype(np.float32) * weight.scales
        if bias.dtype == np.int32:
            raise unsupported(node, "its bias is of int8's scale and its input is in float")
        return writer.constant(f"{name}.weight", floats.transpose(order)), writer.constant(
            f"{name}.bias", bias.astype(floats.dtype)
        )
    assert weight.scales is not None
    axis = next((at for at, size in enumerate(weight.scales.shape) if size > 1), None)
    outputs = weight.array.shape[order[0] if order != _DEPTHWISE else 0]
    scales = np.broadcast_to(weight.scales.reshape(-1), (outputs,)) if axis is None else weight.scales.reshape(-1)
    codes = Codes(tuple(map(float, scales)), (0,) * outputs, axis=3 if order == _DEPTHWISE else 0)
    bias_scales = scales * np.float32(source.codes.scale)
    steps = bias if bias.dtype == np.int32 else np.rint(bias.astype(np.float64) / bias_scales).astype(np.int32)
    return (
        writer.constant(f"{name}.weight", weight.array.transpose(order), codes=codes),
        writer.constant(f"{name}.bias", steps.astype(np.int32), codes=Codes(tuple(map(float, bias_scales)), (0,) * outputs)),
    )


def _turned(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    return scales.swapaxes(0, 1)


def _cut(node: ir.Node) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return what is left out of (rows, columns); less than 0 behind where pixels are added."""
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in node.attributes:
        raise unsupported(node, "its padding follows from its size", hint="export it with pads")
    top, left, bottom, right = attribute(node, "pads", (0, 0, 0, 0))
    rows, columns = attribute(node, "output_padding", (0, 0))
    return (top, bottom - rows), (left, right - columns)


def _cut_off(writer: Writer, made: Tensor, amounts: Sequence[tuple[int, int]]) -> Tensor:
    if not any(before or after for before, after in amounts):
        return made
    shape = [None if side is None else side - before - after for side, (before, after) in zip(made.shape, amounts, strict=True)]
    begin = writer.constant(f"{made.name}.begin", np.array([before for before, _ in amounts], np.int32))
    size = writer.constant(f"{made.name}.size", np.array([-1 if side is None else side for side in shape], np.int32))
    return writer.emit(f"{made.name}.cut", "SLICE", [made, begin, size], shape, codes=made.codes)


def _constant_side(addition: ir.Node) -> NDArray[np.generic] | None:
    return next((array for array in map(constant, addition.inputs) if array is not None), None)
