"""Write what only moves values: the codes it writes are those it reads, and its axes are looked up in the layout that it finds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.engine.litert.layout import arranged, as_in_onnx, renamed
from export.engine.litert.operators.padding import pad
from export.engine.litert.reading import end_of, integers, shape_of, unsupported
from export.engine.litert.tflite import Side, Tensor
from export.engine.litert.writer import Writer, onnx_order
from export.graph.attributes import attribute
from export.graph.constants import constant

_SYMMETRIC, _REFLECT = 1, 0
WHOLE = np.iinfo(np.int32).max


def write_identity(writer: Writer, node: ir.Node) -> None:
    assert node.inputs[0] is not None
    writer.move(node, *writer.stored(node.inputs[0]))


def write_transpose(writer: Writer, node: ir.Node) -> None:
    """Only names the axes anew: nothing is moved until something wants them in an order."""
    assert node.inputs[0] is not None
    tensor, layout = writer.stored(node.inputs[0])
    permutation = attribute(node, "perm", tuple(reversed(range(len(layout)))))
    writer.move(node, tensor, renamed(layout, permutation))


def write_reshape(writer: Writer, node: ir.Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: by the shape that comes out, of which one side may be free."""
    value = node.inputs[0]
    assert value is not None
    before, after = shape_of(value, node), shape_of(node.outputs[0], node)
    if before == after and before.count(None) <= 1:
        writer.move(node, *writer.stored(value))
        return
    source = writer.read(value, layout=onnx_order(value, node))
    if after.count(None) > 1:
        raise unsupported(node, "more than one side of its result is free", hint="--window HxW")
    target = writer.constant(f"{node.name}.shape", np.array([-1 if side is None else side for side in after], np.int32))
    made = writer.emit(str(node.name), "RESHAPE", [source, target], after, codes=source.codes, dtype=source.dtype)
    writer.move(node, made, as_in_onnx(len(after)))


def write_concat(writer: Writer, node: ir.Node) -> None:
    values = [value for value in node.inputs if value is not None]
    layout = next(writer.layout(value) for value in values if writer.knows(value))
    end = end_of(node.outputs[0])
    found = {writer.codes(value) for value in values}
    codes = end.codes if end.codes is not None and None not in found else found.pop() if len(found) == 1 else None
    parts = [_part(writer, node, value, layout=layout, as_float=codes is None) for value in values]
    parts = parts if codes is None else [writer.recoded(part, codes) for part in parts]
    axis = layout.index(attribute(node, "axis", 0) % len(layout))
    shape = arranged(shape_of(node.outputs[0], node), layout)
    writer.move(node, writer.emit(str(node.name), "CONCATENATION", parts, shape, codes=codes, options={"axis": axis}), layout)


def _part(writer: Writer, node: ir.Node, value: ir.Value, *, layout: Sequence[int], as_float: bool) -> Tensor:
    array = constant(value)
    if array is None:
        return writer.read(value, layout=tuple(layout), as_float=as_float)
    if not as_float:
        raise unsupported(node, f"it joins the constant {value.name} to codes")
    return writer.constant(f"{node.name}.{value.name}", array.transpose(layout))


def write_pad(writer: Writer, node: ir.Node) -> None:
    value = node.inputs[0]
    assert value is not None
    source, layout = writer.stored(value)
    mode = attribute(node, "mode", "constant")
    amounts = _amounts(node, len(layout))
    source = _cropped(writer, str(node.name), source, arranged(amounts, layout))
    grown = [(max(before, 0), max(after, 0)) for before, after in arranged(amounts, layout)]
    fill = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if not any(before or after for before, after in grown):
        made = source
    elif mode == "constant":
        number = 0.0 if fill is None else float(fill.item())
        if fill is not None and fill.dtype == np.int8 and source.codes is not None:
            number = (number - source.codes.zero_point) * source.codes.scale
        made = pad(writer, source, grown, fill=number)
    elif mode == "reflect":
        made = _mirrored(writer, source, grown, _REFLECT)
    elif mode == "edge":  # a mirror of one pixel is that pixel
        made = source
        for step in range(max(max(pair) for pair in grown)):
            made = _mirrored(writer, made, [(int(before > step), int(after > step)) for before, after in grown], _SYMMETRIC)
    else:
        raise unsupported(node, f"its mode is {mode}, expected constant, reflect or edge")
    writer.move(node, made, layout)


def _amounts(node: ir.Node, rank: int) -> list[tuple[int, int]]:
    pads = integers(node, 1) or []
    axes = [axis % rank for axis in integers(node, 3) or range(rank)]
    found = [(0, 0)] * rank
    for at, axis in enumerate(axes):
        found[axis] = (pads[at], pads[at + len(axes)])
    return found


def _mirrored(writer: Writer, source: Tensor, amounts: Sequence[tuple[int, int]], mode: int) -> Tensor:
    shape = [None if side is None else side + sum(pair) for side, pair in zip(source.shape, amounts, strict=True)]
    table = writer.constant(f"{source.name}.pads", np.array(amounts, np.int32))
    return writer.emit(f"{source.name}.mirrored", "MIRROR_PAD", [source, table], shape, codes=source.codes, options={"mode": mode})


