"""Other forms of the same graph, for backends that compute the plain form wrongly or in float; each exact, each with its case.

A backend is held against the simulation anyway, and refused where it gives something else. Where a form of the same graph is known
that it computes right, that form is written, whether the backend is installed here or not: the same inputs give the same bytes.

shape_of_convolution
    openvino 2026.4 lets Shape read an earlier tensor of the same shape. Where that is a convolution in int8 whose bias comes after,
    the convolution then has two readers, and bias and ReLU are lost (RFDN's ESA blocks, which resize to another tensor's size).
    A 1×1 MaxPool, which changes nothing, between the tensor and Shape ends the search for H and W.
batch_of_shapes
    The same, of N alone, which a MaxPool passes on: openvino reads it where it first knows it, at a convolution whose bias it is to
    add (PLKSR's repeat_interleave, a shuffle written as Reshape, Transpose, Reshape to computed sizes). The larger of N and N is a
    number that it does not know from anywhere.
padded_channels
    openvino does not know how many channels a Pad by computed amounts gives, and adds the first number of a constant for each
    channel behind it to all (SwinIR, whose picture is filled up before its mean is subtracted). A Reshape to (0, C, 0, 0), which
    changes nothing, tells it.
padded_average
    openvino 2026.4 pads an AveragePool of uint8 with code 0, which is not 0 where the zero point is another, and counts it
    (`count_include_pad`). A Pad before it pads with what is 0.
write_subpixel
    ONNX Runtime has no ConvTranspose in int8, openvino none that reads a zero point (FSRCNN, LapSRN): see `subpixel.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from quantize.qdq import new_constant
from quantize.subpixel import write_subpixel
from runtime.targets import Target

_BY_CHANNEL = ("Add", "Sub", "Mul", "Div")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_SHAPE_KEPT = (*_QUANTIZERS, "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Neg", "Abs")


def shape_of_convolution(graph: ir.Graph) -> None:
    """Puts a 1×1 MaxPool before each Shape of a tensor that the graph makes, (N, C, H, W); of the written int8 graph."""
    inserted: dict[ir.Value, ir.Value] = {}
    for node in [node for node in graph if node.op_type == "Shape"]:
        value = node.inputs[0]
        if (
            value is None
            or value.producer() is None
            or value.dtype != ir.DataType.FLOAT
            or value.shape is None
            or len(value.shape) != 4
        ):
            continue
        if value not in inserted:
            pool = ir.node("MaxPool", [value], {"kernel_shape": [1, 1]}, name=f"{value.name}.shaped")
            pool.outputs[0].name, pool.outputs[0].type, pool.outputs[0].shape = pool.name, value.type, value.shape
            graph.append(pool)
            inserted[value] = pool.outputs[0]
        node.replace_input_with(0, inserted[value])
    graph.sort()


def batch_of_shapes(graph: ir.Graph) -> None:
    """Reads the first number of each Shape as the larger of it and itself, (rank,) as before; of the written int8 graph."""
    for node in [node for node in graph if node.op_type == "Shape" and "start" not in node.attributes]:
        shape = node.outputs[0]
        rank = shape.shape[0] if shape.shape is not None else None
        if not isinstance(rank, int) or rank < 2:
            continue
        readers = list(shape.uses())
        twice, others = (
            ir.node("Gather", [shape, new_constant(graph, f"{node.name}.{what}.at", np.array(at, np.int64))], name=f"{node.name}.{what}")
            for what, at in (("twice", [0, 0]), ("others", range(1, rank)))
        )
        largest = ir.node("ReduceMax", twice.outputs, {"keepdims": 1}, name=f"{node.name}.batch")
        whole = ir.node("Concat", [*largest.outputs, *others.outputs], {"axis": 0}, name=f"{node.name}.apart")
        for made in (twice, others, largest, whole):
            made.outputs[0].name, made.outputs[0].type = made.name, shape.type
        whole.outputs[0].shape = shape.shape
        for use in readers:
            use.node.replace_input_with(use.idx, whole.outputs[0])
        graph.extend([twice, others, largest, whole])
    graph.sort()


def padded_channels(graph: ir.Graph) -> None:
    """Puts a Reshape to (0, C, 0, 0) behind each Pad by computed amounts that a constant for each channel follows, (N, C, H, W)."""
    for node in [node for node in graph if node.op_type in _BY_CHANNEL]:
        for value, other in (node.inputs[:2], node.inputs[1::-1]):
            channels = _constant_channels(other)
            pad = _computed_pad(value)
            if channels is None or pad is None or _known_channels(pad.inputs[0]) != channels:
                continue
            padded, shape = pad.outputs[0], np.array([0, channels, 0, 0], np.int64)
            readers = list(padded.uses())
            told = ir.node("Reshape", [padded, new_constant(graph, f"{padded.name}.shape", shape)], name=f"{padded.name}.told")
            told.outputs[0].name, told.outputs[0].type = told.name, padded.type
            for use in readers:
                use.node.replace_input_with(use.idx, told.outputs[0])
            graph.append(told)
    graph.sort()


def _constant_channels(value: ir.Value | None) -> int | None:
    """C of a constant of (C, 1, 1) or (1, C, 1, 1), as it is or in int8; None for all else."""
    while value is not None and (maker := value.producer()) is not None and maker.op_type in _QUANTIZERS:
        value = maker.inputs[0]
    shape = None if value is None or value.const_value is None else value.const_value.shape
    if shape is None or len(shape) < 3:
        return None
    *front, channels, height, width = shape
    return int(channels) if {*front, height, width} == {1} and channels != 1 else None


def _computed_pad(value: ir.Value | None) -> ir.Node | None:
    """The Pad by computed amounts that gives `value`, by way of what leaves the shape as it is."""
    while value is not None and (maker := value.producer()) is not None:
        if maker.op_type == "Pad" and maker.inputs[1] is not None and maker.inputs[1].const_value is None:
            return maker
        if maker.op_type not in _SHAPE_KEPT:
            return None
        value = maker.inputs[0]
    return None


def _known_channels(value: ir.Value | None) -> int | None:
    """C of (N, C, H, W), read where the graph says it: at `value`, or before what leaves it as it is."""
    while value is not None:
        if value.shape is not None and len(value.shape) == 4 and isinstance(value.shape[1], int):
            return value.shape[1]
        maker = value.producer()
        value = maker.inputs[0] if maker is not None and maker.op_type in _SHAPE_KEPT else None
    return None


def padded_average(graph: ir.Graph) -> None:
    """Gives each AveragePool that counts its padding a Pad instead; of the fp32 graph, before it has quantizers."""
    for node in [node for node in graph if node.op_type == "AveragePool"]:
        pads = tuple(node.attributes["pads"].as_ints()) if "pads" in node.attributes else ()
        counts = "count_include_pad" in node.attributes and node.attributes["count_include_pad"].as_int() == 1
        rounds_up = "ceil_mode" in node.attributes and node.attributes["ceil_mode"].as_int() == 1
        value = node.inputs[0]
        if not counts or not any(pads) or rounds_up or value is None:
            continue
        half = len(pads) // 2
        amounts = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
        pad = ir.node("Pad", [value, new_constant(graph, f"{node.name}.pads", amounts)], name=f"{node.name}.padded")
        pad.outputs[0].name, pad.outputs[0].type = pad.name, value.type
        graph.append(pad)
        node.replace_input_with(0, pad.outputs[0])
        node.attributes["pads"] = ir.AttrInt64s("pads", [0] * len(pads))
    graph.sort()


Form = Callable[[ir.Graph], None]
BEFORE_QUANTIZERS: tuple[tuple[str, Form], ...] = (("openvino", padded_average), ("onnxruntime", write_subpixel))
"""The backend, and the form that it needs of the fp32 graph."""
OF_THE_INT8_GRAPH: tuple[tuple[str, Form], ...] = (
    ("openvino", shape_of_convolution),
    ("openvino", batch_of_shapes),
    ("openvino", padded_channels),
)
"""The backend, and the form that it needs of the graph as it is written."""


def take_forms(graph: ir.Graph, target: Target, forms: tuple[tuple[str, Form], ...]) -> None:
    """Brings `graph`, in place, into those of `forms` that a backend of `target` needs."""
    for backend, form in forms:
        if backend in target.backends:
            form(graph)


def in_forms(graph: ir.Graph, target: Target) -> ir.Graph:
    """A copy of the fp32 `graph` as its operators are before they have quantizers."""
    copy = graph.clone()
    take_forms(copy, target, BEFORE_QUANTIZERS)
    return copy
