"""Find the picture that goes into somebody's file and the one that comes out: which tensors, their layout, type and sizes.

An (N, H, W, C) picture, as TensorFlow has it, is told by its channels, which stand last; it gets a Transpose, so that what is
behind takes and gives (N, C, H, W) like all else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from runtime.errors import UserError

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_CHANNELS = (1, 3)
_FIRST, _LAST = (0, 3, 1, 2), (0, 2, 3, 1)
"""Transposes that put the channels first, and last."""


@dataclass(frozen=True)
class Ends:
    """What the file takes: its channels, its (N, H, W), 0 where that is free, and which ends have their channels last."""

    channels: int
    fixed: tuple[int, int, int]
    turned: tuple[str, ...]


def find_ends(proto: onnx.ModelProto, path: Path) -> Ends:
    """Find the picture in and the one out, and turn them to (N, C, H, W) in place.

    Raises:
        UserError: not one float picture of 1 or 3 channels in and one out; names what there is.
    """
    graph = proto.graph
    if len(graph.input) != 1 or len(graph.output) != 1:
        taken, given = (", ".join(value.name for value in values) or "none" for values in (graph.input, graph.output))
        raise UserError(
            f"{path} has {len(graph.input)} inputs and {len(graph.output)} outputs ({taken}; {given}), "
            "expected a picture in and one out",
            hint="export the model with all else as constants",
        )
    for value in (*graph.input, *graph.output):
        _check_type(value, path)
    sizes = _sizes(graph.input[0])
    axis = _channel_axis(sizes) if len(sizes) == 4 else None
    if axis is None and len(sizes) == 4 and not any(sizes[side] for side in (1, 3)):
        axis, sizes = _trace_channels(proto, sizes)
    if axis is None:
        kind = TensorProto.DataType.Name(graph.input[0].type.tensor_type.elem_type)
        raise UserError(
            f"{path} takes {kind} {sizes}, expected FLOAT (N, C, H, W) or (N, H, W, C) with 1 or 3 channels; 0 is a free size",
            hint="export the model so",
        )
    fixed = (sizes[0], sizes[2], sizes[3]) if axis == 1 else (sizes[0], sizes[1], sizes[2])
    last = [axis == 3, _gives_channels_last(graph.output[0], otherwise=axis == 3)]
    if last[1]:
        _turn_output(graph)
    if last[0]:
        _turn_input(graph)
    _set_input(graph.input[0], (fixed[0], sizes[axis], *fixed[1:]))
    turned = tuple(name for name, is_last in zip(("input", "output"), last, strict=True) if is_last)
    return Ends(sizes[axis], fixed, turned)


def _check_type(value: onnx.ValueInfoProto, path: Path) -> None:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise UserError(f"{path}: {value.name} is a {str(kind).removesuffix('_type')}, expected a picture as a tensor of floats")
    element = value.type.tensor_type.elem_type
    if element not in FLOATS:
        name = TensorProto.DataType.Name(element)
        raise UserError(
            f"{path}: {value.name} is {name}, expected FLOAT: a network of floats, without casts of raw pixels at its ends",
            hint="export the model with float32 in and out; --io uint8 then writes a graph of raw pixels",
        )


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [max(dimension.dim_value, 0) for dimension in value.type.tensor_type.shape.dim]


def _channel_axis(sizes: list[int]) -> int | None:
    return next((axis for axis in (1, 3) if sizes[axis] in _CHANNELS), None)


def _gives_channels_last(value: onnx.ValueInfoProto, *, otherwise: bool) -> bool:
    """As the file says it of its output; the same as of its input where it says nothing."""
    sizes = _sizes(value)
    axis = _channel_axis(sizes) if len(sizes) == 4 else None
    return otherwise if axis is None else axis == 3


def _trace_channels(proto: onnx.ModelProto, sizes: list[int]) -> tuple[int | None, list[int]]:
    """Return the axis of the channels and the sizes, from the first convolution that reads the picture."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input[:1]:
            readers.setdefault(name, []).append(node)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for node, turned in _followed(proto.graph.input[0].name, readers):
        if node.op_type == "Conv" and node.input[1] in shapes:
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            axis, channels = (3 if turned else 1), shapes[node.input[1]][1] * groups
            if channels in _CHANNELS:
                return axis, [channels if index == axis else size for index, size in enumerate(sizes)]
    return None, sizes


def _followed(name: str, readers: dict[str, list[onnx.NodeProto]]) -> Iterator[tuple[onnx.NodeProto, bool]]:
    """Yield the operators that the picture goes through, and whether a Transpose put its channels first before them."""
    waiting, seen = [(name, False)], {name}
    while waiting:
        value, turned = waiting.pop(0)
        for node in readers.get(value, ()):
            yield node, turned
            turns = node.op_type == "Transpose" and [*node.attribute[0].ints] == list(_FIRST) if node.attribute else False
            if turns or node.op_type in ("Cast", "Identity", "Mul", "Add", "Sub", "Div", "Pad", "Clip"):
                new = [output for output in node.output if output not in seen]
                waiting += [(output, turned or turns) for output in new]
                seen.update(new)


def _turn_input(graph: onnx.GraphProto) -> None:
    old = graph.input[0].name
    graph.input[0].name = _unused_name(graph, f"{old}_nchw")
    graph.node.insert(0, helper.make_node("Transpose", [graph.input[0].name], [old], name=f"{old}_channels_last", perm=_LAST))


def _turn_output(graph: onnx.GraphProto) -> None:
    old = graph.output[0].name
    graph.output[0].name = _unused_name(graph, f"{old}_nchw")
    graph.output[0].type.tensor_type.ClearField("shape")
    graph.node.append(helper.make_node("Transpose", [old], [graph.output[0].name], name=f"{old}_channels_first", perm=_FIRST))


def _unused_name(graph: onnx.GraphProto, name: str) -> str:
    taken = {value for node in graph.node for value in (*node.input, *node.output)}
    while name in taken:
        name += "_"
    return name


def _set_input(value: onnx.ValueInfoProto, sizes: tuple[int, ...]) -> None:
    dimensions = value.type.tensor_type.shape.dim
    names = [dimension.dim_param for dimension in dimensions]
    for dimension, size, name in zip(dimensions, sizes, names, strict=True):
        dimension.Clear()
        if size:
            dimension.dim_value = size
        else:
            dimension.dim_param = name