def _cropped(writer: Writer, name: str, source: Tensor, amounts: Sequence[tuple[int, int]]) -> Tensor:
    """Return `source` without what is padded by less than nothing."""
    starts = [max(-before, 0) for before, _ in amounts]
    ends = [min(after, 0) or WHOLE for _, after in amounts]
    if not any(starts) and set(ends) == {WHOLE}:
        return source
    return sliced(writer, f"{name}.cropped", source, starts, ends, [1] * len(starts))


def write_slice(writer: Writer, node: ir.Node) -> None:
    assert node.inputs[0] is not None
    source, layout = writer.stored(node.inputs[0])
    rank = len(layout)
    starts, ends = integers(node, 1) or [], integers(node, 2) or []
    axes = [axis % rank for axis in integers(node, 3) or range(len(starts))]
    steps = integers(node, 4) or [1] * len(starts)
    if min(steps) < 1:
        raise unsupported(node, f"its steps are {steps}, expected 1 or more")
    whole: list[tuple[int, int, int]] = [(0, WHOLE, 1)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        whole[axis] = (max(start, -WHOLE), max(min(end, WHOLE), -WHOLE), step)
    columns = [list(column) for column in zip(*arranged(whole, layout), strict=True)]
    writer.move(node, sliced(writer, str(node.name), source, *columns), layout)


def sliced(writer: Writer, name: str, source: Tensor, starts: Sequence[int], ends: Sequence[int], steps: Sequence[int]) -> Tensor:
    """Add a STRIDED_SLICE; by stored axis, as Python slices, an end of 2³¹ - 1 being that of the axis."""
    begin_mask = sum(1 << axis for axis, start in enumerate(starts) if start == 0)
    end_mask = sum(1 << axis for axis, end in enumerate(ends) if end == WHOLE)
    shape = [_length(side, start, end, step) for side, start, end, step in zip(source.shape, starts, ends, steps, strict=True)]
    columns = (("begin", starts), ("end", [end if end != WHOLE else 0 for end in ends]), ("steps", steps))
    tables = [writer.constant(f"{name}.{what}", np.array(numbers, np.int32)) for what, numbers in columns]
    return writer.emit(
        name,
        "STRIDED_SLICE",
        [source, *tables],
        shape,
        codes=source.codes,
        dtype=source.dtype,
        options={"beginMask": begin_mask, "endMask": end_mask},
    )


def _length(side: Side, start: int, end: int, step: int) -> Side:
    if side is None:
        return None if end < 0 or end == WHOLE or start < 0 else math.ceil((end - start) / step)
    return len(range(*slice(start, None if end == WHOLE else end, step).indices(side)))


def write_split(writer: Writer, node: ir.Node) -> None:
    assert node.inputs[0] is not None
    source, layout = writer.stored(node.inputs[0])
    axis = layout.index(attribute(node, "axis", 0) % len(layout))
    sizes = integers(node, 1)
    if sizes is None:
        side, count = source.shape[axis], len(node.outputs)
        if side is None:
            raise unsupported(node, "it splits a free side evenly", hint="--window HxW")
        part = -(-side // count)
        sizes = [min(part, side - part * at) for at in range(count)]
    begin = 0
    for index, size in enumerate(sizes):
        starts, ends = [0] * len(layout), [WHOLE] * len(layout)
        starts[axis], ends[axis] = begin, begin + size
        name = f"{node.name}.{index}" if index else str(node.name)
        if node.outputs[index].name:
            writer.move(node, sliced(writer, name, source, starts, ends, [1] * len(layout)), layout, output=index)
        begin += size


def write_gather(writer: Writer, node: ir.Node) -> None:
    value = node.inputs[0]
    indices = constant(node.inputs[1])
    assert value is not None
    if indices is None:
        raise unsupported(node, "its indices are computed", hint="--window HxW")
    source, layout = writer.stored(value)
    axis = attribute(node, "axis", 0) % len(layout)
    if indices.ndim != 1:
        layout = as_in_onnx(len(layout))
        source = writer.read(value, layout=layout)
    side = source.shape[layout.index(axis)]
    places = indices.astype(np.int64)
    if side is None and places.min() < 0:
        raise unsupported(node, "it counts from the end of a free side", hint="--window HxW")
    counted = np.where(places < 0, places + (side or 0), places).astype(np.int32)
    made_layout = layout if indices.ndim == 1 else onnx_order(node.outputs[0], node)
    shape = arranged(shape_of(node.outputs[0], node), made_layout)
    table = writer.constant(f"{node.name}.indices", counted)
    made = writer.emit(str(node.name), "GATHER", [source, table], shape, codes=source.codes, options={"axis": layout.index(axis)})
    writer.move(node, made, made_layout)


def write_tile(writer: Writer, node: ir.Node) -> None:
    """Tile, and Expand as the tiles that it comes to."""
    value = node.inputs[0]
    assert value is not None
    before, after = shape_of(value, node), shape_of(node.outputs[0], node)
    if len(before) != len(after):
        raise unsupported(node, f"it makes {len(after)} axes of {len(before)}")
    if node.op_type == "Tile":
        repeats = integers(node, 1) or []
    elif None in before or None in after:
        raise unsupported(node, "the sides that it makes are free", hint="--window HxW")
    else:
        repeats = [(new or 1) // (old or 1) for old, new in zip(before, after, strict=True)]
    source, layout = writer.stored(value)
    table = writer.constant(f"{node.name}.repeats", np.array(arranged(repeats, layout), np.int32))
    made = writer.emit(str(node.name), "TILE", [source, table], arranged(after, layout), codes=source.codes)
    writer.move(node, made, layout)
