"""Lay out what convolutions write as CPU kernels are fast at: the written int8 graph in, the same function out.

blocks_of_channels
    See `export/graph/channel_blocks.py`.
pixels_as_channels
    Kernels compute 16 output channels at a time, and a layer that makes a picture has 3. With a kernel W' of side k + 1 and
    i, j in {0, 1},

        y[c, 2m + i, 2n + j] = (W'_(i,j,c) * x)[2m, 2n],    W'_(i,j,c)[a + i, b + j] = W_c[a, b],    0 elsewhere:

    a convolution of stride 2 makes four pixels at once, 12 channels, and a DepthToSpace puts them side by side: 12 of 16 lanes work
    instead of 3, for (k + 1)² / k² times the products. The output needs an even height and width.

plane_of_luma
    Of one channel, channels last is a row of single numbers, and what restores floats behind a DepthToSpace takes them one by one.
    (N, H, W) has rows to take: a Squeeze before, an Unsqueeze after.

Sums of integers are the same in any order, so that no code changes, but where a backend rounds a tie after other products of
floats.
What each saves is in `deploy_docs/passes.md`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.attributes import attribute, groups, has_own_pads
from export.graph.channel_blocks import change_outputs, convolution_before, stored_parameter, treats_alike
from export.graph.constants import new_constant
from export.graph.editing import discard, hand_over, insert_node, only_reader
from quantize.graph.parity import sizes_modulo_two

_LANES = 16  # output channels that one instruction of AVX-512 computes
_SIDE = 2  # of the square of pixels made at once: 3 wants sizes that three divides, and fills the lanes no better
_SMALLEST_KERNEL = 3  # a 1×1 layer becomes 2×2, four times the products
_PIXELS = ".pixels"  # ends the name of the DepthToSpace that puts four pixels side by side


def pixels_as_channels(graph: ir.Graph) -> None:
    """Let each convolution of few output channels make the four pixels of a square at once, where its output has even sides."""
    for layer in [node for node in graph if node.op_type == "Conv" and _wastes_lanes(node)]:
        chain = _chain_behind(layer.outputs[0])
        if sizes_modulo_two(layer.outputs[0]) != (0, 0) or not (chain[-1].is_graph_output() or _is_stored(chain[-1])):
            continue
        change_outputs(graph, layer, partial(np.tile, reps=_SIDE**2), kernel=_four_kernels)
        layer.attributes["strides"] = ir.AttrInt64s("strides", [_SIDE, _SIDE])
        layer.attributes.pop("kernel_shape", None)
        _put_side_by_side(graph, layer, chain)
    graph.sort()


def plane_of_luma(graph: ir.Graph) -> None:
    """Restore floats from the codes of one channel, (N, 1, H, W), as (N, H, W), where the codes were shuffled last."""
    for restore in [node for node in graph if node.op_type == "DequantizeLinear" and _is_shuffled_luma(node)]:
        codes, result = restore.inputs[0], restore.outputs[0]
        assert codes is not None
        axis = new_constant(graph, np.array([1]), name=f"{result.name}.channel")
        plane = insert_node(restore, "Squeeze", [codes, axis], like=ir.Value(type=codes.type))
        floats = insert_node(restore, "DequantizeLinear", [plane, *restore.inputs[1:]], like=ir.Value(type=result.type))
        hand_over(result, insert_node(restore, "Unsqueeze", [floats, axis], like=result))
        discard(restore)


def undo_layouts(graph: ir.Graph, like: ir.Graph) -> None:
    """Bring layers of the int8 `graph` back into the form in which the fp32 graph `like` has them, to be read beside those."""
    modes = {str(node.name): attribute(node, "mode", "DCR") for node in like if node.op_type == "DepthToSpace"}
    layers = {str(node.name): node for node in graph if node.op_type == "Conv"}
    for shuffle in [node for node in graph if node.op_type == "DepthToSpace"]:
        name, end = str(shuffle.name), shuffle.inputs[0]
        assert end is not None
        if name not in modes:
            _undo_pixels(graph, layers[name.removesuffix(_PIXELS)], shuffle)
        elif modes[name] != attribute(shuffle, "mode", "DCR"):
            layer = convolution_before(end)
            assert layer is not None
            change_outputs(graph, layer, partial(_in_channels, square=shuffle.attributes["blocksize"].as_int() ** 2))
            shuffle.attributes["mode"] = ir.AttrString("mode", modes[name])


def _undo_pixels(graph: ir.Graph, layer: ir.Node, shuffle: ir.Node) -> None:
    change_outputs(graph, layer, lambda array: array[: len(array) // _SIDE**2], kernel=_first_kernel)
    layer.attributes["strides"] = ir.AttrInt64s("strides", [1, 1])
    end = shuffle.inputs[0]
    assert end is not None
    hand_over(shuffle.outputs[0], end)
    discard(shuffle)


def _is_shuffled_luma(restore: ir.Node) -> bool:
    shape, codes = restore.outputs[0].shape, restore.inputs[0]
    shuffle = None if codes is None else codes.producer()
    return shuffle is not None and shuffle.op_type == "DepthToSpace" and shape is not None and len(shape) == 4 and shape[1] == 1


def _in_channels(array: NDArray[Any], *, square: int) -> NDArray[Any]:
    """(C·square, …) in DCR order -> the same in CRD order."""
    return array.reshape(square, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def _four_kernels(kernel: NDArray[Any]) -> NDArray[Any]:
    """(O, I, kH, kW) -> (4·O, I, kH + 1, kW + 1), the pixel slowest, as DCR has it."""
    outputs, inputs, height, width = kernel.shape
    moved = np.zeros((_SIDE, _SIDE, outputs, inputs, height + _SIDE - 1, width + _SIDE - 1), kernel.dtype)
    for row, column in np.ndindex(_SIDE, _SIDE):
        moved[row, column, :, :, row : row + height, column : column + width] = kernel
    return moved.reshape(-1, *moved.shape[3:])


def _first_kernel(kernels: NDArray[Any]) -> NDArray[Any]:
    """(O, I, kH, kW) of what `_four_kernels` gives as those."""
    return kernels[: len(kernels) // _SIDE**2, :, : 1 - _SIDE, : 1 - _SIDE]


def _wastes_lanes(layer: ir.Node) -> bool:
    weight = stored_parameter(layer, 1)
    return (
        weight is not None
        and weight.ndim == 4
        and _SIDE**2 * len(weight) <= _LANES
        and min(weight.shape[2:]) >= _SMALLEST_KERNEL
        and groups(layer) == 1
        and has_own_pads(layer)
        and set(attribute(layer, "strides", (1, 1))) == {1}
        and set(attribute(layer, "dilations", (1, 1))) == {1}
    )


def _chain_behind(value: ir.Value) -> list[ir.Value]:
    """Return `value`, and what operators make of it that treat every channel alike and read nothing else, up to stored codes."""
    reader = only_reader(value)
    if reader is None or _is_stored(value) or not treats_alike(reader):
        return [value]
    return [value, *_chain_behind(reader.outputs[0])]


def _is_stored(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "QuantizeLinear"


def _put_side_by_side(graph: ir.Graph, layer: ir.Node, chain: list[ir.Value]) -> None:
    """Put a DepthToSpace behind the last of `chain`, the values in four phases that begin with what `layer` writes."""
    end = chain[-1]
    readers = list(end.uses())
    shuffle = ir.node("DepthToSpace", [end], {"blocksize": _SIDE, "mode": "DCR"}, name=f"{layer.name}{_PIXELS}")
    made = shuffle.outputs[0]
    made.name, made.type, made.shape = f"{end.name}{_PIXELS}", end.type, end.shape
    graph.append(shuffle)
    for use in readers:
        use.node.replace_input_with(use.idx, made)
    if end.is_graph_output():
        graph.outputs[graph.outputs.index(end)] = made
        end.name, made.name = f"{end.name}.phases", end.name
    for value in chain:
        value.shape = None
