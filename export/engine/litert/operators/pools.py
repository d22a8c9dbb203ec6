"""Write pools and reductions: MaxPool, AveragePool and what looks at whole axes.

LiteRT's kernels of AVERAGE_POOL_2D, MAX_POOL_2D and REDUCE_MAX write the codes that they read; MEAN may write others.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.engine.litert.layout import CHANNELS_LAST, Layout, arranged, as_in_onnx
from export.engine.litert.operators.elementwise import runs_in_int8
from export.engine.litert.operators.padding import VALID, amounts_of, is_same, pad, padded, window_of
from export.engine.litert.reading import integers, shape_of, unsupported
from export.engine.litert.tflite import Tensor
from export.engine.litert.writer import Writer
from export.graph.attributes import attribute

REDUCTIONS = {
    "ReduceMean": "MEAN",
    "ReduceMax": "REDUCE_MAX",
    "ReduceSum": "SUM",
    "GlobalAveragePool": "MEAN",
    "GlobalMaxPool": "REDUCE_MAX",
}
_LEAST = float(np.finfo(np.float32).min)


def write_pool(writer: Writer, node: ir.Node) -> None:
    value = node.inputs[0]
    assert value is not None
    window = window_of(node, attribute(node, "kernel_shape", (1, 1)))
    if window.kernel == (1, 1) and window.strides == (1, 1):
        writer.move(node, *writer.stored(value))
        return
    source = writer.read(value, layout=CHANNELS_LAST)
    amounts = amounts_of(node, window, source.shape[1:3])
    if window.dilations != (1, 1) or attribute(node, "ceil_mode", 0) or len(node.outputs) > 1:
        raise unsupported(node, "it has dilations, rounds its size up or gives indices")
    largest = node.op_type == "MaxPool"
    counted = bool(attribute(node, "count_include_pad", 0))
    pads = any(amounts[0] + amounts[1])
    if not largest and pads and counted == is_same(amounts, window, source.shape[1:3]):
        if not counted:
            raise unsupported(node, f"it pads by {amounts} without counting them", hint="export it with count_include_pad")
        source, padding = _padded_by_zero(writer, source, amounts)
    else:
        source, padding = padded(writer, source, amounts, window, fill=_LEAST if largest else None)
    shape = arranged(shape_of(node.outputs[0], node), CHANNELS_LAST)
    made = writer.emit(
        str(node.name),
        "MAX_POOL_2D" if largest else "AVERAGE_POOL_2D",
        [source],
        shape,
        codes=source.codes,
        options={
            "padding": padding,
            "strideH": window.strides[0],
            "strideW": window.strides[1],
            "filterHeight": window.kernel[0],
            "filterWidth": window.kernel[1],
        },
    )
    writer.move(node, made, CHANNELS_LAST)


def _padded_by_zero(writer: Writer, source: Tensor, amounts: tuple[tuple[int, int], tuple[int, int]]) -> tuple[Tensor, int]:
    return pad(writer, source, ((0, 0), *amounts, (0, 0))), VALID


def write_reduction(writer: Writer, node: ir.Node) -> None:
    value = node.inputs[0]
    assert value is not None
    code = REDUCTIONS[node.op_type]
    found = writer.layout(value)
    keeps = bool(attribute(node, "keepdims", 1))
    layout: Layout = found if keeps else as_in_onnx(len(found))
    axes = tuple(range(2, len(found))) if node.op_type.startswith("Global") else _axes(node, len(found))
    moved = code == "REDUCE_MAX"
    int8 = moved or (code == "MEAN" and runs_in_int8(writer, node, value))
    source = writer.read(value, layout=layout, as_float=not int8)
    table = writer.constant(f"{node.name}.axes", np.array(sorted(layout.index(axis) for axis in axes), np.int32))
    made_layout = layout if keeps else as_in_onnx(len(shape_of(node.outputs[0], node)))
    if moved:
        shape = arranged(shape_of(node.outputs[0], node), made_layout)
        made = writer.emit(str(node.name), code, [source, table], shape, codes=source.codes, options={"keepDims": keeps})
        writer.move(node, made, made_layout)
        return
    writer.put(node, code, [source, table], layout=made_layout, int8=int8, options={"keepDims": keeps})


def _axes(node: ir.Node, rank: int) -> tuple[int, ...]:
    given = attribute(node, "axes", None) or integers(node, 1)
    if given is None:
        if attribute(node, "noop_with_empty_axes", 0):
            raise unsupported(node, "it reduces nothing")
        return tuple(range(rank))
    return tuple(axis % rank for axis in given)
