"""Write DepthToSpace and SpaceToDepth in forms that Ethos-U runs: Vela leaves LiteRT's own operators for them on the CPU.

rows
    Of the channels (i·r + j)·C + c of DCR order, those of one i make row i of every block: (N, H, W, r·C) is (N, H, 1, W·r·C) in
    memory. r convolutions, each with the channels of one row, written between each other by PACK, are (N, H, r, W, r·C), and that
    is (N, H·r, W·r, C). Where no convolution makes the channels, STRIDED_SLICE takes them apart.
transposed
    y[m·r + i, n·r + j, c] = Σ_k w[c, i, j, k] · x[m, n, k] with w = 1 for the channel k of (c, i, j) and 0 elsewhere: a transposed
    convolution of stride r, in whatever order the channels are.

Both are exact. Vela's cycles for LESRCNN x2 at 128×128 are in deploy_docs/ethos-u.md; the compiler takes the cheaper for each chip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx_ir as ir

from export.engine.litert.layout import CHANNELS_LAST
from export.engine.litert.operators import OPERATORS, Write
from export.engine.litert.operators.moves import WHOLE, sliced
from export.engine.litert.operators.padding import VALID
from export.engine.litert.reading import unsupported
from export.engine.litert.tflite import Codes, Side, Tensor
from export.engine.litert.writer import Writer
from export.graph.attributes import attribute
from export.graph.channel_blocks import convolution_before

Form = Literal["rows", "transposed"]
FORMS: tuple[Form, ...] = ("rows", "transposed")


def operators_with(form: Form) -> Mapping[str, Write]:
    """Return the table of operators, with shuffles in that form."""
    write = _write_rows if form == "rows" else _write_transposed
    return {**OPERATORS, "DepthToSpace": write, "SpaceToDepth": _write_space_to_depth}


def _write_rows(writer: Writer, node: ir.Node) -> None:
    source, factor, sides = _read(writer, node)
    if attribute(node, "mode", "DCR") == "CRD":
        _write_transposed(writer, node)
        return
    height, width, channels = sides
    row = channels // factor
    name = str(node.name)
    parts = _split_convolution(writer, node, source, count=factor) or [
        sliced(writer, f"{name}.row", source, [0, 0, 0, begin], [WHOLE, WHOLE, WHOLE, begin + row], [1] * 4)
        for begin in range(0, channels, row)
    ]
    wide = (1, height, factor, width, row)
    packed = writer.emit(f"{name}.packed", "PACK", parts, wide, codes=source.codes, options={"axis": 2, "valuesCount": factor})
    shape = (1, height * factor, width * factor, row // factor)
    table = writer.constant(f"{name}.shape", np.array(shape, np.int32))
    writer.move(node, writer.emit(name, "RESHAPE", [packed, table], shape, codes=source.codes), CHANNELS_LAST)


def _split_convolution(writer: Writer, node: ir.Node, source: Tensor, *, count: int) -> list[Tensor]:
    """Return what `count` convolutions make, each of as many of the channels, in the place of the one that made `source`.

    None are made where something else reads `source`, or another operator made it.
    """
    if convolution_before(node.inputs[0]) is None:
        return []
    operator = writer.take_back(source, "CONV_2D")
    if operator is None:
        return []
    given, weight, bias = (writer.tensor_at(index) for index in operator.inputs)
    parts = []
    for index, name in enumerate(_names(source.name, count)):
        shape = (*source.shape[:3], weight.data.shape[0] // count if weight.data is not None else None)
        own = [_part(writer, f"{name}.{what}", whole, index, count) for what, whole in (("weight", weight), ("bias", bias))]
        parts.append(writer.emit(name, "CONV_2D", [given, *own], shape, codes=source.codes, options=operator.options))
    return parts


def _names(name: str, count: int) -> list[str]:
    return [f"{name}.{index}" if index else name for index in range(count)]


def _part(writer: Writer, name: str, whole: Tensor, index: int, count: int) -> Tensor:
    """Return so much of a constant along its first axis, with the scales of that part."""
    assert whole.data is not None
    size = len(whole.data) // count
    part = slice(index * size, (index + 1) * size)
    codes = None if whole.codes is None else Codes(whole.codes.scales[part], whole.codes.zero_points[part], whole.codes.axis)
    return writer.constant(name, whole.data[part], codes=codes)


def _write_transposed(writer: Writer, node: ir.Node) -> None:
    source, factor, (height, width, channels) = _read(writer, node)
    outputs = channels // factor**2
    kernel = np.zeros((outputs, factor, factor, channels), np.int8)
    for output, row, column in np.ndindex(outputs, factor, factor):
        blocks = attribute(node, "mode", "DCR") == "DCR"
        place = row * factor + column
        kernel[output, row, column, place * outputs + output if blocks else output * factor**2 + place] = 1
    name, shape = str(node.name), (1, height * factor, width * factor, outputs)
    assert source.codes is not None
    tensors = [
        writer.constant(f"{name}.shape", np.array(shape, np.int32)),
        writer.constant(f"{name}.places", kernel, codes=Codes((1.0,) * outputs, (0,) * outputs)),
        source,
        writer.constant(f"{name}.zeros", np.zeros(outputs, np.int32), codes=Codes((source.codes.scale,) * outputs, (0,) * outputs)),
    ]
    options = {"padding": VALID, "strideH": factor, "strideW": factor}
    writer.move(node, writer.emit(name, "TRANSPOSE_CONV", tensors, shape, codes=source.codes, options=options), CHANNELS_LAST)


def _write_space_to_depth(writer: Writer, node: ir.Node) -> None:
    """As a convolution of stride r whose weights are 0 and 1."""
    source, factor, (height, width, channels) = _read(writer, node)
    outputs = channels * factor**2
    kernel = np.eye(outputs, dtype=np.int8).reshape(outputs, factor, factor, channels)
    name, shape = str(node.name), (1, height // factor, width // factor, outputs)
    assert source.codes is not None
    tensors = [
        source,
        writer.constant(f"{name}.places", kernel, codes=Codes((1.0,) * outputs, (0,) * outputs)),
        writer.constant(f"{name}.zeros", np.zeros(outputs, np.int32), codes=Codes((source.codes.scale,) * outputs, (0,) * outputs)),
    ]
    options = {"padding": VALID, "strideH": factor, "strideW": factor}
    writer.move(node, writer.emit(name, "CONV_2D", tensors, shape, codes=source.codes, options=options), CHANNELS_LAST)


def _read(writer: Writer, node: ir.Node) -> tuple[Tensor, int, tuple[int, int, int]]:
    """Return what the node reads, in codes, its factor, and (H, W, C)."""
    source = writer.read(node.inputs[0], layout=CHANNELS_LAST)
    sides = source.shape[1:]
    if source.codes is None or source.dtype != "int8":
        raise unsupported(node, "Ethos-U computes on int8, and this is in float", hint="python -m quantize BUNDLE --target litert")
    if source.shape[0] != 1 or None in sides:
        raise unsupported(node, "an engine for Ethos-U takes one picture of one size", hint="--window HxW")
    height, width, channels = (_known(side) for side in sides)
    return source, attribute(node, "blocksize", 1), (height, width, channels)


def _known(side: Side) -> int:
    assert side is not None
    return side
